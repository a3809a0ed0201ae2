"""The benchmark that counts how often intervals hold the truth."""

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.coverage import ANY, HEART, by_group, experiments, lines, redrawn
from stages.lib.figures import MODELS, columns
from tests.lib.test_losses import table
from tests.test_compare import judged

RIGHT = [number % 3 > 0 for number in range(60)]


def found(before: list[bool], after: list[bool]) -> dict[str, np.ndarray]:
    tables = judged(before), judged(after)
    groups = tables[0]["group"].to_pylist()
    return by_group(columns([(one, "tuned") for one in tables]), groups)


@pytest.fixture(scope="module")
def known() -> pa.Table:
    random = np.random.default_rng(1)
    rows = {split: [(2 + one, 0.2 + one / 9) for one in random.random(40)] for split in ("train", "test")}
    return table(rows)


def test_intervals_of_models_that_differ_hold_the_truth_and_equal_ones_are_seldom_called_different(known):
    told = experiments(found([False, True] * 30, RIGHT), known, count=40, resamples=200, seed=3)
    for name in ("exact_match", "bits_per_byte", "chrf", HEART):
        assert told["bounded"][name] == 40
        assert 30 <= told["held"][name] <= 40, name
    assert told["called"]["exact_match"] <= 8
    assert told["called"][ANY] <= 8
    said = lines(told, 40)
    assert len(said) == len(told["bounded"]) + 3
    assert any(line.startswith("| by heart |") and line.endswith("| – |") for line in said)


def test_the_same_seed_counts_the_same(known):
    one, again = (experiments(found(RIGHT, RIGHT[::-1]), known, 3, 100, seed=5) for _ in range(2))
    assert one == again


def test_without_training_rows_there_is_no_such_figure(known):
    test_rows = known.filter(pa.array([split == "test" for split in known["split"].to_pylist()]))
    told = experiments(found(RIGHT, RIGHT[::-1]), test_rows, 2, 100, seed=5)
    assert HEART not in told["bounded"]


def test_a_group_that_is_drawn_twice_is_two_groups(known):
    drawn = redrawn(known, np.random.default_rng(2))
    for split in ("train", "test"):
        part = drawn.filter(pa.array([one == split for one in drawn["split"].to_pylist()])).to_pylist()
        assert len({row["group"] for row in part}) == 20
        assert len({row["id"] for row in part}) < len(part) == 40


def test_sums_by_group_are_those_of_all_rows():
    whole = columns([(judged(RIGHT), model) for model in MODELS])
    part = by_group(whole, [f"g{number // 2}" for number in range(60)])
    assert len(part["rows"]) == 30
    for name, column in whole.items():
        assert part[name].sum(axis=0) == pytest.approx(column.sum(axis=0))
