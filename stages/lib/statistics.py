"""How sure a difference is: the paired bootstrap over groups of alike rows (Efron & Tibshirani 1993; Koehn 2004)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Figure = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """A mean as a ratio of sums, so that rows weigh what they are."""
    return numerator / denominator


def exponential(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Perplexity of nats over tokens."""
    return np.exp(numerator / denominator)


def paired_interval(
    base: Sequence[float],
    tuned: Sequence[float],
    weights: Sequence[float],
    groups: Sequence[str],
    resamples: int,
    seed: int,
    figure: Figure = ratio,
) -> Interval | None:
    """The interval of figure(tuned) − figure(base), both over the same resampled rows.

    Rows of one near-duplicate group are drawn together: they are not independent of each other.

    Args:
        base: numerators of the base by row.
        tuned: numerators of the tuned model by row.
        weights: denominators by row (1, tokens, bytes).
        groups: the group of each row.
        resamples: how often the groups are drawn anew.
        seed: of the draws.
        figure: makes the figure out of a sum of numerators and a sum of denominators.

    Returns:
        The 2.5th and 97.5th percentile, or None with fewer than two groups, where nothing can be said.
    """
    names, places = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        return None
    sums = np.zeros((3, len(names)))
    for row, values in enumerate((base, tuned, weights)):
        np.add.at(sums[row], places, np.asarray(values, dtype=np.float64))
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    of_base, of_tuned, of_weights = draws @ sums.T[:, 0], draws @ sums.T[:, 1], draws @ sums.T[:, 2]
    low, high = np.percentile(figure(of_tuned, of_weights) - figure(of_base, of_weights), [2.5, 97.5])
    return Interval(float(low), float(high))
