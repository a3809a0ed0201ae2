"""The bytes and the text of a raw file, plain or compressed, as a stream: memory does not grow with the file."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

PACKED = {".gz": "gzip", ".zst": "zstd"}
BOM = b"\xef\xbb\xbf"
_ESCAPED = re.compile("[\udc80-\udcff]")  # Python's "surrogateescape"


_DAMAGE = {
    "Truncated compressed stream": "the compressed file is cut off",
    "incorrect header check": "the file is not compressed with gzip",
    "Unknown frame descriptor": "the file is not compressed with zstd",
}


class Damaged(Exception):
    """The compressed file ends too early, or is none."""


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of the file, unpacked.

    Raises:
        OSError: the system does not let us.
        Damaged: while reading, where the file cannot be unpacked.
    """
    with open(path, "rb") as file:
        codec = PACKED.get(path.suffix.lower())
        yield io.BufferedReader(_Unpacked(file, codec)) if codec else file


class _Unpacked(io.RawIOBase):
    """The bytes inside a compressed file."""

    def __init__(self, file: io.BufferedReader, codec: str) -> None:
        self._codec = codec
        self._stream = pa.CompressedInputStream(pa.PythonFile(file), codec)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return self._stream.readinto(buffer)
        except OSError as error:
            if error.errno is not None:  # the system's, not the codec's
                raise
            raise Damaged(_DAMAGE.get(str(error).rpartition(": ")[2], f"the {self._codec} file is damaged")) from None


def lines(path: Path) -> Iterator[bytes]:
    """The lines of the file, with their ends, without a byte order mark."""
    with opened(path) as file:
        yield file.readline().removeprefix(BOM)
        yield from file


@contextmanager
def text(path: Path, newline: str) -> Iterator[io.TextIOWrapper]:
    """The text of the file, line ends untouched; `newline` says what ends a line, as in `open`.

    Bytes that are no UTF-8 become halves of characters, which `bad_byte` finds: one of them does not cost the file.
    """
    with opened(path) as file:
        yield io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def bad_byte(found: str) -> int | None:
    """Where in a stretch of text from `text` a byte stands that is no UTF-8."""
    match = None if found.isascii() else _ESCAPED.search(found)
    return match.start() if match else None


def readable(found: str) -> str:
    """Text from `text` with its bad bytes written out."""
    return found.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
