"""How a noisy curve moves: changes with their uncertainty, and spikes, by ranks and medians.

Single steps of a training scatter widely and lopsidedly (one batch is hard, another easy), so means and straight lines
mislead: one outlier moves them. All is done on logarithms, since the scatter of a loss grows with the loss.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

# Width of intervals in standard errors: chance alone passes it once in 370 times. A diagnosis asks a dozen questions of
# each run, and at the usual 1.96 every second healthy run would be given a fault.
SURE = 3.0
TINY = 1e-6  # what is smaller counts as this: zero has no logarithm, and nobody tells the two apart
MOST = 300  # values of a stretch that are compared, each a mean of neighbours: pairs grow with the square
WINDOW = 11  # steps around one, by which it is judged: what a spike lasts is less than half of it
LASTS = 2  # steps, the least that make a spike


@dataclass(frozen=True)
class Change:
    """How many times as large later values are: the estimate, and an interval of SURE standard errors."""

    low: float
    ratio: float
    high: float

    @property
    def fell(self) -> bool:
        """Surely lower than before."""
        return self.high < 1

    @property
    def rose(self) -> bool:
        """Surely higher than before."""
        return self.low > 1

    def within(self, share: float) -> bool:
        """Surely no more than this share away from no change at all."""
        return self.low > 1 - share and self.high < 1 + share


def change(before: Values, after: Values) -> Change:
    """Compare two stretches of a curve: the median ratio of all pairs, and its distribution-free interval.

    J. L. Hodges and E. L. Lehmann (1963); the interval by L. E. Moses, out of the ranks of H. B. Mann and
    D. R. Whitney (1947), whose normal approximation is good from about eight values a side.
    """
    first, second = _logarithms(before), _logarithms(after)
    pairs = np.sort(np.subtract.outer(second, first), axis=None)
    spread = np.sqrt(len(pairs) * (len(first) + len(second) + 1) / 12)
    outermost = int(max(len(pairs) / 2 - SURE * spread, 0))
    low, middle, high = np.exp([pairs[outermost], np.median(pairs), pairs[len(pairs) - 1 - outermost]])
    return Change(float(low), float(middle), float(high))


def _logarithms(values: Values) -> Values:
    parts = np.array_split(values, min(len(values), MOST))
    return np.log(np.maximum([part.mean() for part in parts], TINY))


def spikes(values: Values, times: float) -> list[int]:
    """Places, from the WINDOW-th on, at which a curve jumps to `times` the median of its neighbourhood or more.

    A jump has to last: one tall step is a hard batch, but what an update has broken shows in the next batch, too. And
    it has to stand out of the curve's own scatter by six standard deviations, as the median of absolute deviations
    tells them. Each is named by its tallest step. The first steps are left out: there a curve falls too steeply to have
    a neighbourhood.
    """
    if len(values) < 2 * WINDOW:
        return []
    logs = np.log(np.maximum(values, TINY))
    around = np.lib.stride_tricks.sliding_window_view(np.pad(logs, WINDOW // 2, mode="reflect"), WINDOW)
    above = logs - np.median(around, axis=1)
    scatter = 1.4826 * np.median(np.abs(above))  # of a normal distribution, the standard deviation
    places = np.flatnonzero(above >= max(np.log(times), 6 * scatter))
    places = places[places >= WINDOW]
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    return [int(run[np.argmax(above[run])]) for run in runs if len(run) >= LASTS]
