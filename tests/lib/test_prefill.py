"""Prefill: every prompt is read once, in batches of like length."""

from hypothesis import given
from hypothesis import strategies as st

from stages.lib.prefill import batches, read
from tests.tiny import tiny_llama


@given(st.lists(st.integers(1, 500)), st.integers(1, 9))
def test_every_place_stands_in_one_batch_and_no_batch_is_too_large(lengths, size):
    found = batches(lengths, size)
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    assert all(0 < len(batch) <= size for batch in found)


def test_the_longest_prompts_come_first():
    assert batches([3, 90, 7, 90], 2) == [[1, 3], [2, 0]]


def test_prompts_end_in_the_last_column_which_is_still_to_be_read():
    found = read(tiny_llama(), [[5], [7, 8, 9]])
    assert found.ids[:, -1].tolist() == [5, 9]
    assert found.mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert found.cache.get_seq_length() == 2
