"""How much of a difference may be chance, by groups of like rows.

An interval is the bootstrap's (B. Efron, 1979; for text scores P. Koehn, 2004). Whether two models differ at all is
asked by letting them change places (E. Noreen, 1989; S. Riezler & J. Maxwell, 2005), which claims no more than it knows
however few the groups are: of two, p is never below a half, but for the luck of the coins.

Every figure of an evaluation is a function of sums over rows: a mean is a sum over a count, perplexity a sum of nats
over a sum of tokens, BLEU a formula over summed counts. So all that a resample needs is its sums.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[np.float64]]  # each (rows, …)
Sums = dict[str, NDArray[np.float64]]

LEVEL = 0.05  # p below which a difference is called more than chance
FEWEST = 10  # groups, of which a bootstrap is asked: with fewer its intervals are far too narrow
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
    count, by_group = _by_group(columns, groups)
    random = np.random.default_rng(seed)
    parts: list[Sums] = []
    for start in range(0, resamples, _DRAWS):
        draws = min(_DRAWS, resamples - start)
        weights = random.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
        with np.errstate(invalid="ignore"):  # an infinite loss gives resamples without a value
            parts.append({name: np.tensordot(weights, column, axes=1) for name, column in by_group.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in columns}


def swapped_totals(columns: Columns, groups: Sequence[str], rounds: int, seed: int) -> Sums:
    """Each column, (rows, 2, …), summed in each of `rounds` rounds: (rounds, 2, …).

    In a round, a coin decides for each group whether the two models change places. If they are equally good, that
    changes nothing but by chance.
    """
    count, by_group = _by_group(columns, groups)
    random = np.random.default_rng(seed)
    parts: list[Sums] = []
    for start in range(0, rounds, _DRAWS):
        coins = random.integers(0, 2, size=(min(_DRAWS, rounds - start), count)).astype(np.float64)
        with np.errstate(invalid="ignore"):
            parts.append({name: _swapped(column, coins) for name, column in by_group.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in columns}


def _swapped(column: NDArray[np.float64], coins: NDArray[np.float64]) -> NDArray[np.float64]:
    first, second = column.sum(axis=0)
    moved = np.tensordot(coins, column[:, 1] - column[:, 0], axes=1)
    return np.stack([first + moved, second - moved], axis=1)


def _by_group(columns: Columns, groups: Sequence[str]) -> tuple[int, Sums]:
    """How many groups there are, and each column summed over the rows of each."""
    names, places = np.unique(np.asarray(groups), return_inverse=True)
    return len(names), {name: _sum_by(places, len(names), column) for name, column in columns.items()}


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


def swap_p_value(difference: float, swapped: NDArray[np.float64]) -> float | None:
    """Two-sided: how often models that changed places differ as much as they did; None where a round has no value."""
    if not np.isfinite([difference, *swapped]).all():
        return None
    as_much = int((np.abs(swapped) >= abs(difference) * (1 - 1e-9)).sum())  # but for rounding
    return (as_much + 1) / (len(swapped) + 1)


def rounds_for(questions: int, rounds: int) -> int:
    """Rounds enough that Holm's correction for so many questions leaves a p that can be below LEVEL."""
    return max(rounds, round(2 * questions / LEVEL))


def holm(values: Sequence[float]) -> list[float]:
    """p-values as if each question were the only one (S. Holm, 1979): among many, some differ by chance."""
    order = np.argsort(values, kind="stable")
    corrected = np.empty(len(values))
    corrected[order] = np.maximum.accumulate([(len(values) - rank) * values[place] for rank, place in enumerate(order)])
    return np.minimum(corrected, 1.0).tolist()
