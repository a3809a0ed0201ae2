"""Two models on the same rows: their differences in any figures, and how much of each may be chance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from stages.lib.statistics import (
    FEWEST,
    Columns,
    Sums,
    holm,
    interval,
    resampled_totals,
    rounds_for,
    swap_p_value,
    swapped_totals,
    totals,
)

Name = TypeVar("Name")


@dataclass(frozen=True)
class Difference:
    """Of two models in one figure, second − first."""

    values: tuple[float, float]
    bounds: tuple[float, float] | None  # 95 % interval; None where groups are too few, or a resample has no value
    p: float | None  # None where a round of swaps has no value


def differences(
    columns: Columns,
    groups: Sequence[str],
    figures: Callable[[Sums], Sums],
    questions: int,
    resamples: int,
    seed: int,
) -> dict[str, Difference]:
    """Compare two models in every figure.

    Args:
        columns: (rows, 2, …) of each, to be summed; the models stand side by side.
        groups: of like rows, which are drawn, and change places, as one.
        figures: makes figures, (…, 2) of each, out of sums.
        questions: for which p is going to be `corrected`.
        resamples: behind each interval.
        seed: of resamples and swaps.
    """
    found = figures(totals(columns))
    drawn = figures(resampled_totals(columns, groups, resamples, seed)) if len(set(groups)) >= FEWEST else {}
    swapped = figures(swapped_totals(columns, groups, rounds_for(questions, resamples), seed))
    made = {}
    for name, (first, second) in found.items():
        bounds = interval(drawn[name][:, 1] - drawn[name][:, 0], len(set(groups))) if name in drawn else None
        made[name] = Difference((float(first), float(second)), bounds, swap_p_value(swapped[name]))
    return made


def corrected(found: Mapping[Name, Difference]) -> dict[Name, Difference]:
    """With p after Holm's correction for so many questions: among twenty, one differs by chance."""
    fair = iter(holm([one.p for one in found.values() if one.p is not None]))
    return {name: one if one.p is None else replace(one, p=next(fair)) for name, one in found.items()}
