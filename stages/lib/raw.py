"""A row of a raw file as it was found, before anything is made of it."""

from typing import Any, NamedTuple

from stages.lib import streams
from stages.lib.rejects import Code, Reject

EXCERPT = 1000  # characters of a broken text that are kept with its reason
_AROUND = 40  # characters, on each side of a bad byte


class RawRow(NamedTuple):
    """What stands at one place of a raw file: a decoded value, or a reason and the text that it is about."""

    line: int  # where the row begins; for Parquet its number
    value: Any
    reject: Reject | None = None
    cut: bool = False  # more than this row was lost: what follows in the file could not be read


def broken(line: int, text: str, reason: str, code: Code = Code.JSON_SYNTAX, cut: bool = False) -> RawRow:
    """A row that could not be decoded, with the beginning of its text."""
    reason += "; nothing after it was read" if cut else ""
    return RawRow(line, streams.readable(text[:EXCERPT]), Reject(code, reason), cut)


def not_utf8(line: int, text: str, cut: bool = False) -> RawRow | None:
    """The row that begins at `line` as one that is not UTF-8, if it holds a byte that is none: at the line of that."""
    place = streams.bad_byte(text)
    if place is None:
        return None
    reason = f"byte 0x{ord(text[place]) - 0xDC00:02x} is not UTF-8"
    around = text[max(0, place - _AROUND) : place + _AROUND]
    return broken(line + text.count("\n", 0, place), around, reason, Code.NOT_UTF8, cut)
