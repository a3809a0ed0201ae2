"""How far raters agree, beyond chance and as it is. Any number of raters; nobody need have rated every unit."""

import numpy as np
from numpy.typing import NDArray


def alpha(counts: NDArray[np.int64]) -> float | None:
    """Krippendorff's alpha for nominal values: 1 is full agreement, 0 is chance, below 0 is worse than chance.

    K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section E. Written here because the package
    `krippendorff` is under the GPL.

    Args:
        counts: (units, values), how many raters gave a unit each value. Units with fewer than two say nothing.

    Returns:
        None where no unit has two ratings, or all of them are the same value: then chance would agree as well.
    """
    pairable = counts[counts.sum(axis=1) >= 2]
    raters = pairable.sum(axis=1)
    ratings, of_value = raters.sum(), pairable.sum(axis=0)
    by_chance = ratings**2 - (of_value**2).sum()
    if by_chance == 0:
        return None
    agreeing = ((pairable**2 - pairable).sum(axis=1) / (raters - 1)).sum()
    return float(1 - (ratings - 1) * (ratings - agreeing) / by_chance)


def share(counts: NDArray[np.int64]) -> float | None:
    """The share of agreeing pairs among all pairs of ratings of the same unit; None where there is no pair."""
    raters = counts.sum(axis=1)
    pairs = (raters**2 - raters).sum()
    return float((counts**2 - counts).sum() / pairs) if pairs else None
