"""Rates: Wilson's interval, by published values and by what it must never do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.rates import wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # R. G. Newcombe (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_those_of_the_literature(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_rate_lies_within_all_and_nothing_and_has_a_width(case: tuple[int, int]) -> None:
    successes, n = case
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert low < high
    assert wilson(successes, n, level=0.99)[0] <= low


@pytest.mark.parametrize("rate", [0.02, 0.5, 0.9])
def test_95_of_100_intervals_hold_the_truth(rate: float) -> None:
    drawn = np.random.default_rng(2).binomial(158, rate, 2000)
    held = [low <= rate <= high for low, high in (wilson(int(successes), 158) for successes in drawn)]
    assert 0.93 <= np.mean(held) <= 0.975
