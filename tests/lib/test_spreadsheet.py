"""What a spreadsheet gets to see."""

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stages.lib import spreadsheet


@pytest.mark.parametrize(
    "cell",
    [
        "=1+1",
        "+1",
        "-x",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "  =1",
        "＝1+1",  # full-width, as a Chinese keyboard writes it
        '=HYPERLINK("http://x","y") and so on, so that the cell is longer than a number can be',
        "007",  # would be shown as 7
        "16:05:00",
        "3 March",
        "1200.00",
        "１２",
        "True",
    ],
)
def test_what_would_be_computed_or_converted_is_marked_as_text(cell):
    shown = spreadsheet.as_text(cell)
    assert shown.startswith("'")
    assert shown.replace("'", "") == cell


@pytest.mark.parametrize(
    "cell", ["", "shipping", "退款已批准", "It says 3 times that the shop opens at ten o'clock, and", "a\n3"]
)
def test_what_is_text_anyway_stays_as_it_is(cell):
    assert spreadsheet.as_text(cell) == cell


@given(st.text())
def test_no_cell_begins_like_a_formula_and_all_of_its_text_is_there(cell):
    shown = spreadsheet.as_text(cell)
    assert not shown.startswith(tuple("=+-@\t\r\n"))
    assert shown.replace("'", "") == cell.replace("'", "")


odd_texts = st.text(st.sampled_from(" \u3000=＝+＋-－@＠;,\t\r\n\"'ax"))


@given(st.lists(st.lists(odd_texts, min_size=3, max_size=3), min_size=1, max_size=3))
@example([['of ours;=HYPERLINK("http://evil.example","click")', "", ""]])
@example([["", 'of ours\n=HYPERLINK("http://evil.example","click")', ""]])
@example([["x", 'x;"=1', "x\t ＠SUM(A1)"]])
def test_no_cell_begins_like_a_formula_whatever_a_spreadsheet_parts_cells_by(texts):
    columns = ["one", "two", "three"]
    rows = [dict(zip(columns, map(spreadsheet.as_text, row), strict=True)) for row in texts]
    text = spreadsheet.table(columns, rows).removeprefix(spreadsheet.BOM)
    for delimiter in ",;\t":
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            assert not [cell for cell in row if cell.strip().startswith(tuple("=+-@＝＋－＠"))]


@pytest.mark.parametrize(
    "cell", ["if a == b, a + b", "退款: x = y", "see; then go", "two\n\nlines of an answer, longer than any number"]
)
def test_signs_that_begin_no_cell_are_left_alone(cell):
    assert spreadsheet.as_text(cell) == cell


def test_an_answer_of_blank_lines_is_shown_at_once():
    cell = "a" + "\n" * 200_000  # with time by the square of its length: a quarter of an hour
    assert spreadsheet.as_text(cell) == cell


@given(st.lists(st.fixed_dictionaries({"one": st.text(), "two": st.text()})))
def test_a_table_is_read_back_as_it_was_written(rows):
    text = spreadsheet.table(["one", "two"], rows)
    assert text.startswith("\ufeff")
    assert list(csv.DictReader(io.StringIO(text[1:], newline=""))) == rows
