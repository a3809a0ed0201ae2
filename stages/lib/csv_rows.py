"""Rows of a CSV file with a header. Every cell is text as it stands: `007` and `NA` stay what they are."""

import csv
from collections.abc import Iterator
from typing import TextIO

from stages.lib.raw import RawRow, broken, not_utf8

_LONGEST = 1 << 24  # characters of a cell: then a quotation mark was never closed


def from_table(file: TextIO) -> Iterator[RawRow]:
    """The rows under the header; a bad one costs itself alone, a bad header the file."""
    lines = _Lines(file)
    header: list[str] = []
    for line, row in _rows(lines):
        if isinstance(row, RawRow):
            yield row
        elif not header:
            bad = not_utf8(line, lines.text, cut=True)
            if not bad and len(set(row)) < len(row):
                bad = broken(line, lines.text, "not CSV: the header names a column twice", cut=True)
            if bad:
                yield bad
                return
            header = row
        elif len(row) != len(header):
            what = f"not CSV: {len(row)} cells stand under a header of {len(header)}"
            yield not_utf8(line, lines.text) or broken(line, lines.text, what)
        else:
            yield not_utf8(line, lines.text) or RawRow(line, dict(zip(header, row, strict=True)))


def _rows(lines: "_Lines") -> Iterator[tuple[int, list[str] | RawRow]]:
    """The cells of each row, or why there are none, with the line where the row begins."""
    csv.field_size_limit(_LONGEST)  # the default, 128 KiB, would reject a long answer
    cells = csv.reader(lines, strict=True, delimiter=lines.delimiter())
    while True:
        line = cells.line_num + 1
        lines.forget()
        try:
            row = next(cells)
        except StopIteration:
            return
        except csv.Error as error:
            is_open = str(error).startswith(("unexpected end", "field larger"))
            what = "a quotation mark is never closed" if is_open else str(error)
            yield line, not_utf8(line, lines.text) or broken(line, lines.text, f"not CSV: {what}", cut=is_open)
            if is_open:
                return
        else:
            if row:
                yield line, row


class _Lines:
    """The lines of a file; `text` holds those since the last `forget`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._ahead: list[str] = []
        self._seen: list[str] = []

    def delimiter(self) -> str:
        """What stands between the cells, as spreadsheets export them: the most frequent sign of the first line."""
        for line in self._file:
            self._ahead.append(line)
            if line.strip():
                return max(",;\t", key=line.count)
        return ","

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._ahead.pop(0) if self._ahead else next(self._file)
        self._seen.append(line)
        return line

    def forget(self) -> None:
        self._seen.clear()

    @property
    def text(self) -> str:
        return "".join(self._seen)
