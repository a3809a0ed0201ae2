"""Rates: a share of rows, and how far it can be believed."""

import math
from statistics import NormalDist


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """The score interval of a rate (E. B. Wilson, 1927), which stays within 0 and 1, and has a width at both.

    Args:
        successes: of `n` trials that do not depend on each other.
        n: at least 1.
        level: of confidence.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate, part = successes / n, z**2 / n
    middle = (rate + part / 2) / (1 + part)
    reach = z / (1 + part) * math.sqrt(rate * (1 - rate) / n + part / (4 * n))
    # It holds its rate and keeps to shares by its formula, but for rounding.
    return max(0.0, min(middle - reach, rate)), min(1.0, max(middle + reach, rate))
