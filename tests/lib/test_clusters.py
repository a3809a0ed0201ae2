"""Rows that repeat one another, counted by what they repeat."""

from hypothesis import given
from hypothesis import strategies as st

from stages.lib.clusters import Clusters


def test_a_cluster_is_a_row_and_all_that_repeat_it():
    clusters = Clusters.of([("a", "a"), ("near-a", "a"), ("a", "a"), ("b", "b")])
    assert clusters.sizes == {"a": 3, "b": 1}
    assert clusters.figures() == {"clusters": 2, "rows": 4, "largest": 3}


def test_the_copy_of_a_near_duplicate_belongs_to_what_that_one_repeats():
    clusters = Clusters.of([("b", "b"), ("b", "a"), ("b", "b")])
    assert clusters.sizes == {"a": 3}
    assert clusters.head("b") == clusters.head("a") == "a"


def test_without_repeats_every_figure_is_zero():
    assert Clusters.of([]).figures() == {"clusters": 0, "rows": 0, "largest": 0}


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=40))
def test_every_repeat_is_counted_once_and_under_a_row_that_repeats_no_other(pairs):
    dropped = [(str(max(pair)), str(min(pair))) for pair in pairs]  # a row repeats an earlier one
    clusters = Clusters.of(dropped)
    assert clusters.sizes.total() == len(dropped)
    assert not set(clusters.sizes) & {row for row, repeated in dropped if row != repeated}
