"""Which records stand in another split than before, and why."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.lib import moves

SETTINGS = {"split.test": 0.2, "split.test_files": [], "seed": 7}


def placed(*rows):
    """A table of `id group split`; a row's place is its id in a file."""
    fields = [row.split() for row in rows]
    return pa.table(
        {
            "id": [name for name, *_ in fields],
            "place": [f"{name}.json:1" for name, *_ in fields],
            "group": [group for _, group, _ in fields],
            "split": [split for *_, split in fields],
        }
    )


@pytest.fixture
def told(tmp_path):
    """`told(before, now)`: what is said of two runs after one another."""

    def of(before, now, **changed):
        moves.remember(tmp_path / "memory", before, SETTINGS)
        return moves.told(moves.remembered(tmp_path / "memory"), now, SETTINGS | changed)

    return of


BEFORE = placed("a a train", "b a train", "c c test", "d d validation")


@pytest.mark.parametrize(
    ("now", "sentences"),
    [
        (["a a train", "b a train", "c c test", "d d validation"], []),
        (["b b train", "c c test", "d d validation", "e e test"], []),  # one is gone and one is new: no move
        (
            ["a a test", "b a test", "c a test", "d d validation", "e a test"],
            ["2 rows went from train to test since the last run here: new rows are like them (e.json:1)."],
        ),
        (
            ["a 1 train", "b 1 train", "c 1 train", "d 1 train", *(f"{name} 1 train" for name in "12345")],
            [
                "1 row went from test to train since the last run here: new rows are like them "
                "(1.json:1, 2.json:1, 3.json:1, 2 more).",
                "1 row went from validation to train since the last run here: new rows are like them "
                "(1.json:1, 2.json:1, 3.json:1, 2 more).",
            ],
        ),
        (
            ["a a test", "b b test", "c c test", "d d validation", "e b test", "f a test"],
            ["2 rows went from train to test since the last run here: new rows are like them (f.json:1, e.json:1)."],
        ),  # one sentence, though the rows are of two groups
        (
            ["b b test", "c c test", "d d validation"],
            ["1 row went from train to test since the last run here: rows like them are gone."],
        ),
        (
            ["a a train", "b b test", "c c test", "d d validation", "e e train"],
            [
                "1 row went from train to test since the last run here: what many rows share "
                "is nobody's own, and with the rows around it their group has changed."
            ],
        ),
        (
            ["a a train", "b a train", "c c validation", "e e test"],
            ["1 row went from test to validation since the last run here: no split may be empty."],
        ),
    ],
)
def test_a_move_is_told_with_its_cause(told, now, sentences):
    assert told(BEFORE, placed(*now)) == sentences


def test_params_that_changed_are_the_cause_of_every_move(told):
    now = placed("a a test", "b a test", "c c test", "d d validation", "e a test")
    changed = {"seed": 8, "split.test_files": ["x.json"]}
    assert told(BEFORE, now, **changed) == [
        "2 rows went from train to test since the last run here: split.test_files and seed changed."
    ]
    assert told(BEFORE, BEFORE, **changed) == []


def test_what_is_missing_damaged_or_of_another_form_counts_as_nothing(tmp_path):
    assert moves.remembered(tmp_path / "memory") is None
    moves.remember(tmp_path / "memory", BEFORE, SETTINGS)
    (file,) = (tmp_path / "memory").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert moves.remembered(tmp_path / "memory") is None
    pq.write_table(BEFORE.select(["id"]), file)
    assert moves.remembered(tmp_path / "memory") is None


def test_a_memory_that_cannot_be_written_costs_a_warning_and_nothing_else(tmp_path, capsys):
    (tmp_path / "cache").write_text("a file where a folder should be", encoding="utf-8")
    moves.remember(tmp_path / "cache/memory", BEFORE, SETTINGS)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {tmp_path / 'cache/memory'} cannot be written (")
    assert said.endswith("): the next run cannot tell which rows moved.\n")
    assert moves.remembered(tmp_path / "cache/memory") is None
