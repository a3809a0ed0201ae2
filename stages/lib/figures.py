"""The figures of an evaluation, out of predictions: whoever has the file can find them again, but for rounding.

A figure is a function of sums over rows, so any part of the rows, and any resample of them, has the same figures.
"""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.lib import text_metrics
from stages.lib.statistics import Columns, Sums

MODELS = ("base", "tuned")  # the order of a pair
_MEANS = ("exact_match", "rouge1", "rouge2", "rougeL", "rougeLsum")
_BINS = 10

# What one model did with a row, after the model's name.
_OF_A_MODEL = {
    "answer": pa.string(),
    "finish": pa.string(),  # stop | length (cut off at max_new_tokens)
    "tokens": pa.int64(),  # of the answer, without the one that ended it
    "nll": pa.float64(),  # nats, summed over the reference's tokens with the one that ends it
    "text_nll": pa.float64(),  # the same without that one
    **dict.fromkeys((*_MEANS, "chrf"), pa.float64()),
    "calibration": pa.list_(pa.float64(), 3 * _BINS),  # as `calibration` has it
}
PREDICTIONS = pa.schema(
    [
        ("id", pa.string()),
        ("category", pa.string()),
        ("group", pa.string()),
        ("prompt", pa.string()),
        ("reference", pa.string()),
        ("tokens", pa.int64()),  # of the reference, with the one that ends it
        ("bytes", pa.int64()),  # UTF-8, of the reference as the template writes it
        *((f"{model}_{name}", kind) for model in MODELS for name, kind in _OF_A_MODEL.items()),
    ]
)


def columns(pair: Sequence[tuple[pa.Table, str]]) -> Columns:
    """What the figures of two models on the same rows are made of: (rows, 2) or (rows, 2, counts), to be summed.

    Args:
        pair: for each model the predictions (as PREDICTIONS, rows in the same order), and its name there. Scores that
            not both have are left out.
    """

    def stacked(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.stack(values, axis=1)

    def numbers(name: str) -> NDArray[np.float64]:
        return stacked([table[name].to_numpy().astype(np.float64) for table, _ in pair])

    def counts(metric: text_metrics.CorpusMetric) -> NDArray[np.float64]:
        return stacked(
            [
                metric.counts(table[f"{model}_answer"].to_pylist(), table["reference"].to_pylist())
                for table, model in pair
            ]
        )

    found = {"rows": np.ones((pair[0][0].num_rows, len(pair))), "tokens": numbers("tokens"), "bytes": numbers("bytes")}
    for name in ("nll", "text_nll", "calibration", *_MEANS):
        if all(f"{model}_{name}" in table.column_names for table, model in pair):
            found[name] = stacked(
                [np.array(table[f"{model}_{name}"].to_pylist(), dtype=float) for table, model in pair]
            )
    return found | {"bleu": counts(text_metrics.bleu), "chrf": counts(text_metrics.chrf)}


def figures(sums: Sums) -> Sums:
    """The figures of both models, (…, 2), out of sums over rows: all rows, a category's, or a resample's.

    One whose sums are not there is left out: an older Retune has not stored them.
    """
    found = {
        "perplexity": perplexity(sums["nll"], sums["tokens"]),
        "bits_per_byte": bits_per_byte(sums["text_nll"], sums["bytes"]),
        **{name: sums[name] / sums["rows"] for name in _MEANS if name in sums},
        "bleu": text_metrics.bleu.score(sums["bleu"]),
        "chrf": text_metrics.chrf.score(sums["chrf"]),
    }
    if "calibration" in sums:
        found["calibration_error"] = calibration_error(sums["calibration"])
    return found


def perplexity(nats: NDArray[np.float64], tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """The exponential of a token's loss, out of sums over rows: 1 is certainty. NaN where there are no tokens."""
    with np.errstate(all="ignore"):
        return np.exp(nats / tokens)


def bits_per_byte(nats: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits that a model needs for each byte of text, out of sums over rows: comparable between tokenizers."""
    with np.errstate(all="ignore"):
        return nats / size / math.log(2)


def calibration(confidence: Sequence[float], hits: Sequence[bool]) -> list[float]:
    """What a calibration error needs of some tokens, for ten bins of confidence: how many, their confidence, hits."""
    sure = np.asarray(confidence, dtype=np.float64)
    bins = np.minimum((sure * _BINS).astype(np.int64), _BINS - 1)
    counted = [np.bincount(bins, weights, _BINS) for weights in (np.ones(len(sure)), sure, np.asarray(hits, float))]
    return [float(value) for value in np.concatenate(counted)]


def calibration_error(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far a model's confidence in its next token is from how often it is right, 0 to 1 (ECE, Guo et al. 2017).

    Args:
        counts: (…, 30), sums of `calibration`. NaN where there are no tokens.
    """
    tokens, confidence, hits = np.moveaxis(counts.reshape(*counts.shape[:-1], 3, _BINS), -2, 0)
    with np.errstate(all="ignore"):
        return np.abs(confidence - hits).sum(-1) / tokens.sum(-1)
