"""Where records stand."""

import pyarrow as pa
import pytest

from stages.lib.places import Places

PLACES = Places.within(pa.table({"source": ["b", "a", "b", "b", "a"], "line": [7, 1, 2, 30, 5]}))


def test_a_place_is_a_file_and_a_line():
    assert [PLACES.of(row) for row in range(5)] == ["b:7", "a:1", "b:2", "b:30", "a:5"]


@pytest.mark.parametrize(
    ("rows", "but", "sentence"),
    [
        ([0], None, "b:7"),
        ([0, 1, 2], None, "b:7, a:1, b:2"),
        ([0, 1, 2, 3, 4], None, "b:7, a:1, b:2 and 2 more"),
        ([0, 1, 2, 3, 4], 4, "b:7, a:1, b:2 and 1 more"),
        ([0, 1, 2, 3, 4], 1, "b:7, b:2, b:30 and 1 more"),
        ([0, 1], 0, "a:1"),
    ],
)
def test_a_sentence_names_a_few_places_and_counts_the_others(rows, but, sentence):
    assert PLACES.few(rows, but) == sentence
