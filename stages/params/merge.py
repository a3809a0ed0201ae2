"""When and how the tuned model is shipped."""

from typing import Literal

from pydantic import model_validator

from stages.lib.params import Group, Real, Section


class Gate(Group):
    """A bound on one figure of `reports/eval.json`."""

    metric: str
    at_least: Real | None = None
    at_most: Real | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> "Gate":
        if self.at_least is None and self.at_most is None:
            raise ValueError("a rule: a gate needs at_least or at_most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError("a rule: no figure is at_least more than it is at_most")
        return self


class MergeParams(Section, section="merge"):
    """`params.yaml: merge`."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    gates: list[Gate]
