"""Rows of a CSV file with a header. Every cell is text as it stands: `007` and `NA` stay what they are."""

import csv
import re
from collections.abc import Iterator
from itertools import chain
from typing import TextIO

from stages.lib.plural import counted
from stages.lib.raw import RawRow, broken, not_utf8
from stages.lib.rejects import Code

_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
_PLAIN = {"expected after '\"'": "a quotation mark stands inside a cell; write it twice"}
_SEP = re.compile(r"sep=([,;\t])\s*")  # Excel's own line, above the header
# Lines of a cell that look like rows: so many are none by chance if written tight (of two cells, as code and tables
# have, so many), or in any way.
_FEW, _FEW_OF_TWO, _MANY = 3, 6, 12
# As prose and numbers have these signs, not as rows have them: before a blank or at the end of a line, between digits.
_LOOSE = {mark: re.compile(rf"{mark}(?:\s|$)|(?<=\d){mark}(?=\d)") for mark in _NAMES}
_LONGEST = 1 << 24  # characters of a cell: then a quotation mark was never closed


def from_table(file: TextIO) -> Iterator[RawRow]:
    """The rows under the header; a bad one costs itself alone, a bad header the file."""
    lines = _Lines(file)
    header: list[str] = []
    for line, row in _rows(lines):
        if isinstance(row, RawRow):
            yield row if header else row._replace(cut=True)
        elif not header:
            bad = not_utf8(line, lines.text, cut=True)
            header = [name.strip() for name in row]
            named = [name for name in header if name]
            if not bad and len(set(named)) < len(named):
                bad = _bad(line, lines.text, "not CSV: the header names a column twice", cut=True)
            if bad:
                yield bad
                return
        else:
            yield not_utf8(line, lines.text) or _row(line, row, header, lines)
        if not header:
            return


def _row(line: int, row: list[str], header: list[str], lines: "_Lines") -> RawRow:
    if len(row) != len(header):
        return _lost(
            line,
            lines,
            f"not CSV: the row has {counted(len(row), 'cell')}, the header {len(header)}; a cell that holds "
            f"{_NAMES[lines.delimiter]} stands in quotation marks",
        )
    for place, cell in enumerate(row):
        if swallowed := _rows_within(cell, place, len(row), lines.delimiter):
            what = (
                f"not CSV: one cell holds {swallowed} lines that look like rows; a quotation mark is missing, or one "
                "too many (if not, write the row into a JSON file)"
            )
            return _bad(line, lines.text, what)
    # Spreadsheets write columns without a name and without a cell: these are nothing.
    return RawRow(line, {name: cell for name, cell in zip(header, row, strict=True) if name or cell})


def _bad(line: int, text: str, reason: str, cut: bool = False) -> RawRow:
    return broken(line, text, reason, Code.CSV_SYNTAX, cut)


def _rows_within(cell: str, place: int, width: int, mark: str) -> int:
    """The lines of a cell if they look like rows that two stray quotation marks have put into it, else 0.

    These are a row's end, whole rows, and a row's beginning, each with just the signs between cells that are due there.
    Of 10,000 real texts of several lines (alpaca, gsm8k, self-instruct) none looks so.
    """
    inside = cell.split("\n")
    if len(inside) < (_FEW if width > 2 else _FEW_OF_TWO):
        return 0
    due = [width - 1 - place, *[width - 1] * (len(inside) - 2), place]
    if width < 2 or [line.count(mark) for line in inside] != due:
        return 0
    return len(inside) if len(inside) >= _MANY or not _LOOSE[mark].search(cell) else 0


def _lost(line: int, lines: "_Lines", what: str) -> RawRow:
    """A row that cannot be read. If it goes over several lines, rows may have been swallowed by an open quote."""
    last = line + lines.text.rstrip().count("\n")
    if last == line:
        return _bad(line, lines.text, what)
    return _bad(line, lines.text, f"{what}; the row goes on to line {last}, and others may be lost in it")._replace(
        cut=True
    )


def _rows(lines: "_Lines") -> Iterator[tuple[int, list[str] | RawRow]]:
    """The cells of each row, or why there are none, with the line where the row begins."""
    csv.field_size_limit(_LONGEST)  # the default, 128 KiB, would reject a long answer
    cells = csv.reader(lines, strict=True, delimiter=lines.delimiter)
    while True:
        line = lines.first + cells.line_num
        lines.forget()
        try:
            row = next(cells)
        except StopIteration:
            return
        except csv.Error as error:
            if str(error).startswith(("unexpected end", "field larger")):
                what = "not CSV: a quotation mark is never closed"
                yield line, not_utf8(line, lines.text) or _bad(line, lines.text, what, cut=True)
                return
            what = f"not CSV: {_PLAIN.get(str(error)[4:], str(error))}"
            yield line, not_utf8(line, lines.text) or _lost(line, lines, what)
        else:
            if row:
                yield line, row


class _Lines:
    """The lines of a file from `first` on; `text` holds those since the last `forget`."""

    def __init__(self, file: TextIO) -> None:
        self._seen: list[str] = []
        ahead = _up_to_text(file)
        self.first = 1
        last = ahead[-1] if ahead else ""
        if sep := _SEP.fullmatch(last):
            self.first += len(ahead)
            ahead = []
        self._lines = chain(ahead, file)
        # As spreadsheets export them: what Excel's own line says, or the most frequent sign of the header.
        self.delimiter = sep[1] if sep else max(_NAMES, key=last.count)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._seen.append(line)
        return line

    def forget(self) -> None:
        self._seen.clear()

    @property
    def text(self) -> str:
        return "".join(self._seen)


def _up_to_text(file: TextIO) -> list[str]:
    lines = []
    for line in file:
        lines.append(line)
        if line.strip():
            break
    return lines
