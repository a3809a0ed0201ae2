"""Raw files, row by row: each row with its file and line, decoded strictly, or with the reason why it could not be.

JSON (`.json`, `.jsonl`) may be an array, one object a line, or objects written over several lines; what decides is the
text, not the name. CSV needs a header; every cell is text as it stands. Parquet has no lines: rows are counted from 1.

The readers of data libraries are not used on raw text: they turn `007` into 7, `NA` into nothing, a list into text, and
accept a trailing comma or a key that stands twice.
"""

import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.errors import UserError
from stages.lib.rejects import Code, Reject

IGNORED = {".gitignore", ".gitkeep", ".DS_Store", "README.md"}
_EXCERPT = 1000  # characters of a broken text that are kept with its reason
_BOM = b"\xef\xbb\xbf"
_SPACE = " \t\r\n"  # JSON's own blanks
_DEPTH = 100  # nesting that no row needs, and that would exhaust Python's stack later


@dataclass(frozen=True)
class RawRow:
    """What stands at one place of a raw file: a decoded value, or a reason and the text that it is about."""

    source: str  # path below data/raw, with forward slashes
    line: int  # where the row begins; for Parquet its number
    value: Any
    reject: Reject | None = None
    cut: bool = False  # more than this row was lost: what follows in the file could not be read

    @property
    def place(self) -> str:
        """`tickets.json:214`."""
        return f"{self.source}:{self.line}"


