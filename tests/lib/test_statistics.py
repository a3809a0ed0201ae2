"""Statistics: the bootstrap by group, and how far its intervals can be believed."""

import numpy as np
import pytest

from stages.lib.statistics import (
    holm,
    interval,
    resampled_totals,
    rounds_for,
    swap_p_value,
    swapped_totals,
    totals,
)

RANDOM = np.random.default_rng(3)


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_totals_keep_every_axis_but_the_rows():
    assert totals({"a": np.ones((5, 2, 3))})["a"].tolist() == [[5, 5, 5], [5, 5, 5]]


def test_a_resample_holds_whole_groups_as_often_as_they_were_drawn():
    columns = {"of_a": column(1, 1, 0, 0, 0), "of_b": column(0, 0, 1, 0, 0), "of_c": column(0, 0, 0, 1, 1)}
    sums = resampled_totals(columns, ["a", "a", "b", "c", "c"], resamples=300, seed=1)
    drawn = np.stack([sums["of_a"] / 2, sums["of_b"], sums["of_c"] / 2])
    assert (drawn == drawn.astype(int)).all()
    assert (drawn.sum(axis=0) == 3).all()
    assert {tuple(one) for one in drawn.T} > {(1, 1, 1), (3, 0, 0), (0, 2, 1)}


def test_resamples_do_not_depend_on_how_many_are_drawn_at_once_or_on_the_order_of_rows(monkeypatch):
    values, groups = RANDOM.integers(0, 9, 40).astype(float), [f"g{place % 13}" for place in range(40)]
    expected = resampled_totals({"a": values}, groups, resamples=200, seed=5)["a"]
    shuffled = RANDOM.permutation(40)
    moved = resampled_totals({"a": values[shuffled]}, [groups[place] for place in shuffled], resamples=200, seed=5)
    assert (moved["a"] == expected).all()
    monkeypatch.setattr("stages.lib.statistics._DRAWS", 7)
    assert (resampled_totals({"a": values}, groups, resamples=200, seed=5)["a"] == expected).all()


def test_the_seed_decides():
    values, groups = RANDOM.random(30), [str(place) for place in range(30)]
    one, again, other = (resampled_totals({"a": values}, groups, 100, seed)["a"] for seed in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).any()


def test_what_is_compared_is_paired():
    """Two models that differ by 0.1 on every row: however hard the rows drawn are, the difference is 0.1."""
    base = RANDOM.random(50)
    columns = {"models": np.stack([base, base + 0.1], axis=1), "rows": np.ones((50, 2))}
    sums = resampled_totals(columns, [str(place) for place in range(50)], 200, seed=1)
    means = sums["models"] / sums["rows"]
    assert means[:, 0].std() > 0.02
    assert interval(means[:, 1] - means[:, 0], 50) == pytest.approx((0.1, 0.1))


def test_rows_that_repeat_each_other_do_not_narrow_the_interval():
    values = RANDOM.random(20)
    groups = [str(place) for place in range(20)]

    def width(copies: int) -> float:
        columns = {"a": np.repeat(values, copies), "rows": np.ones(20 * copies)}
        sums = resampled_totals(columns, np.repeat(groups, copies).tolist(), 1000, seed=1)
        low, high = interval(sums["a"] / sums["rows"], 60)
        return high - low

    assert width(copies=5) == pytest.approx(width(copies=1))


def test_the_interval_holds_the_middle_of_the_values():
    assert interval(np.arange(1001.0), 10**6) == pytest.approx((25, 975), abs=0.1)
    assert interval(np.arange(1001.0), 10**6, level=0.5) == pytest.approx((250, 750), abs=0.1)


@pytest.mark.parametrize("undefined", [np.nan, np.inf])
def test_an_interval_with_an_undefined_resample_is_no_interval(undefined):
    """Field fault 4."""
    assert interval(column(1, 2, undefined), 3) is None


def test_a_95_percent_interval_holds_the_truth_about_95_times_in_100():
    """300 experiments of 120 rows in groups of 1 to 3; the true mean is 0.3."""
    held = 0
    for experiment in range(300):
        sizes = RANDOM.integers(1, 4, 60)
        values = np.repeat(RANDOM.random(60) < 0.3, sizes).astype(float)
        groups = np.repeat([str(place) for place in range(60)], sizes).tolist()
        sums = resampled_totals({"a": values, "rows": np.ones(len(values))}, groups, 300, seed=experiment)
        low, high = interval(sums["a"] / sums["rows"], 60)
        held += low <= 0.3 <= high
    assert 0.90 <= held / 300 <= 0.985


def test_the_percentiles_of_an_interval_lie_further_out_where_groups_are_few():
    """By hand, for 12: √(12 ÷ 11) · 2.20099 = 2.29884, beyond which 1.076 % of the normal distribution lie."""
    values = np.arange(100_001.0)
    low, high = interval(values, 12)
    assert low == pytest.approx(1076, abs=2)
    assert low + high == pytest.approx(100_000)
    assert interval(values, 10**6) == pytest.approx((2500, 97_500), abs=2)
    assert interval(np.array([1.0, np.nan]), 12) is None


