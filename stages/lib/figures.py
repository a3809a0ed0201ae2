"""The figures of an evaluation, out of predictions: whoever has the file can find them again, but for rounding.

A figure is a function of sums over rows, so any part of the rows, and any resample of them, has the same figures.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.lib import text_metrics
from stages.lib.statistics import Columns, Sums

Values = NDArray[np.float64]

MODELS = ("base", "tuned")  # the order of a pair
_BINS = 10
_SCORES = ("exact_match", "rouge1", "rouge2", "rougeL", "rougeLsum")

# What one model did with a row, after the model's name.
_OF_A_MODEL = {
    "answer": pa.string(),
    "finish": pa.string(),  # stop | length (cut off at max_new_tokens)
    "tokens": pa.int64(),  # of the answer, without the one that ended it
    "nll": pa.float64(),  # nats, summed over the reference's tokens with the one that ends it
    "text_nll": pa.float64(),  # the same without that one
    **dict.fromkeys((*_SCORES, "chrf"), pa.float64()),
    "broken": pa.list_(pa.string()),  # kinds of constraints that the answer does not keep, strictly
    "broken_loosely": pa.list_(pa.string()),  # and those that it does not keep loosely either
    "copied": pa.bool_(),  # thirteen words in a row as in a training answer, and not as in its own prompt
    "calibration": pa.list_(pa.float64(), 3 * _BINS),  # as `calibration` has it
}
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("category", pa.string()),
        ("group", pa.string()),
        ("prompt_hash", pa.string()),  # xxh3_128 of the prompt, to join by
        ("question", pa.string()),  # what is asked, for people: without the template's marks
        ("prompt", pa.string()),
        ("reference", pa.string()),
        ("tokens", pa.int64()),  # of the reference, with the one that ends it
        ("bytes", pa.int64()),  # UTF-8, of the reference as the template writes it
        ("constraints", pa.list_(pa.string())),  # kinds of those that the row sets for an answer
        *((f"{model}_{name}", kind) for model in MODELS for name, kind in _OF_A_MODEL.items()),
    ]
)


def columns(pair: Sequence[tuple[pa.Table, str]]) -> Columns:
    """What the figures of two models on the same rows are made of: (rows, 2) or (rows, 2, counts), to be summed.

    Args:
        pair: for each model the predictions (as SCHEMA, rows in the same order), and its name there. What not both
            have, an older Retune has not stored: it is left out.
    """
    found = [_columns_of(table, model) for table, model in pair]
    shared = [name for name in found[0] if all(name in one for one in found)]
    return {name: np.stack([one[name] for one in found], axis=1) for name in shared}


def _columns_of(table: pa.Table, model: str) -> dict[str, Values]:
    def numbers(name: str) -> Values:
        return np.array(table[name].to_pylist(), dtype=np.float64)

    def lengths(name: str) -> Values:
        return np.array([len(kinds) for kinds in table[name].to_pylist()], dtype=np.float64)

    answers, references = table[f"{model}_answer"].to_pylist(), table["reference"].to_pylist()
    found = {
        "rows": np.ones(table.num_rows),
        "tokens": numbers("tokens"),
        "bytes": numbers("bytes"),
        "bleu": text_metrics.bleu.counts(answers, references),
        "chrf": text_metrics.chrf.counts(answers, references),
    }
    for name in ("nll", "text_nll", "calibration", "copied", *_SCORES):
        if f"{model}_{name}" in table.column_names:
            found[name] = numbers(f"{model}_{name}")
    if "constraints" in table.column_names:
        asked = found["constraints"] = lengths("constraints")
        found["constrained"] = (asked > 0).astype(np.float64)
        for way, broken in (("strict", "broken"), ("loose", "broken_loosely")):
            left = lengths(f"{model}_{broken}")
            found[f"instruction_{way}"] = asked - left
            found[f"prompt_{way}"] = found["constrained"] * (left == 0)
    return found


def perplexity(nats: Values, tokens: Values) -> Values:
    """The exponential of a token's loss, out of sums over rows: 1 is certainty. NaN where there are no tokens."""
    with np.errstate(all="ignore"):
        return np.exp(nats / tokens)


def bits_per_byte(nats: Values, size: Values) -> Values:
    """Bits that a model needs for each byte of text, out of sums over rows: comparable between tokenizers."""
    with np.errstate(all="ignore"):
        return nats / size / math.log(2)


def share(part: Values, whole: Values) -> Values:
    """A mean or a rate. NaN where there is nothing to divide by."""
    with np.errstate(all="ignore"):
        return part / whole


def calibration(confidence: Sequence[float], hits: Sequence[bool]) -> list[float]:
    """What a calibration error needs of some tokens, for ten bins of confidence: how many, their confidence, hits."""
    sure = np.asarray(confidence, dtype=np.float64)
    bins = np.minimum((sure * _BINS).astype(np.int64), _BINS - 1)
    counted = [np.bincount(bins, weights, _BINS) for weights in (np.ones(len(sure)), sure, np.asarray(hits, float))]
    return [float(value) for value in np.concatenate(counted)]


def calibration_error(counts: Values) -> Values:
    """How far a model's confidence in its next token is from how often it is right, 0 to 1 (ECE, Guo et al. 2017).

    Args:
        counts: (…, 30), sums of `calibration`. NaN where there are no tokens.
    """
    tokens, confidence, hits = np.moveaxis(counts.reshape(*counts.shape[:-1], 3, _BINS), -2, 0)
    return share(np.abs(confidence - hits).sum(-1), tokens.sum(-1))


class Figure(NamedTuple):
    """How a figure follows from sums over rows."""

    needs: tuple[str, ...]
    of: Callable[..., Values]


FIGURES = {
    "perplexity": Figure(("nll", "tokens"), perplexity),
    "bits_per_byte": Figure(("text_nll", "bytes"), bits_per_byte),
    "calibration_error": Figure(("calibration",), calibration_error),
    **{name: Figure((name, "rows"), share) for name in _SCORES},
    "bleu": Figure(("bleu",), text_metrics.bleu.score),
    "chrf": Figure(("chrf",), text_metrics.chrf.score),
    "copied": Figure(("copied", "rows"), share),
    # Named as in IFEval (Zhou et al. 2023, arXiv:2311.07911): by row, and by single constraint.
    **{f"prompt_{way}": Figure((f"prompt_{way}", "constrained"), share) for way in ("strict", "loose")},
    **{f"instruction_{way}": Figure((f"instruction_{way}", "constraints"), share) for way in ("strict", "loose")},
}


def figures(sums: Sums) -> Sums:
    """The figures of both models, (…, 2), out of sums over rows: all rows, a category's, or a resample's.

    One whose sums are not all there is left out.
    """
    return {
        name: figure.of(*(sums[need] for need in figure.needs))
        for name, figure in FIGURES.items()
        if all(need in sums for need in figure.needs)
    }
