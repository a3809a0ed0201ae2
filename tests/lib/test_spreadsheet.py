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


@pytest.mark.parametrize("delimiter", list(",;\t"))
@given(st.lists(st.text(st.sampled_from(' =@+-;,\t\n"ax')), min_size=1, max_size=4))
@example(['of ours;=HYPERLINK("http://evil.example","click")'])
@example(["a\n=1+1"])
@example(['x;"=1'])
def test_no_cell_begins_like_a_formula_whatever_a_spreadsheet_parts_cells_by(delimiter, cells):
    rows = [{"one": spreadsheet.as_text(cell), "two": ""} for cell in cells]
    text = spreadsheet.table(["one", "two"], rows).removeprefix(spreadsheet.BOM)
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
        assert not [cell for cell in row if cell.strip().startswith(tuple("=+-@"))]


@given(st.lists(st.fixed_dictionaries({"one": st.text(), "two": st.text()})))
def test_a_table_is_read_back_as_it_was_written(rows):
    text = spreadsheet.table(["one", "two"], rows)
    assert text.startswith("\ufeff")
    assert list(csv.DictReader(io.StringIO(text[1:], newline=""))) == rows
