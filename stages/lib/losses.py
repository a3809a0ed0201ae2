"""How much surer a model is of rows that it was trained on than of rows that it never saw.

Loss is the mean over the tokens of the answers, in nats, measured on every split by the same code. A test split may be
harder than the training rows for any model, so what counts is how many times higher the tuned model's loss is on test
rows, beside the same of the base, which was trained on neither: what goes beyond that was learned by heart. Ratios,
because the base's losses are large and scatter: a difference of gaps would drown in that.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from stages.lib.figures import MODELS, Values, share
from stages.lib.statistics import FEWEST, interval, resampled_totals, totals

SPLITS = ("train", "validation", "test")
SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("id", pa.string()),
        ("group", pa.string()),
        ("tokens", pa.int64()),
        *((f"{model}_nll", pa.float64()) for model in MODELS),
    ]
)


def losses(table: pa.Table, resamples: int, seed: int) -> dict[str, Any]:
    """Loss of both models by split, and the gap between training and test rows.

    Args:
        table: as SCHEMA.
        resamples: of whole groups, behind the interval; each split is drawn by itself.
        seed: of the resamples.

    Returns:
        By model the loss of each split that has rows and its `gap` (test − train), and `by_heart`: test ÷ train of the
        tuned model over the same of the base (1: nothing learned by heart), with `low` and `high` where there are
        groups to draw.
    """
    by_split = {split: table.filter(pa.array([one == split for one in table["split"].to_pylist()])) for split in SPLITS}
    by_split = {split: part for split, part in by_split.items() if part.num_rows}
    means = {split: _loss(totals(_columns(part))) for split, part in by_split.items()}
    found: dict[str, Any] = {
        model: {split: float(value[place]) for split, value in means.items()} for place, model in enumerate(MODELS)
    }
    if not {"train", "test"} <= means.keys():
        return found
    gaps = means["test"] - means["train"]
    for place, model in enumerate(MODELS):
        found[model]["gap"] = float(gaps[place])
    return found | {"by_heart": {"ratio": float(_by_heart(means)), **_bounds(by_split, resamples, seed)}}


def _bounds(by_split: Mapping[str, pa.Table], resamples: int, seed: int) -> dict[str, float | None]:
    """The 95 % interval of the ratio; none where a split has too few groups."""
    groups = {split: by_split[split]["group"].to_pylist() for split in ("train", "test")}
    fewest = min(len(set(of_split)) for of_split in groups.values())
    if fewest < FEWEST:
        return {}
    # Another seed for each split: they are different rows, and their draws have nothing to do with each other.
    drawn = {
        split: _loss(resampled_totals(_columns(by_split[split]), of_split, resamples, seed + place))
        for place, (split, of_split) in enumerate(groups.items())
    }
    low, high = interval(_by_heart(drawn), fewest) or (None, None)
    return {"low": low, "high": high}


def _by_heart(losses: Mapping[str, Values]) -> Values:
    ratios = share(losses["test"], losses["train"])
    return share(ratios[..., 1], ratios[..., 0])


def _columns(part: pa.Table) -> dict[str, Values]:
    nats = np.stack([part[f"{model}_nll"].to_numpy() for model in MODELS], axis=1)
    tokens = np.stack([part["tokens"].to_numpy().astype(np.float64)] * len(MODELS), axis=1)
    return {"nll": nats, "tokens": tokens}


def _loss(sums: Mapping[str, Values]) -> Values:
    return share(sums["nll"], sums["tokens"])
