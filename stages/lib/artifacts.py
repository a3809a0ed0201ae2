"""Files that stages hand on: written whole or not at all, and the same to the bit on every run."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib.errors import UserError

if TYPE_CHECKING:
    from pyarrow.compute import Expression  # .05 s to import, for which `stages.validate --check` need not wait


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends well, and vanishes when it does not.

    An old `target` is moved aside before it is deleted, so that it is never seen half deleted.
    """
    work, old = (target.with_name(f".{target.name}.{state}.part") for state in ("new", "old"))
    for leftover in (work, old):
        if leftover.exists():
            shutil.rmtree(leftover)
    work.mkdir(parents=True)
    try:
        yield work
        if target.exists():
            target.replace(old)
        work.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with Unix line ends, atomically.

    A lone surrogate can reach us from raw JSON or a file's name, and has no UTF-8 form: its escape is written instead,
    which JSON reads back as the surrogate.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.part")
    try:
        work.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        os.replace(work, path)
    finally:
        work.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys. NaN and infinity are refused: one of them empties DVC's whole experiments table."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def finite(metrics: dict[str, Any]) -> dict[str, Any]:
    """Drop undefined figures (None, NaN, infinity) at any depth: absent says "not defined here", NaN breaks readers."""
    kept: dict[str, Any] = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            kept[key] = finite(value)
        elif value is not None and not (isinstance(value, float) and not math.isfinite(value)):
            kept[key] = value
    return kept


@contextmanager
def reading(path: Path, made_by: str) -> Iterator[None]:
    """Say which stage to run when a file that it wrote is missing or damaged."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing. Run `dvc repro {made_by}` first.") from None
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's; Arrow's own, for a file that ends too early, bears no number
        raise UserError(f"{path} is damaged. Run `dvc repro -f {made_by}` to write it again.") from None


def read_json(path: Path, made_by: str) -> Any:
    """Read a JSON file that an earlier stage wrote."""
    with reading(path, made_by):
        return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, keys in the order given."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write Parquet with fixed settings, so that equal tables give equal bytes."""
    pq.write_table(table, path, compression="zstd", row_group_size=64 * 1024, store_schema=True)


def read_parquet(
    path: Path, made_by: str, columns: list[str] | None = None, filters: "Expression | None" = None
) -> pa.Table:
    """Read a Parquet file that an earlier stage wrote, or only some of its columns and rows."""
    with reading(path, made_by):
        return pq.read_table(path, columns=columns, filters=filters, partitioning=None)


def write_arrow(path: Path, table: pa.Table) -> None:
    """Write an Arrow IPC stream, which `datasets.Dataset.from_file` maps into memory."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        # Batches follow the table's chunks, which follow from how it was put together: one chunk, equal bytes.
        writer.write_table(table.combine_chunks(), max_chunksize=1024)


def read_arrow(path: Path, made_by: str) -> pa.Table:
    """Memory-map an Arrow IPC stream that an earlier stage wrote."""
    with reading(path, made_by):
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
