"""Rows of a JSON file: an array, one object a line, or objects written over several lines. The text decides which.

JSON is decoded strictly. The readers of data libraries are not: they turn `007` into 7, accept a trailing comma or a
key that stands twice (the last one wins), and read NaN.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from stages.lib import json_errors, streams
from stages.lib.raw import EXCERPT, RawRow, broken, not_utf8
from stages.lib.rejects import Code, Reject

_SPACE = " \t\r\n"  # JSON's own blanks
_DEPTH = 100  # nesting that no row needs, and that would exhaust Python's stack later
_HEAD = 1 << 20  # bytes that may be looked at to tell the form
_READ = 1 << 20  # characters read at once
_LONGEST = 1 << 28  # characters of one row: then it is no row, but an error that would swallow the rest of the file
_LITERAL = 16  # characters: an error so near to the end of what was read may be no error when more is
_BLANKS = re.compile(f"[{_SPACE}]*")
_BEGINNING = re.compile(r'[\[{"\d-]|true|false|null|NaN|-?Infinity|$')
_SHOWN = 20  # characters of a file that is something else


def has_one_object_a_line(path: Path) -> bool:
    """One of the first two lines that hold anything is an object by itself, or most lines look like one.

    Two broken rows at its head do not make a file another form: read as values, it would end at the first of them.
    """
    head = b""
    try:
        with streams.opened(path) as file:
            while len(head) < _HEAD and (more := file.read1(_HEAD)):
                head += more
            if not head.removeprefix(streams.BOM).lstrip().startswith(b"["):
                head += file.readline(_LONGEST)  # the rest of the last line: a row may be longer than that
    except streams.Damaged:
        pass  # who reads the rows finds out, too
    lines = [line.rstrip() for line in head.removeprefix(streams.BOM).split(b"\n") if line.strip()]
    if not lines or lines[0].lstrip().startswith(b"["):
        return False
    if any(map(_is_object, lines[:2])):
        return True
    if len(lines) == 1:  # as `json.dumps` of each row writes them, one behind the other
        return False
    is_opened = lines[0].endswith((b"{", b"["))  # the row goes on below, perhaps with a turn on each line
    return not is_opened and sum(map(_looks_like_an_object, lines)) > len(lines) / 2


def _looks_like_an_object(line: bytes) -> bool:
    """An object inside another is indented, as a rule, or other brackets close behind it."""
    return line.startswith(b"{") and line.endswith((b"}", b"},")) and line.count(b"{") == line.count(b"}")


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def value_of(text: str) -> Any:
    """The one JSON value that a text is, such as a cell of a CSV file.

    Raises:
        ValueError: it is none; in words.
    """
    decoder, inner = _StrictDecoder(), text.strip(_SPACE)
    try:
        value, end = decoder.decode(inner, 0)
        if end < len(inner):
            raise json.JSONDecodeError("text follows the value", inner, end)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {_what(error)}") from None
    if decoder.fault:
        raise ValueError(decoder.fault.reason)
    return value


def from_lines(lines: Iterable[bytes], first: int = 1) -> Iterator[RawRow]:
    """Rows that stand one on a line, or one behind the other; an error costs its line."""
    decoder = _StrictDecoder()
    for number, line in enumerate(lines, first):
        text = line.decode("utf-8", "surrogateescape").strip(_SPACE)
        if not text or text.isspace():
            continue
        try:
            found = list(_values(text, number, decoder))
        except (ValueError, RecursionError) as error:
            yield not_utf8(number, text) or broken(number, text, f"not JSON: {_what(error)}")
        else:
            yield from [bad] if (bad := not_utf8(number, text)) else found


def _values(text: str, line: int, decoder: "_StrictDecoder") -> Iterator[RawRow]:
    """The values that stand one behind the other on a line."""
    end = 0
    while end < len(text):
        value, end = decoder.decode(text, end)
        yield RawRow(line, value, decoder.fault)
        end = _BLANKS.match(text, end).end()  # type: ignore[union-attr]  # it matches anything
        if end < len(text) and text[end] != "{":
            what = "a comma follows the row; here every row has a line to itself, without commas"
            what = what if text[end:] == "," else "text follows the row; here every row has a line to itself"
            raise json.JSONDecodeError(what, text, end)


def from_values(file: TextIO) -> Iterator[RawRow]:
    """The members of an array, or values that follow one another. What follows an error is lost, and counts once."""
    window = _Window(file)
    decoder = _StrictDecoder()
    in_array = window.peek() == "["
    try:
        if not window.begins_a_value():
            raise window.fault(f'the file begins with "{window.ahead()}"')
        if in_array:
            window.step()
        while (following := window.peek()) and not (in_array and following == "]"):
            line = window.line()
            value, text = window.value(decoder)
            yield not_utf8(line, text) or RawRow(line, value, decoder.fault)
            if in_array:
                window.step_over_comma()
        if in_array and not following:
            raise window.fault("the closing bracket is missing")
        if in_array:
            window.step()
            if window.peek():
                raise window.fault("text follows the closing bracket")
    except _Fault as fault:
        bad = not_utf8(fault.line, fault.text[:1], cut=True)
        yield bad or broken(fault.line, fault.text, f"not JSON: {fault}", cut=True)


class _Fault(Exception):
    """Ends the reading of a file."""

    def __init__(self, what: str, line: int, text: str) -> None:
        super().__init__(what)
        self.line = line
        self.text = text  # from the fault on


class _Window:
    """The stretch of a file's text around the place that is being read."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._line = 1  # of `_counted`
        self._counted = 0
        self._gone = 0  # characters of the line at the beginning of the stretch that are no longer in it

    def peek(self) -> str:
        """The next character that is not blank, and nothing at the end of the file."""
        while True:
            self._at = _BLANKS.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches anything
            if self._at < len(self._text) or not self._read():
                return self._text[self._at : self._at + 1]

    def begins_a_value(self) -> bool:
        """Whether what comes next can be JSON at all; so can nothing."""
        return bool(_BEGINNING.match(self._text, self._at))

    def ahead(self) -> str:
        """What comes next, to be shown."""
        return " ".join(self._text[self._at : self._at + _SHOWN].split())

    def step(self) -> None:
        """Go on by one character."""
        self._at += 1

    def line(self) -> int:
        """The line of the place that is being read."""
        self._line = self._line_of(self._at)
        self._counted = self._at
        return self._line

    def value(self, decoder: "_StrictDecoder") -> tuple[Any, str]:
        """The value that begins here, and its text; step over it."""
        size = _READ
        while True:
            try:
                value, end = decoder.decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _LITERAL
                if not is_cut or not self._read(size):
                    raise self.fault(json_errors.said(error), error.pos) from None
            except (ValueError, RecursionError) as error:
                raise self.fault(_what(error)) from None
            else:
                if end < len(self._text) or not self._read(size):  # a number may go on
                    text, self._at = self._text[self._at : end], end
                    return value, text
            size *= 2

    def step_over_comma(self) -> None:
        """Go to where the next member of an array begins, or to the closing bracket."""
        following = self.peek()
        if following != ",":
            if following not in ("", "]"):
                raise self.fault("a comma is missing")
            return
        trailing = self.fault("a comma stands before the closing bracket")
        self.step()
        if self.peek() == "]":
            raise trailing

    def fault(self, what: str, at: int | None = None) -> _Fault:
        """Something is wrong at this place, or there."""
        at = self._at if at is None else at
        what = json_errors.trace(self._text[at : at + _LITERAL]) or what
        column = at - self._text.rfind("\n", 0, at)
        if column == at + 1:  # there is no line feed in the stretch
            column += self._gone
        return _Fault(f"{what} (column {column})", self._line_of(at), self._text[at : at + EXCERPT])

    def _line_of(self, at: int) -> int:
        return self._line + self._text.count("\n", self._counted, at)

    def _read(self, size: int = _READ) -> bool:
        """Drop what was read and add what follows; whether anything does."""
        more = "" if len(self._text) - self._at > _LONGEST else self._file.read(size)
        if not more:
            return False
        self.line()
        begin = self._text.rfind("\n", 0, self._at) + 1
        self._gone = self._at - begin + (0 if begin else self._gone)
        self._text = self._text[self._at :] + more
        self._at = self._counted = 0
        return True


