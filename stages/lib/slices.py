"""Two models in one figure, slice by slice of the rows: which of the differences are more than chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.lib.figures import FIGURES, figures
from stages.lib.paired import Difference, corrected, differences
from stages.lib.statistics import Columns

FEW = 30  # rows, below which a difference is hardly ever told from chance


@dataclass(frozen=True)
class Slice:
    """The rows of one category."""

    name: str
    rows: int
    difference: Difference  # its interval is by itself, its p corrected for the number of slices


def slices(
    found: Columns, groups: Sequence[str], names: Sequence[str], figure: str, resamples: int, seed: int
) -> list[Slice]:
    """Compare two models in each slice.

    Args:
        found: `figures.columns` of both.
        groups: of like rows, the units of chance.
        names: the slice of each row.
        figure: one of FIGURES.
        resamples: behind each interval.
        seed: of the resamples.

    Returns:
        A slice a name, in the order of the names.
    """
    places, own = np.asarray(names), np.asarray(groups)
    needed = {name: found[name] for name in FIGURES[figure].needs}
    members = {name: places == name for name in sorted(set(names))}
    made = {}
    for name, chosen in members.items():
        part = {key: column[chosen] for key, column in needed.items()}
        made[name] = differences(part, own[chosen].tolist(), figures, len(members), resamples, seed)[figure]
    return [Slice(name, int(members[name].sum()), one) for name, one in corrected(made).items()]
