"""Packing: every example once, whole, no bin too full, and hardly any space lost."""

import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib import packing
from stages.lib.tokens import Example


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 64), max_size=80))
def test_every_example_lies_in_one_bin_and_no_bin_is_over_the_limit(lengths):
    bins = packing.best_fit_decreasing(lengths, limit=64)
    assert sorted(place for places in bins for place in places) == list(range(len(lengths)))
    assert all(0 < sum(lengths[place] for place in places) <= 64 for places in bins)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 64), max_size=80))
def test_no_two_bins_would_fit_into_one(lengths):
    """What any-fit packing guarantees: at most one bin is half empty or worse."""
    fill = sorted(sum(lengths[place] for place in places) for places in packing.best_fit_decreasing(lengths, limit=64))
    assert len(fill) < 2 or fill[0] + fill[1] > 64


def test_bins_are_at_least_as_full_as_first_fit_leaves_them():
    """Not a law (a lucky order can suit first-fit better), so judged on lengths like those of real answers."""
    draw = random.Random(7)
    lengths = [min(512, max(8, int(draw.lognormvariate(4.3, 0.8)))) for _ in range(3000)]
    bins = packing.best_fit_decreasing(lengths, limit=512)
    assert len(bins) <= len(first_fit(lengths, limit=512))
    assert sum(lengths) / (len(bins) * 512) > 0.99


def first_fit(lengths: list[int], limit: int) -> list[int]:
    spaces: list[int] = []
    for length in lengths:
        fitting = next((index for index, space in enumerate(spaces) if space >= length), None)
        if fitting is None:
            spaces.append(limit - length)
        else:
            spaces[fitting] -= length
    return spaces


def test_each_example_goes_where_it_leaves_the_least_space():
    assert packing.best_fit_decreasing([2, 7, 5, 3], limit=10) == [[1, 3], [2, 0]]


@pytest.mark.parametrize("length", [0, 17])
def test_an_example_that_fits_into_no_bin_is_our_own_mistake(length):
    with pytest.raises(ValueError, match=f"an example of {length} tokens does not fit into a bin of 16"):
        packing.best_fit_decreasing([4, length], limit=16)


def test_the_order_of_bins_depends_on_the_seed_alone_and_not_on_their_length():
    ids = [f"row-{place}" for place in range(64)]
    bins = [[place] for place in range(64)]
    once = packing.shuffled(bins, ids, seed=7)
    assert once == packing.shuffled(bins[::-1], ids, seed=7)
    assert once != bins
    assert once != packing.shuffled(bins, ids, seed=8)
    assert sorted(once) == bins


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 8), min_size=1, max_size=20))
def test_unpacking_gives_every_example_back(sizes):
    ids = [f"row-{place}" for place in range(len(sizes))]
    weights = [1 + place / 8 for place in range(len(sizes))]
    examples = [
        Example(ids=[place * 10 + token for token in range(size)], labels=[-100] * (size - 1) + [place], answer_start=0)
        for place, size in enumerate(sizes)
    ]
    batch = packing.examples(pa.array(ids), pa.array(weights), examples)
    bins = packing.best_fit_decreasing(sizes, limit=8)
    packed = packing.table(bins, pa.Table.from_batches([batch])).to_pylist()
    found = {}
    for row in packed:
        start = 0
        for id_, length, weight in zip(row["example_ids"], row["seq_lengths"], row["weights"], strict=True):
            found[id_] = (row["input_ids"][start : start + length], row["labels"][start : start + length], weight)
            start += length
        assert start == len(row["input_ids"]) == len(row["labels"])
    assert found == {
        id_: (example.ids, example.labels, weight) for id_, example, weight in zip(ids, examples, weights, strict=True)
    }


def test_a_split_without_rows_is_a_table_without_rows():
    packed = packing.table([], packing.EXAMPLES.empty_table())
    assert packed.schema == packing.SCHEMA
    assert packed.num_rows == 0
