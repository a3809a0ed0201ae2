"""Rows of a CSV file with a header. Every cell is text as it stands: `007` and `NA` stay what they are."""

import csv
import re
from collections.abc import Iterator
from itertools import chain
from typing import TextIO

from stages.lib.raw import RawRow, broken, not_utf8

_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
_PLAIN = {"expected after '\"'": "a quotation mark stands inside a cell; write it twice"}
_SEP = re.compile(r"sep=([,;\t])\s*")  # Excel's own line, above the header
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
            header = [name.strip() for name in row]
            if not bad and len(set(header)) < len(header):
                bad = broken(line, lines.text, "not CSV: the header names a column twice", cut=True)
            if bad:
                yield bad
                return
        elif len(row) != len(header):
            what = (
                f"not CSV: the row has {len(row)} cells, the header {len(header)}; a cell that holds "
                f"{_NAMES[lines.delimiter]} stands in quotation marks"
            )
            yield not_utf8(line, lines.text) or broken(line, lines.text, what)
        else:
            yield not_utf8(line, lines.text) or RawRow(line, dict(zip(header, row, strict=True)))


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
            is_open = str(error).startswith(("unexpected end", "field larger"))
            what = "a quotation mark is never closed" if is_open else _PLAIN.get(str(error)[4:], str(error))
            yield line, not_utf8(line, lines.text) or broken(line, lines.text, f"not CSV: {what}", cut=is_open)
            if is_open:
                return
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
