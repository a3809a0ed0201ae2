"""Fit training into memory without changing its outcome: fewer rows at once and more often, activations computed again.

Only divisors of the batch size are tried, so that a step keeps the very rows that params.yaml gives it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from stages.lib import adapter_rules, checkpoints, launch, memory, methods, models
from stages.lib.errors import UserError, warn
from stages.lib.memory import GIB, Demand, Estimate, gib, is_out
from stages.lib.packed import Packed
from stages.params.train import TrainParams

HEADROOM = 0.9  # of what is free: the estimate is a tenth or two off, and other processes want something too


@dataclass(frozen=True)
class Fit:
    """How training is going to use memory."""

    demand: Demand
    free: int  # bytes
    batch_size: int
    accumulation: int
    checkpointing: bool

    @property
    def estimate(self) -> Estimate:
        """What it takes."""
        return self.demand.at(self.batch_size, checkpointing=self.checkpointing)

    @property
    def fits(self) -> bool:
        """Whether that is there."""
        return self.estimate.total <= HEADROOM * self.free

    def with_batch(self, size: int) -> "Fit":
        """So many rows at once, a divisor of what it was, and as many a step as before."""
        return replace(self, batch_size=size, accumulation=self.accumulation * (self.batch_size // size))

    def settings(self) -> dict[str, Any]:
        """As params.yaml has them."""
        return {
            "batch_size": self.batch_size,
            "accumulation": self.accumulation,
            "gradient_checkpointing": self.checkpointing,
        }

    def figures(self) -> dict[str, Any]:
        """What reports/runtime/train.json says of it."""
        parts = vars(self.estimate) | {"total": self.estimate.total, "free": self.free}
        return self.settings() | {"memory_gib": {name: round(size / GIB, 3) for name, size in parts.items()}}


def plan(
    base: Path, rows: Packed, width: int | None, adapter: Any, state: Path, params: TrainParams, dtype: torch.dtype
) -> Fit:
    """Estimate the memory that training takes, choose how to fit it in, and say so.

    A run that goes on keeps the batch with which it began: another one gives sums that are rounded otherwise.

    Args:
        base: the folder of the base, of which the shapes are read, and no weight.
        rows: to train on.
        width: to which each row is padded, and where logits are made at every position; None for neither.
        adapter: peft's config of the adapter; None for method full.
        state: where checkpoints of an earlier run may lie.
        params: of the stage.
        dtype: what training computes in.

    Raises:
        UserError: as `methods.freeze`, `adapter_rules.drawn` and `launch.settings`.
    """
    from transformers import AutoConfig

    drawing = memory.drawing(AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False))
    methods.freeze(drawing, params)
    in_shares = launch.shards(launch.settings(params.launch))
    if adapter is not None:
        quantized = params.method == "qlora"
        drawing = adapter_rules.drawn(drawing, adapter, more=params.lora.more, quantized=quantized, in_shares=in_shares)
    demand = memory.demand(
        drawing,
        adapter,
        method=params.method,
        compute=dtype,
        optimizer=params.optimizer,
        device=models.device().type,
        length=width or int(rows.lengths.max()),
        trained=[width] * len(rows.trained) if width else rows.trained.tolist(),
        document=rows.document,
        shares=params.launch.processes if in_shares else 1,
        tiles=not (width or rows.weighted or params.label_smoothing),
    )
    former = checkpoints.batch_size(state) if params.find_batch_size else None
    sizes = divisors(params.batch_size) if params.find_batch_size else [params.batch_size]
    fit = choose(
        demand,
        memory.available(models.device()),
        batch_size=params.batch_size,
        accumulation=params.accumulation,
        # Of several processes each would choose for itself.
        checkpointing=params.gradient_checkpointing if not params.launch.spreads else params.recomputes,
        sizes=[former] if former else sizes,
    )
    if params.find_batch_size and tries(state):
        fit = replace(fit, batch_size=params.batch_size, accumulation=params.accumulation)
    else:
        warn_if_tight(fit, params.method)
    announce(fit, batch_size=params.batch_size, checkpointing=params.gradient_checkpointing)
    return fit


def tries(state: Path) -> bool:
    """Whether running out of memory can be tried: a GPU says so, where Linux ends the process; and only at first."""
    return models.device().type == "cuda" and checkpoints.batch_size(state) is None


def choose(
    demand: Demand,
    free: int,
    *,
    batch_size: int,
    accumulation: int,
    checkpointing: bool | Literal["auto"],
    sizes: Sequence[int],
) -> Fit:
    """The fastest way that fits by the estimate: the first of `sizes` that does, else the same with checkpointing.

    Where nothing fits it is what takes least: the estimate may err, so nothing is refused.
    """
    whole = Fit(demand, free, batch_size, accumulation, checkpointing=False)
    ways = (False, True) if checkpointing == "auto" else (checkpointing,)
    found = [replace(whole.with_batch(size), checkpointing=way) for way in ways for size in sizes]
    return next((one for one in found if one.fits), found[-1])


def by_trial(fit: Fit, attempt: Callable[[int], None]) -> Fit:
    """The largest batch with which `attempt(batch size)` does not run out of memory.

    Raises:
        MemoryError: when not even a single row at a time goes.
    """
    from accelerate.utils import find_executable_batch_size

    smaller = iter(divisors(fit.batch_size)[1:])

    def next_smaller() -> int:
        if size := next(smaller, 0):
            return size
        raise MemoryError("tried down to a single row at a time")

    def tried(batch_size: int) -> int:
        attempt(batch_size)
        return batch_size

    return fit.with_batch(find_executable_batch_size(tried, fit.batch_size, next_smaller)())


def divisors(number: int) -> list[int]:
    """From the number itself down to 1."""
    return [size for size in range(number, 0, -1) if number % size == 0]


def announce(fit: Fit, *, batch_size: int, checkpointing: bool | Literal["auto"]) -> None:
    """Say before the start what training will take, and what was chosen where params.yaml (the last two) leaves it."""
    print(f"train: {fit.estimate} of {gib(fit.free)} GiB free")
    if fit.checkpointing:
        why = "without it memory would not suffice" if checkpointing == "auto" else "set in params.yaml"
        print(f"train: gradient checkpointing is on: {why}")
    if fit.batch_size != batch_size:
        announce_batch(fit)


def announce_batch(fit: Fit) -> None:
    """Say how a step is cut."""
    total = fit.batch_size * fit.accumulation
    print(
        f"train: {fit.batch_size} rows at a time, {fit.accumulation} times a step, so that it fits: {total} as before"
    )


def warn_if_tight(fit: Fit, method: str) -> None:
    """Name the knobs where memory will not suffice by the estimate: Linux ends a process without a word."""
    if not fit.fits:
        warn(
            f"training may run out of memory: with batches of {_batch(fit)} it takes {fit.estimate}, and only "
            f"{gib(fit.free)} GiB are free. {_advice(fit, method)}"
        )


@contextmanager
def memory_errors_in_words(fit: Fit, method: str) -> Iterator[None]:
    """Answer running out of memory with the numbers, and the knobs that lower them."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out(error):
            raise
        reason = str(error).splitlines()
        raise UserError(
            f"out of memory with batches of {_batch(fit)}: by the estimate {fit.estimate}; {gib(fit.free)} GiB were "
            f"free at the start. {_advice(fit, method)}" + (f" ({reason[0]})" if reason else "")
        ) from None


def _batch(fit: Fit) -> str:
    return f"{fit.batch_size} × {fit.demand.length} tokens"


def _advice(fit: Fit, method: str) -> str:
    """What of params.yaml lowers memory, the harmless first; only what is not done yet."""
    ways = []
    if fit.batch_size > 1:
        ways.append(
            "lower train.batch_size and raise train.accumulation by the same factor (the result stays the same; "
            "train.find_batch_size does it for you)"
        )
    if not fit.checkpointing:
        ways.append("set train.gradient_checkpointing to true")
    ways.append("lower tokenize.max_length")
    if method != "qlora":
        ways.append(f"use train.method {'lora' if method == 'full' else 'qlora'}")
    ways.append("choose a smaller base")
    text = ", ".join(ways[:-1]) + f", or {ways[-1]}."
    return text[0].upper() + text[1:]
