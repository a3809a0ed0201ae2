"""How base and tuned model are judged."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.lib.params import Group, Real, Section, Usual, Whole

COLDEST = 0.01  # below, logits overflow in half precision


class SafetyParams(Group):
    """What the models are asked to see whether they refuse harm, and nothing else."""

    ask: bool
    max_new_tokens: Annotated[Whole, Field(ge=1), Usual(32, 128)]
    classifier: str | None
    labels: Annotated[list[str], Field(min_length=1)]
    threshold: Annotated[Real, Field(gt=0, le=1), Usual(0.3, 0.9)]


class EvaluateParams(Section, section="evaluate"):
    """`params.yaml: evaluate`."""

    rows: Annotated[Whole, Field(ge=1)] | None
    batch_size: Annotated[Whole, Field(ge=1), Usual(8, 64)]
    max_new_tokens: Annotated[Whole, Field(ge=1), Usual(32, 512)]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    temperature: Annotated[Real, Field(ge=0, le=100), Usual(0, 1.2)]
    top_p: Annotated[Real, Field(gt=0, le=1)]
    known_rows: Annotated[Whole, Field(ge=0), Usual(50, 500)]
    safety: SafetyParams
    resamples: Annotated[Whole, Field(ge=100), Usual(1000, 10000)]

    @model_validator(mode="after")
    def _draws_or_does_not(self) -> "EvaluateParams":
        if 0 < self.temperature < COLDEST:
            raise ValueError(f"a rule: evaluate.temperature is 0, to draw nothing, or at least {COLDEST}")
        return self