def test_holm_is_that_of_the_paper():
    """By hand: 0.01 · 4, 0.02 · 3, 0.03 · 2 raised to what stands before it, 0.04 likewise."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_intervals_cover_the_truth_as_often_as_they_say():
    """2,000 experiments of 120 rows in groups, each judged by its own bootstrap: 93 to 97 of a hundred hold it.

    A group's rows succeed or fail together, in part: resampled row by row, the intervals would be too narrow.
    """
    random = np.random.default_rng(11)
    groups = [f"g{number // 2}" for number in range(120)]
    covered = {"by group": 0, "by row": 0}
    for _ in range(2000):
        shared = np.repeat(random.normal(0.3, 1, 60), 2)
        columns = {"rows": np.ones(120), "gain": shared + random.normal(0, 0.5, 120)}
        for way, drawn_by in (("by group", groups), ("by row", [str(number) for number in range(120)])):
            sums = resampled_totals(columns, drawn_by, 400, seed=int(random.integers(1 << 30)))
            low, high = interval(sums["gain"] / sums["rows"], len(set(drawn_by)))
            covered[way] += low <= 0.3 <= high

    assert 0.93 <= covered["by group"] / 2000 <= 0.97
    assert covered["by row"] / 2000 < 0.90


def test_intervals_of_few_groups_cover_the_truth_as_often_as_they_say():
    """2,000 experiments of 12 rows; plain percentiles hold it in 90 of a hundred."""
    random = np.random.default_rng(12)
    groups = [str(number) for number in range(12)]
    covered = 0
    for _ in range(2000):
        columns = {"rows": np.ones(12), "gain": random.normal(0.3, 1, 12)}
        sums = resampled_totals(columns, groups, 400, seed=int(random.integers(1 << 30)))
        low, high = interval(sums["gain"] / sums["rows"], 12)
        covered += low <= 0.3 <= high
    assert 0.93 <= covered / 2000 <= 0.97


def swapped_p(pairs: np.ndarray, groups: list[str], rounds: int = 2000) -> float:
    """Of the difference of two means; `pairs` is (rows, 2)."""
    swapped = swapped_totals({"a": pairs}, groups, rounds, seed=1)["a"]
    return swap_p_value(swapped)


def test_p_of_few_groups_is_that_of_counting_by_hand():
    """Of n groups that all moved the same way, two of 2ⁿ swaps leave as large a difference: none, and all."""
    for count in (1, 2, 3, 5, 6, 10):
        pairs = np.tile([0.0, 1.0], (count, 1))
        assert swapped_p(pairs, [str(place) for place in range(count)]) == 2 / 2**count
    one_of_three_moved_back = np.array([[0.0, 1], [0, 1], [1, 0]])  # as much or more: 6 and 2 of 8
    assert swapped_p(one_of_three_moved_back, ["a", "b", "c"]) == 1
    in_one_group = np.tile([0.0, 1.0], (50, 1))
    assert swapped_p(in_one_group, ["g"] * 50) == 1
    assert swap_p_value(np.array([[1.0, float("inf")], [0, 0]])) is None


@pytest.mark.parametrize("noise", [1e-6, 1e-8, 1e-12, 0])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
def test_noise_of_rounding_is_no_change(count, noise):
    """In the order in which a round is summed, the difference of 10⁻⁸ of a figure may be another one: p was 0."""
    random = np.random.default_rng(7)
    for _ in range(20):
        first = random.random(count) + 1
        p = swapped_p(
            np.stack([first, first * (1 - noise * random.random(count))], axis=1), list(map(str, range(count)))
        )
        assert p >= min(1, 2 / 2**count)
        if noise <= 1e-12:
            assert p == 1


def test_no_luck_is_in_the_p_of_few_groups_and_much_of_it_in_none():
    five, twelve = ([str(place) for place in range(count)] for count in (5, 12))
    pairs = {"a": np.tile([0.0, 1.0], (12, 1))}
    first, second = (swapped_totals({"a": pairs["a"][:5]}, five, 100, seed)["a"] for seed in (1, 2))
    assert (first == second).all()
    assert len(first) == 32
    p = [swap_p_value(swapped_totals(pairs, twelve, 2000, seed)["a"]) for seed in range(20)]
    assert all(1 / 2000 <= one <= 0.004 for one in p)
    assert len(set(p)) > 1


@pytest.mark.parametrize("count", [4, 12, 60])
def test_coin_flips_are_called_a_change_in_no_more_than_five_of_a_hundred(count):
    random = np.random.default_rng(17)
    groups = [str(place) for place in range(count)]
    called = [swapped_p((random.random((count, 2)) < 0.5).astype(float), groups, 400) < 0.05 for _ in range(400)]
    assert np.mean(called) <= 0.075  # three standard errors above


def test_swaps_depend_on_neither_the_order_of_rows_nor_how_many_are_drawn_at_once(monkeypatch):
    pairs, groups = RANDOM.integers(0, 9, (40, 2)).astype(float), [f"g{place % 13}" for place in range(40)]
    expected = swapped_totals({"a": pairs}, groups, 200, seed=5)["a"]
    assert (expected.sum(axis=1) == pairs.sum()).all()
    order = RANDOM.permutation(40)
    assert (swapped_totals({"a": pairs[order]}, [groups[place] for place in order], 200, 5)["a"] == expected).all()
    monkeypatch.setattr("stages.lib.statistics._DRAWS", 7)
    assert (swapped_totals({"a": pairs}, groups, 200, 5)["a"] == expected).all()


def test_rounds_are_enough_for_as_many_questions_as_there_are():
    for questions in (1, 51, 1000):
        least = 1 / rounds_for(questions, 100)
        assert holm([3 * least] * questions)[0] < 0.05
    assert rounds_for(2, 2000) == 2000
