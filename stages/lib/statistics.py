"""How much of a difference may be chance, by groups of like rows.

An interval is the bootstrap's (B. Efron, 1979; for text scores P. Koehn, 2004). Whether two models differ at all is
asked by letting them change places (E. Noreen, 1989; S. Riezler & J. Maxwell, 2005), which claims no more than it knows
however few the groups are: of two, p is never below a half.

Every figure of an evaluation is a function of sums over rows: a mean is a sum over a count, perplexity a sum of nats
over a sum of tokens, BLEU a formula over summed counts. So all that a resample needs is its sums.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[np.float64]]  # each (rows, …)
Sums = dict[str, NDArray[np.float64]]

LEVEL = 0.05  # p below which a difference is called more than chance
FEWEST = 10  # groups, of which a bootstrap is asked: fewer have too few different resamples
ROUNDING = 1e-9  # of a figure: by so much it may differ with the order of a sum
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
    """Each column, (rows, 2, …), summed in each of at most `rounds` rounds: (rounds, 2, …).

    In a round, a coin decides for each group whether the two models change places. If they are equally good, that
    changes nothing but by chance. In the first round none does. Where groups are so few that `rounds` hold all that
    coins can say, each is one round, and no luck is in it.
    """
    count, by_group = _by_group(columns, groups)
    every = 2**count <= rounds
    if every:
        thrown = np.array(list(itertools.product((0, 1), repeat=count)), dtype=np.int8)
    else:
        thrown = np.random.default_rng(seed).integers(0, 2, size=(rounds, count), dtype=np.int8)
        thrown[0] = 0
    parts: list[Sums] = []
    for start in range(0, len(thrown), _DRAWS):
        coins = thrown[start : start + _DRAWS].astype(np.float64)
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


def interval(values: NDArray[np.float64], groups: int, level: float = 0.95) -> tuple[float, float] | None:
    """The expanded percentile interval of resampled values; None where a resample has no value.

    The percentiles lie further out, since resamples of few groups scatter too little, by √(n − 1) ÷ √n, and know their
    scatter no better than Student's t does (T. Hesterberg, "What Teachers Should Know About the Bootstrap", 2015,
    section 4.3). For 12 groups that are 0.9 and 99.1 instead of 2.5 and 97.5.

    Args:
        values: of a figure, in each resample.
        groups: that were drawn in each; at least 2.
        level: how often the interval is to hold the truth.
    """
    from scipy.special import ndtr, stdtrit  # half a second, which not everything that counts totals has to wait for

    if not np.isfinite(values).all():
        return None
    tail = ndtr(np.sqrt(groups / (groups - 1)) * stdtrit(groups - 1, (1 - level) / 2))
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def low_and_high(pair: tuple[float, float]) -> dict[str, float]:
    """An interval as reports hold it."""
    return {"low": pair[0], "high": pair[1]}


def swap_p_value(swapped: NDArray[np.float64]) -> float | None:
    """Two-sided: in how many rounds models that changed places differ as much as in the first, in which none did.

    Args:
        swapped: (rounds, 2) of a figure. A difference of a billionth of it is rounding.

    Returns:
        At least 1 ÷ rounds, since the first round counts as well; None where a round has no value.
    """
    if not np.isfinite(swapped).all():
        return None
    apart = np.abs(swapped[:, 1] - swapped[:, 0])
    return float((apart >= apart[0] - ROUNDING * np.abs(swapped).max()).mean())


def rounds_for(questions: int, rounds: int) -> int:
    """Rounds enough that Holm's correction for so many questions leaves a p far below LEVEL where nothing is chance."""
    return max(rounds, round(10 * questions / LEVEL))


def holm(values: Sequence[float]) -> list[float]:
    """p-values as if each question were the only one (S. Holm, 1979): among many, some differ by chance."""
    order = np.argsort(values, kind="stable")
    corrected = np.empty(len(values))
    corrected[order] = np.maximum.accumulate([(len(values) - rank) * values[place] for rank, place in enumerate(order)])
    return np.minimum(corrected, 1.0).tolist()
