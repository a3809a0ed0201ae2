"""How much of a difference may be chance: the bootstrap (B. Efron, 1979; for text scores P. Koehn, 2004), by group.

Every figure of an evaluation is a function of sums over rows: a mean is a sum over a count, perplexity a sum of nats
over a sum of tokens, BLEU a formula over summed counts. So all that a resample needs is its sums.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[np.float64]]  # each (rows, …)
Sums = dict[str, NDArray[np.float64]]

LEVEL = 0.05  # p below which a difference is called more than chance
_DRAWS = 128  # resamples drawn at once, so that memory holds 128 × groups weights


def totals(columns: Columns) -> Sums:
    """Each column, summed over its rows."""
    return {name: column.sum(axis=0) for name, column in columns.items()}


def resampled_totals(columns: Columns, groups: Sequence[str], resamples: int, seed: int) -> Sums:
    """Each column, summed over the rows of each of `resamples` resamples: (resamples, …).

    Whole groups are drawn, with replacement. Rows of a near-duplicate group succeed or fail together; drawn one by
    one they would make a difference look surer than it is. All columns see the same draws, so that what is compared
    within a resample is paired.
    """
    names, places = np.unique(np.asarray(groups), return_inverse=True)
    by_group = {name: _sum_by(places, len(names), column) for name, column in columns.items()}
    random = np.random.default_rng(seed)
    parts: list[Sums] = []
    for start in range(0, resamples, _DRAWS):
        draws = min(_DRAWS, resamples - start)
        weights = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws).astype(np.float64)
        with np.errstate(invalid="ignore"):  # an infinite loss gives resamples without a value
            parts.append({name: np.tensordot(weights, column, axes=1) for name, column in by_group.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in columns}


def _sum_by(places: NDArray[np.intp], groups: int, column: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.zeros((groups, *column.shape[1:]))
    np.add.at(sums, places, column)
    return sums


def interval(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float] | None:
    """The percentile interval of resampled values; None where a resample has no value."""
    if not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def p_value(differences: NDArray[np.float64]) -> float | None:
    """Two-sided: how often resampled differences lie beyond zero; None where a resample has no value.

    It belongs to the percentile interval: below 0.05 where that of 95 % keeps clear of zero. One is added to each
    count, so that no finite number of resamples calls anything impossible (Davison & Hinkley, 1997, section 4.2).
    """
    if not np.isfinite(differences).all():
        return None
    beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(differences) + 1))


def holm(values: Sequence[float]) -> list[float]:
    """p-values as if each question were the only one (S. Holm, 1979): among many, some differ by chance."""
    order = np.argsort(values, kind="stable")
    corrected = np.empty(len(values))
    corrected[order] = np.maximum.accumulate([(len(values) - rank) * values[place] for rank, place in enumerate(order)])
    return np.minimum(corrected, 1.0).tolist()