def find(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files below `folder` that can be read and those that cannot, each sorted by path.

    Raises:
        UserError: a name that is not UTF-8 has no place in a report.
    """
    readable, strange = [], []
    for path in sorted(_below(folder), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder).as_posix()
        if path.name in IGNORED or path.suffix == ".dvc":
            continue
        if name != name.encode("utf-8", "replace").decode("utf-8"):
            raise UserError(f"{folder}: the file name {name!r} is not UTF-8. Rename the file.")
        hidden = name.startswith(".") or "/." in name
        if path.suffix.lower() in _READERS and path.is_file() and not hidden:
            readable.append(path)
        else:
            strange.append(path)
    return readable, strange


def _below(folder: Path) -> Iterator[Path]:
    """Every file, and every link to a folder, which is not followed: it may lead out of what DVC watches."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise UserError(f"{error.filename} cannot be read: {error.strerror}.")

    for place, folders, files in os.walk(folder, onerror=refuse):
        yield from (Path(place, name) for name in files)
        yield from (path for name in folders if (path := Path(place, name)).is_symlink())


def read(path: Path, source: str) -> Iterator[RawRow]:
    """Read one file; a file without a row gives one rejected row.

    Raises:
        UserError: the name does not say how to read it, or the system does not let us.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: only {ENDINGS} files can be read.")
    empty = True
    try:
        for found in reader(path):
            empty = False
            yield RawRow(source, found.line, found.value, found.reject, found.cut)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    if empty:
        yield RawRow(source, 1, None, Reject(Code.EMPTY_FILE, "the file holds no row"))


class _Found(NamedTuple):
    """A RawRow, but for its file."""

    line: int
    value: Any
    reject: Reject | None = None
    cut: bool = False


def _json(path: Path) -> Iterator[_Found]:
    data = path.read_bytes().removeprefix(_BOM)
    if _has_one_object_a_line(data):
        return _json_lines(data)
    text = _decoded(data)
    return iter([text]) if isinstance(text, _Found) else _json_values(text)


def _decoded(data: bytes) -> str | _Found:
    """A whole file as text."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        reject = Reject(Code.NOT_UTF8, f"byte 0x{data[error.start]:02x} is not UTF-8; nothing of the file was read")
        return _Found(line, _around(data, error.start), reject, cut=True)


def _around(data: bytes, place: int) -> str:
    return data[max(0, place - 40) : place + 40].decode("utf-8", "backslashreplace")


def _has_one_object_a_line(data: bytes) -> bool:
    """One of the first two lines that hold anything is an object by itself, and no array is opened before it."""
    lines = list(islice(filter(None, (line.strip() for line in io.BytesIO(data))), 2))
    return bool(lines) and not lines[0].startswith(b"[") and any(map(_is_object, lines))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _json_lines(data: bytes) -> Iterator[_Found]:
    decoder = _StrictDecoder()
    for number, line in enumerate(io.BytesIO(data), 1):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8").strip(_SPACE)
        except UnicodeDecodeError as error:
            reject = Reject(Code.NOT_UTF8, f"byte 0x{line[error.start]:02x} is not UTF-8")
            yield _Found(number, _around(line, error.start), reject)
            continue
        try:
            value, end = decoder.decode(text, 0)
            if end < len(text):
                raise json.JSONDecodeError("text follows the object", text, end)
        except (ValueError, RecursionError) as error:
            yield _Found(number, text[:_EXCERPT], Reject(Code.JSON_SYNTAX, f"not JSON: {_what(error)}"))
        else:
            yield _Found(number, value, decoder.fault)


def _json_values(text: str) -> Iterator[_Found]:
    """The members of an array, or values that follow one another. What follows an error is lost, and counts once."""
    decoder = _StrictDecoder()
    line, counted = 1, 0
    position = _skip(text, 0)
    in_array = text[position : position + 1] == "["
    position = _skip(text, position + in_array)
    try:
        while position < len(text) and not (in_array and text[position] == "]"):
            line += text.count("\n", counted, position)
            counted = position
            value, end = decoder.decode(text, position)
            yield _Found(line, value, decoder.fault)
            position = _after_comma(text, end) if in_array else _skip(text, end)
        if in_array and position == len(text):
            raise json.JSONDecodeError("the closing bracket is missing", text, position)
        if (rest := _skip(text, position + 1)) < len(text):
            raise json.JSONDecodeError("text follows the closing bracket", text, rest)
    except (ValueError, RecursionError) as error:
        at = error.pos if isinstance(error, json.JSONDecodeError) else position
        reject = Reject(Code.JSON_SYNTAX, f"not JSON: {_what(error)}; nothing after it was read")
        yield _Found(text.count("\n", 0, at) + 1, text[at : at + _EXCERPT], reject, cut=True)


def _skip(text: str, position: int) -> int:
    """The next place that is not blank."""
    while text[position : position + 1] and text[position] in _SPACE:
        position += 1
    return position


def _after_comma(text: str, position: int) -> int:
    """Where the next member of an array begins, or its closing bracket stands."""
    position = _skip(text, position)
    if text[position : position + 1] != ",":
        if position < len(text) and text[position] != "]":
            raise json.JSONDecodeError("a comma is missing", text, position)
        return position
    after = _skip(text, position + 1)
    if text[after : after + 1] == "]":
        raise json.JSONDecodeError("a comma stands before the closing bracket", text, position)
    return after


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
        return f"{error.msg[:1].lower()}{error.msg[1:]} (column {error.colno})"
    return "brackets are nested too deeply" if isinstance(error, RecursionError) else str(error)


def _csv(path: Path) -> Iterator[_Found]:
    text = _decoded(path.read_bytes().removeprefix(_BOM))
    return iter([text]) if isinstance(text, _Found) else _csv_rows(list(io.StringIO(text, newline="")))


def _csv_rows(lines: list[str]) -> Iterator[_Found]:
    csv.field_size_limit(sys.maxsize)  # the default, 128 KiB, would reject a long answer
    header_line = next((line for line in lines if line.strip()), "")
    cells = csv.reader(lines, strict=True, delimiter=max(",;\t", key=header_line.count))  # as spreadsheets export it
    header: list[str] = []
    while True:
        line = cells.line_num + 1
        try:
            row = next(cells)
        except StopIteration:
            return
        except csv.Error as error:
            broken = "".join(lines[line - 1 : cells.line_num])[:_EXCERPT]
            is_open = cells.line_num == len(lines) and "unexpected end" in str(error)
            what = "a quotation mark is never closed; nothing after it was read" if is_open else str(error)
            yield _Found(line, broken, Reject(Code.JSON_SYNTAX, f"not CSV: {what}"), cut=is_open)
            continue
        if not row:
            continue
        if not header:
            header = row
            if len(set(header)) < len(header):
                reject = Reject(Code.JSON_SYNTAX, "not CSV: the header names a column twice; nothing after it was read")
                yield _Found(line, row, reject, cut=True)
                return
        elif len(row) != len(header):
            reject = Reject(Code.JSON_SYNTAX, f"not CSV: {len(row)} cells stand under a header of {len(header)}")
            yield _Found(line, row, reject)
        else:
            yield _Found(line, dict(zip(header, row, strict=True)))


def _parquet(path: Path) -> Iterator[_Found]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    number += 1
                    yield _Found(number, value)
    except (PermissionError, FileNotFoundError):
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        reason = f"not Parquet: {(str(error) or repr(error)).splitlines()[0]}; nothing after it was read"
        yield _Found(number + 1, None, Reject(Code.UNREADABLE, reason), cut=True)


_READERS: dict[str, Callable[[Path], Iterator[_Found]]] = {
    ".json": _json,
    ".jsonl": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
ENDINGS = ", ".join(_READERS)
