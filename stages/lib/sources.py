"""Raw files, row by row: each row with its line, decoded strictly, or with the reason why it could not be.

JSON (`.json`, `.jsonl`) may be an array, one object a line, or objects written over several lines; CSV needs a header;
Parquet has no lines: rows are counted from 1. Each may be compressed (`.jsonl.gz`, `.csv.zst`).
"""

import codecs
import io
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from stages.lib import csv_rows, json_rows, streams
from stages.lib.errors import UserError
from stages.lib.raw import RawRow
from stages.lib.rejects import Code, Reject

IGNORED = {".gitignore", ".gitkeep", ".DS_Store", "README.md"}


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
        if _ending(path) in _READERS and path.is_file() and not hidden:
            readable.append(path)
        else:
            strange.append(path)
    return readable, strange


def why_not(path: Path) -> str:
    """Why a file that `find` calls strange cannot be read."""
    if path.is_file():
        return f"only {ENDINGS} files are, outside hidden folders"
    return f"it is {_no_file(path)}"


def _no_file(path: Path) -> str:
    if path.is_dir():
        return "a folder; name the files in it" if not path.is_symlink() else "a link to a folder"
    if path.is_symlink():
        return "a link to a file that is gone"
    return "no ordinary file" if path.exists() else "not there"


def _below(folder: Path) -> Iterator[Path]:
    """Every file, and every link to a folder, which is not followed: it may lead out of what DVC watches."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise UserError(f"{error.filename} cannot be read: {error.strerror}.")

    for place, folders, files in os.walk(folder, onerror=refuse):
        yield from (Path(place, name) for name in files)
        yield from (path for name in folders if (path := Path(place, name)).is_symlink())


def _ending(path: PurePath) -> str:
    """`.jsonl` of `rows.jsonl` and of `rows.jsonl.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in streams.PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@dataclass(frozen=True)
class Block:
    """Some rows of a file that follow one another: what is judged, and remembered, in one go."""

    first: int  # line of the first row: all that is remembered of a block counts from there
    content: bytes | list[RawRow]  # lines of JSON, not decoded yet, or rows
    source: str = ""  # the file, as reports name it

    def rows(self) -> Iterator[RawRow]:
        """The rows, their lines counted from the beginning of the file."""
        if isinstance(self.content, bytes):
            return json_rows.from_lines(io.BytesIO(self.content), self.first)
        return iter(self.content)

    def digest(self) -> str:
        """A hash of all that the block says but for where it stands."""
        content = self.content
        if not isinstance(content, bytes):
            content = repr([row._replace(line=row.line - self.first) for row in content]).encode()
        return xxhash.xxh3_128_hexdigest(content)


def read(path: Path) -> Iterator[RawRow]:
    """Read one file; a file without a row gives one rejected row.

    Raises:
        UserError: the name does not say how to read it, or the system does not let us.
    """
    for block in blocks(path):
        yield from block.rows()


def blocks(path: Path, source: str = "") -> Iterator[Block]:
    """Read one file, a few hundred rows at a time; `source` is what reports call it.

    A block ends where the content says so, not after so many rows: an inserted row changes its own block and no other.

    Raises:
        UserError: the name does not say how to read it, or the system does not let us.
    """
    reader = _READERS.get(_ending(path))
    if reader is None:
        raise UserError(f"{path}: only {ENDINGS} files can be read{_PACKED}.")
    if not path.is_file():
        raise UserError(f"{path} cannot be read: it is {_no_file(path)}.")
    empty = True
    try:
        if other := _other(path):
            yield Block(1, [RawRow(1, None, other, cut=True)], source)
            return
        for block in reader(path):
            empty = False
            yield replace(block, source=source)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    if empty:
        yield Block(1, [RawRow(1, None, Reject(Code.EMPTY_FILE, "the file holds no row"))], source)


_OTHERS = {
    b"PK\x03\x04": "a zip archive (as .xlsx and .docx are)",
    b"\x1f\x8b": "compressed with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"%PDF": "a PDF",
    b"PAR1": "Parquet",
    b"\xd0\xcf\x11\xe0": "an old Word or Excel file",
}


def _other(path: Path) -> Reject | None:
    """What to say of a file that is something else than text in UTF-8, whatever its name is."""
    if _ending(path) == ".parquet":
        return None
    try:
        with streams.opened(path) as file:
            head = file.read1(64)
    except streams.Damaged:
        return None  # who reads the rows finds out, too
    for mark, what in _OTHERS.items():
        if head.startswith(mark):
            reason = f"the file is {what}, not {_ending(path)[1:].upper()}; nothing of it was read"
            return Reject(Code.UNREADABLE, reason)
    wide = _wide(head)
    return Reject(Code.NOT_UTF8, f"the file is {wide}, not UTF-8; nothing of it was read") if wide else None


def _wide(head: bytes) -> str | None:
    """The encoding, if it is one that writes each letter in more than one byte."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)) or head[:4].count(0) == 3:
        return "UTF-32"
    is_utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or (0 in head[:2] and 0 in head[2:4])
    return "UTF-16" if is_utf16 else None


def _json(path: Path) -> Iterator[Block]:
    if json_rows.has_one_object_a_line(path):
        yield from _blocks_of_lines(streams.lines(path))
        return
    with streams.text(path, newline="\n") as file:
        yield from _blocks_of_rows(json_rows.from_values(file))


def _csv(path: Path) -> Iterator[Block]:
    with streams.text(path, newline="") as file:
        yield from _blocks_of_rows(csv_rows.from_table(file))


def _parquet(path: Path) -> Iterator[Block]:
    yield from _blocks_of_rows(_parquet_rows(path))


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    number = 0
    try:
        with streams.opened(path) as packed, tempfile.TemporaryFile() as unpacked:
            if path.suffix.lower() in streams.PACKED:
                shutil.copyfileobj(packed, unpacked)
            with pq.ParquetFile(unpacked if path.suffix.lower() in streams.PACKED else path) as file:
                names = file.schema_arrow.names
                if len(set(names)) < len(names):
                    reject = Reject(Code.UNREADABLE, "the file has two columns of one name; nothing of it was read")
                    yield RawRow(1, None, reject, cut=True)
                    return
                for batch in file.iter_batches(batch_size=1024):
                    for value in batch.to_pylist():
                        number += 1
                        yield RawRow(number, value)
    except (PermissionError, FileNotFoundError):
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        what = "no Parquet file" if not number and "magic bytes" in str(error) else "a damaged Parquet file"
        said = (str(error) or repr(error)).splitlines()[0]
        reason = f"the file is {what} ({said}); nothing after it was read"
        yield RawRow(number + 1, None, Reject(Code.UNREADABLE, reason), cut=True)


_READERS: dict[str, Callable[[Path], Iterator[Block]]] = {
    ".json": _json,
    ".jsonl": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
ENDINGS = ", ".join(_READERS)
_PACKED = f", also compressed ({', '.join(streams.PACKED)})"

_BYTES = 1 << 19  # of lines that a block has at least …
_ROWS = 256  # … or rows; at most eight times as many
_ONE_IN = 512  # lines or rows, by their checksum, may end a block


def _blocks_of_lines(lines: Iterable[bytes]) -> Iterator[Block]:
    held, size, first, damage = list[bytes](), 0, 1, None
    try:
        for line in lines:
            held.append(line)
            size += len(line)
            if size >= _BYTES and (zlib.crc32(line) % _ONE_IN == 0 or size >= 8 * _BYTES):
                yield Block(first, b"".join(held))
                first += len(held)
                held, size = [], 0
    except streams.Damaged as error:
        damage = _damage(first + len(held), error)
    if any(line.strip() for line in held):
        yield Block(first, b"".join(held))
    if damage:
        yield Block(damage.line, [damage])


def _blocks_of_rows(rows: Iterable[RawRow]) -> Iterator[Block]:
    held, last = list[RawRow](), 0
    try:
        for row in rows:
            held.append(row)
            last = row.line
            if len(held) >= _ROWS and (zlib.crc32(repr(row.value).encode()) % _ONE_IN == 0 or len(held) >= 8 * _ROWS):
                yield Block(held[0].line, held)
                held = []
    except streams.Damaged as error:
        held.append(_damage(last + 1, error))
    if held:
        yield Block(held[0].line, held)


def _damage(line: int, error: streams.Damaged) -> RawRow:
    return RawRow(line, None, Reject(Code.UNREADABLE, f"{error}; nothing after it was read"), cut=True)
