"""Fold the tuned weights into the base, prove that nothing changed on the way, and ship only what passed the gates.

Reads   models/base/, models/adapter/, data/prompts/test.parquet, data/predictions/, reports/eval.json (the gates)
Writes  models/merged/ : safetensors, tokenizer, chat template; plain `AutoModelForCausalLM.from_pretrained` loads it
        reports/merge.json
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib import artifacts, runtime
from stages.lib.errors import UserError, run
from stages.lib.params import load
from stages.lib.pinned import BASE, load_pinned
from stages.params.merge import Gate, MergeParams

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from stages.lib.tokens import Example

ADAPTER = Path("models/adapter")
PROMPTS = Path("data/prompts")
PREDICTIONS = Path("data/predictions/predictions.parquet")
EVAL = Path("reports/eval.json")
MERGED = Path("models/merged")
REPORT = Path("reports/merge.json")

COMPARED = 16  # test rows whose logits and greedy answers are compared
# How far a logit may move when updates are folded in: rounding of the weights, which grows with the type's step.
TOLERANCE = {"float32": 1e-2, "float16": 0.25, "bfloat16": 1.0}


@dataclass(frozen=True)
class Judged:
    """One test row as evaluate judged it."""

    example: "Example"
    answer: str  # of the tuned model


def merge(base: Path, adapter: Path, rows: Sequence[Judged], stop: "Stops", out: Path, dtype: str) -> dict[str, Any]:
    """Write the merged model into `out`, load it again as any program would, and compare it with the judged model.

    Returns:
        The largest difference of a logit, the share of `rows` with the same greedy answer, and how much was compared.

    Raises:
        UserError: when the merged model does not answer as the judged one did.
    """
    import torch

    from stages.lib import models

    pinned = load_pinned(base)
    kind = pinned.dtype if dtype == "auto" and pinned.dtype in TOLERANCE else dtype.replace("auto", "float32")
    tuned = models.load_tuned(pinned, adapter, getattr(torch, kind), base=base)
    expected = [_logits(tuned, row.example.ids) for row in rows]
    _write(tuned, stop, base, adapter, out)
    del tuned
    shipped = load_shipped(out)
    difference = max(
        (float((_logits(shipped, row.example.ids) - before).abs().max()) for row, before in zip(rows, expected, strict=True)),
        default=0.0,
    )
    if difference > TOLERANCE[kind]:
        raise UserError(
            f"the merged model's logits differ from the judged model's by up to {difference:.3g}, more than the "
            f"{TOLERANCE[kind]:g} that rounding to {kind} explains, so it was not kept. "
            "Set params.yaml: merge.dtype to float32; if it fails there too, please report a bug."
        )
    return {
        "dtype": kind,
        "max_logit_difference": round(difference, 6),
        "same_greedy_texts": _same_texts(shipped, rows, stop),
        "compared_rows": len(rows),
    }
