"""Two models in one figure, slice by slice of the rows: which of the differences are more than chance."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stages.lib.figures import FIGURES, figures
from stages.lib.statistics import (
    FEWEST,
    LEVEL,
    Columns,
    holm,
    interval,
    resampled_totals,
    rounds_for,
    swap_p_value,
    swapped_totals,
    totals,
)

FEW = 30  # rows, below which a difference is hardly ever told from chance


@dataclass(frozen=True)
class Slice:
    """The rows of one category. Of the figure, more is better."""

    name: str
    rows: int
    values: tuple[float, float]
    bounds: tuple[float, float] | None  # 95 % interval of the difference, by itself; None where groups are too few
    p: float | None  # after Holm's correction: among twenty slices, one differs by chance

    @property
    def judgement(self) -> str:
        """Of the second beside the first: `better`, `worse`, `same`, or `unclear` where it may be chance."""
        first, second = self.values
        if first == second:
            return "same"
        if self.p is None or self.p >= LEVEL:
            return "unclear"
        return "better" if second > first else "worse"


def slices(
    found: Columns, groups: Sequence[str], names: Sequence[str], figure: str, resamples: int, seed: int
) -> list[Slice]:
    """Compare two models in each slice.

    Args:
        found: `figures.columns` of both.
        groups: of like rows, the units of the bootstrap.
        names: the slice of each row.
        figure: one of FIGURES, of which more is better.
        resamples: behind each interval.
        seed: of the resamples.

    Returns:
        A slice a name, in the order of the names.
    """
    places, own = np.asarray(names), np.asarray(groups)
    needed = {name: found[name] for name in FIGURES[figure].needs}
    made = []
    for name in sorted(set(names)):
        members = places == name
        part = {key: column[members] for key, column in needed.items()}
        first, second = figures(totals(part))[figure].tolist()
        like = own[members].tolist()
        bounds = None
        if len(set(like)) >= FEWEST:
            drawn = figures(resampled_totals(part, like, resamples, seed))[figure]
            bounds = interval(drawn[:, 1] - drawn[:, 0])
        swapped = figures(swapped_totals(part, like, rounds_for(len(set(names)), resamples), seed))[figure]
        p = swap_p_value(second - first, swapped[:, 1] - swapped[:, 0])
        made.append(Slice(name, int(members.sum()), (first, second), bounds, p))
    corrected = iter(holm([one.p for one in made if one.p is not None]))
    return [one if one.p is None else replace(one, p=next(corrected)) for one in made]
