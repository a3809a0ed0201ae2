"""How clean records are shared out between train, validation and test."""

from typing import Annotated

from pydantic import Field, model_validator

from stages.lib.params import Real, Section, Usual


class SplitParams(Section, section="split"):
    """`params.yaml: split`."""

    validation: Annotated[Real, Field(ge=0, lt=1), Usual(0.05, 0.1)]
    test: Annotated[Real, Field(ge=0, lt=1), Usual(0.05, 0.2)]
    test_files: list[str]
    group_similarity: Annotated[Real, Field(gt=0, le=1), Usual(0.4, 0.7)]
    contamination: Annotated[Real, Field(gt=0, le=1), Usual(0.4, 0.8)]

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> "SplitParams":
        if self.validation + self.test >= 1:
            raise ValueError(
                "a rule: validation and test together must stay below 1, so that rows are left to train on"
            )
        return self
