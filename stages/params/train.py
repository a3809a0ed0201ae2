"""How the model is tuned."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from stages.lib.params import Group, Real, Section, Share, Usual, Whole

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Optimizer = Literal[
    "adamw_torch_fused",
    "adamw_torch",
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "lion_8bit",
    "lion_32bit",
    "adafactor",
    "sgd",
]
Scheduler = Literal[
    "cosine", "linear", "constant", "cosine_with_min_lr", "cosine_with_restarts", "inverse_sqrt", "warmup_stable_decay"
]


class LoraParams(Group):
    """Low-rank updates (LoRA, arXiv:2106.09685), the trained part of `lora` and `qlora`."""

    r: Annotated[Whole, Field(ge=1), Usual(4, 64)]
    alpha: Annotated[Whole, Field(ge=1)]
    dropout: Annotated[Real, Field(ge=0, lt=1), Usual(0, 0.1)]
    target_modules: str | list[str]
    modules_to_save: list[str]
    use_rslora: bool
    use_dora: bool
    init_lora_weights: Literal["default", "gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora"]
    lr_ratio: Annotated[Real, Field(ge=1), Usual(1, 32)]
    more: dict[str, Any]

    @field_validator("target_modules")
    @classmethod
    def _something_is_named(cls, named: str | list[str]) -> str | list[str]:
        if not named:
            raise ValueError("a rule: name at least one module, or write all-linear")
        if isinstance(named, str):
            _pattern(named)
        return named


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error:
        raise ValueError(f"a rule: {text} is no regular expression") from None
    return text


class LaunchParams(Group):
    """More than one process: how many, and how `accelerate` has them share the work."""

    processes: Annotated[Whole, Field(ge=1), Usual(1, 64)]
    config: str | None

    @property
    def spreads(self) -> bool:
        """Whether training runs in processes of its own, which `accelerate` starts."""
        return self.processes > 1 or self.config is not None


class TrainParams(Section, section="train"):
    """`params.yaml: train`."""

    seed: Annotated[Whole, Field(ge=0, lt=2**32)] | None
    method: Literal["lora", "qlora", "full"]
    lr: Annotated[Real, Field(gt=0, le=1), Usual(2e-5, 5e-4)]
    epochs: Annotated[Real, Field(gt=0, le=10_000), Usual(1, 3)]
    max_steps: Annotated[Whole, Field(ge=1)] | None
    batch_size: Annotated[Whole, Field(ge=1), Usual(1, 16)]
    accumulation: Annotated[Whole, Field(ge=1), Usual(1, 16)]
    optimizer: Optimizer
    scheduler: Scheduler
    warmup: Annotated[Share, Usual(0, 0.1)]
    weight_decay: Annotated[Real, Field(ge=0), Usual(0, 0.1)]
    max_grad_norm: Annotated[Real, Field(gt=0), Usual(0.3, 1)]
    label_smoothing: Annotated[Real, Field(ge=0, lt=1), Usual(0, 0.1)]
    neftune: Annotated[Real, Field(gt=0), Usual(5, 15)] | None
    freeze: list[Annotated[str, AfterValidator(_pattern)]]
    compile: bool
    liger: bool
    gradient_checkpointing: bool | Literal["auto"]
    find_batch_size: bool
    precision: Precision
    evals_per_epoch: Annotated[Whole, Field(ge=1), Usual(1, 10)]
    early_stopping: Annotated[Whole, Field(ge=1)] | None
    lora: LoraParams
    more: dict[str, Any]
    launch: LaunchParams

    @property
    def recomputes(self) -> bool:
        """Whether activations are computed again; auto has become one or the other by the time training starts."""
        return self.gradient_checkpointing is True
