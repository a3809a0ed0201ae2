"""Two models compared: interval, p and correction are put together as they belong."""

import numpy as np
import pytest

from stages.lib.paired import Difference, corrected, differences


def means(sums):
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"mean": sums["a"] / sums["rows"], "root": np.sqrt(sums["a"] / sums["rows"])}


def found(first, second, groups=None, resamples=2000):
    pairs = np.stack([first, second], axis=1).astype(float)
    names = groups or [f"g{place}" for place in range(len(pairs))]
    return differences({"a": pairs, "rows": np.ones_like(pairs)}, names, means, 2, resamples, seed=1)


def test_a_difference_is_second_minus_first_with_its_interval_around_it():
    random = np.random.default_rng(3)
    first = random.random(60)
    one = found(first, first + 0.1 + random.normal(0, 0.1, 60))["mean"]
    assert one.values == pytest.approx((first.mean(), one.values[1]))
    assert one.bounds[0] < one.values[1] - one.values[0] < one.bounds[1]
    assert one.bounds[1] - one.bounds[0] == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(60), rel=0.3)
    assert one.p < 0.01
    mirrored = found(first + 0.1, first)["mean"]
    assert mirrored.bounds[1] < 0
    assert mirrored.p < 0.01


def test_of_few_groups_there_is_no_interval_but_an_honest_p():
    for count, bounded in ((9, False), (10, True)):
        one = found(np.zeros(90), np.ones(90), [f"g{place % count}" for place in range(90)])["mean"]
        assert (one.bounds is not None) == bounded
        assert one.p == pytest.approx(2 / 2**count, abs=0.01)


def test_a_figure_that_is_not_defined_has_neither():
    ways = found(np.full(20, -1.0), np.ones(20))
    assert ways["mean"].p < 0.05
    assert (ways["root"].bounds, ways["root"].p) == (None, None)  # of a number below zero


def test_only_what_has_a_p_counts_as_a_question():
    asked = {name: Difference((0, 1), None, p) for name, p in {"x": 0.04, "y": None, "z": 0.01}.items()}
    assert {name: one.p for name, one in corrected(asked).items()} == {"x": 0.04, "y": None, "z": 0.02}
    assert corrected({}) == {}
