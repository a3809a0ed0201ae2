"""How the model is tuned."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from stages.lib.params import Group, Real, Section, Share, Usual, Whole

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class LoraParams(Group):
    """Low-rank updates (LoRA, arXiv:2106.09685), the trained part of `lora` and `qlora`."""

    r: Annotated[Whole, Field(ge=1), Usual(4, 64)]
    alpha: Annotated[Whole, Field(ge=1)]
    dropout: Annotated[Real, Field(ge=0, lt=1), Usual(0, 0.1)]
    target_modules: str | list[str]

    @field_validator("target_modules")
    @classmethod
    def _something_is_named(cls, named: str | list[str]) -> str | list[str]:
        if not named:
            raise ValueError("a rule: name at least one module, or write all-linear")
        if isinstance(named, str):
            try:
                re.compile(named)
            except re.error:
                raise ValueError(f"a rule: {named} is no regular expression") from None
        return named


class TrainParams(Section, section="train"):
    """`params.yaml: train`."""

    method: Literal["lora", "qlora", "full"]
    lr: Annotated[Real, Field(gt=0, le=1), Usual(2e-5, 5e-4)]
    epochs: Annotated[Real, Field(gt=0, le=10_000), Usual(1, 3)]
    max_steps: Annotated[Whole, Field(ge=1)] | None
    batch_size: Annotated[Whole, Field(ge=1), Usual(1, 16)]
    accumulation: Annotated[Whole, Field(ge=1), Usual(1, 16)]
    scheduler: Literal["cosine", "linear", "constant"]
    warmup: Annotated[Share, Usual(0, 0.1)]
    weight_decay: Annotated[Real, Field(ge=0), Usual(0, 0.1)]
    max_grad_norm: Annotated[Real, Field(gt=0), Usual(0.3, 1)]
    gradient_checkpointing: bool
    precision: Precision
    evals_per_epoch: Annotated[Whole, Field(ge=1), Usual(1, 10)]
    early_stopping: Annotated[Whole, Field(ge=1)] | None
    lora: LoraParams