class _StrictDecoder:
    """Decodes one JSON value, and tells in `fault` what the standard library would let pass."""

    def __init__(self) -> None:
        self.fault: Reject | None = None
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_constant=self._constant,
            parse_float=self._number(float),
            parse_int=self._number(int),
        )

    def decode(self, text: str, position: int) -> tuple[Any, int]:
        """The value that begins at `position`, and where it ends."""
        self.fault = None
        value, end = self._decoder.raw_decode(text, position)
        brackets = text.count("[", position, end) + text.count("{", position, end)
        if brackets > _DEPTH and _is_deeper_than(value, _DEPTH):
            raise ValueError(f"brackets are nested more than {_DEPTH} deep")
        return value, end

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            self._refuse(f'"{twice}" stands twice in one object')
        return found

    def _constant(self, name: str) -> None:
        self._refuse(f"{name} is not a JSON number")

    def _number(self, kind: Callable[[str], Any]) -> Callable[[str], Any]:
        def number(digits: str) -> Any:
            if len(digits) > 300 or not math.isfinite(float(digits)):
                self._refuse("a number is too large")
                return None
            return kind(digits)

        return number

    def _refuse(self, what: str) -> None:
        self.fault = Reject(Code.JSON_SYNTAX, f"not strict JSON: {what}")


def _is_deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def _what(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{json_errors.said(error)} (column {error.colno})"
    return "brackets are nested too deeply" if isinstance(error, RecursionError) else str(error)
