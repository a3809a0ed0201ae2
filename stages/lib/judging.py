"""Judge raw rows each by itself: which become records, which are rejected. In parallel, and only what is new.

A block of rows is judged without a look at any other, so blocks can be judged by several processes, and what came of a
block is remembered under a hash of its text, the params and the code. After an edit only the block that was edited is
judged again. Neither shows in the result.
"""

import gc
import json
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import regex
import xxhash
from numpy.typing import NDArray

from stages.lib import forms, quality, scripts
from stages.lib.errors import UserError
from stages.lib.raw import RawRow
from stages.lib.records import Record, to_table
from stages.lib.rejects import Reject, Rejected
from stages.lib.sources import Block
from stages.lib.unsafe import Watch
from stages.lib.wording import Wording
from stages.lib.words import Words
from stages.params.validate import ValidateParams

_AHEAD = 4  # blocks under way for each process
_HERE = 2  # new blocks that are judged before other processes are started
_SAID = b"said"
_CHECKSUM = 16  # bytes


@dataclass(frozen=True)
class Judged:
    """What came of a block."""

    fit: pa.Table  # the records; `question_id`, `script` of the answer; words of `questions`, `inputs` and `answers`
    rejected: list[Rejected] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)  # fields that nothing reads
    renamed: Counter[str] = field(default_factory=Counter)  # speakers that were mapped to a role
    source: str = ""  # the file, as reports name it

    @property
    def read(self) -> int:
        """The rows of the block."""
        return len(self.fit) + len(self.rejected)

    def placed(self, source: str, first: int) -> "Judged":
        """The same with the file named, and lines counted from its beginning instead of the block's."""
        columns = {
            "source": pa.array([source] * len(self.fit), pa.string()),
            "line": pa.array(self.fit["line"].to_numpy() + first),
        }
        fit = self.fit
        for name, column in columns.items():
            fit = fit.set_column(fit.schema.get_field_index(name), name, column)
        rejected = [replace(one, source=source, line=first + one.line) for one in self.rejected]
        return replace(self, fit=fit, rejected=rejected, source=source)


def judge(rows: Iterable[RawRow], params: ValidateParams, watch: Watch) -> Judged:
    """Judge some rows."""
    unused, renamed = Counter[str](), Counter[str]()
    records, rejected = list[Record](), list[Rejected]()
    for row, found in each(rows, params, watch, unused, renamed):
        if isinstance(found, Record):
            records.append(found)
        else:
            # What must not be learned is masked here too: it must be kept neither beside the reason nor in it.
            reject = Reject(found.code, quality.mask(found.reason, params), quality.mask(found.detail, params))
            rejected.append(Rejected("", row.line, reject, quality.mask(row.value, params), row.cut))
    named = Counter[str]()
    for name, count in unused.items():
        named[quality.mask(name, params)] += count
    return Judged(_table(records), rejected, named, renamed)


def each(
    rows: Iterable[RawRow], params: ValidateParams, watch: Watch, unused: Counter[str], renamed: Counter[str]
) -> Iterator[tuple[RawRow, Record | Reject]]:
    """Rows with what becomes of each; the fields that nothing reads and the renamed speakers are counted."""
    for row in rows:
        parsed = row.reject or forms.parse(row.value, "", row.line, params.columns, params.placeholders)
        if isinstance(parsed, Reject):
            yield row, parsed
            continue
        unused.update(parsed.unused)
        renamed.update(parsed.renamed)
        yield row, quality.judge(parsed.record, params) or _guarded(parsed.record, params, watch)


def _guarded(record: Record, params: ValidateParams, watch: Watch) -> Record | Reject:
    if params.refusals == "flag" and quality.refuses(record):
        record = record.tagged([quality.REFUSED])
    watched = watch.judge(record)
    protected = watched if isinstance(watched, Reject) else quality.protect(watched, params)
    return protected if isinstance(protected, Reject) else protected.tagged(quality.broken(protected))


def _table(records: list[Record]) -> pa.Table:
    wording = Wording.of(records)
    more = {
        "question_id": [record.question_id for record in records],
        "script": [scripts.main_script(record.answer) for record in records],
    }
    table = to_table(records)
    for name, values in more.items():
        table = table.append_column(name, pa.array(values, pa.string()))
    for name in ("questions", "inputs", "answers"):
        words: Words = getattr(wording, name)
        lists = pa.ListArray.from_arrays(pa.array(words.starts, pa.int32()), pa.array(words.hashes, pa.uint64()))
        table = table.append_column(name, lists)
    return table


def wording(records: pa.Table, chosen: NDArray[np.bool_]) -> Wording:
    """What the chosen of the records ask and answer."""
    return Wording(*(words_of(records[name], chosen) for name in ("questions", "inputs", "answers")))


def words_of(column: pa.ChunkedArray, chosen: NDArray[np.bool_]) -> Words:
    """The words that one of the three columns holds for the chosen records."""
    lengths, hashes, row = [np.empty(0, np.int64)], [np.empty(0, np.uint64)], 0
    for chunk in column.chunks:
        offsets = np.asarray(chunk.offsets).astype(np.int64)
        is_chosen = chosen[row : row + len(chunk)]
        row += len(chunk)
        its = np.diff(offsets)
        values = np.asarray(chunk.values)[offsets[0] : offsets[-1]]
        lengths.append(its[is_chosen])
        hashes.append(values if is_chosen.all() else values[np.repeat(is_chosen, its)])
    return Words(np.concatenate([[0], np.cumsum(np.concatenate(lengths))]), np.concatenate(hashes))


# --- in parallel, and only what is new


def judge_all(
    blocks: Iterable[Block], params: ValidateParams, watch: Watch, memory: Path, workers: int = 1
) -> Iterator[Judged]:
    """Judge blocks in order.

    Args:
        memory: the folder of what was judged before; what is no longer needed is removed from it.
        workers: processes that judge; with 1 this process does.
    """
    task = _Task(params, watch, memory, _version(params, watch))
    memory.mkdir(parents=True, exist_ok=True)
    used = set()
    for block, path in _in_processes(task, blocks, workers) if workers > 1 else _here(task, blocks):
        used.add(path.name)
        yield _loaded(path).placed(block.source, block.first)
    for path in memory.iterdir():
        if path.name not in used:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Task:
    """Judge one block, or find it judged.

    What is remembered of a block names no file, and counts lines from its first row: it may have moved.
    """

    params: ValidateParams
    watch: Watch
    memory: Path
    version: str

    def path(self, block: Block) -> Path:
        """Where the block is remembered."""
        return self.memory / f"{xxhash.xxh3_128_hexdigest(f'{self.version} {block.digest()}'.encode())}.arrow"

    def __call__(self, path: Path, block: Block) -> Path:
        if not _is_whole(path):
            rows = (row._replace(line=row.line - block.first) for row in block.rows())
            _save(judge(rows, self.params, self.watch), path)
        return path


def _version(params: ValidateParams, watch: Watch) -> str:
    """What a judgement depends on besides the rows: params, what is unsafe, code, and libraries that know text."""
    code = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    digest = xxhash.xxh3_128_hexdigest(b"\0".join(code))
    versions = f"{sys.version} {pa.__version__} {np.__version__} {regex.__version__} {version('jsonschema')}"
    return f"{params.model_dump_json()} {watch.version()} {digest} {versions}"


def _here(task: _Task, blocks: Iterable[Block]) -> Iterator[tuple[Block, Path]]:
    for block in blocks:
        yield block, task(task.path(block), block)


def _in_processes(task: _Task, blocks: Iterable[Block], workers: int) -> Iterator[tuple[Block, Path]]:
    """Judge in other processes what is not remembered; the first few blocks here: starting a process takes longer."""
    waiting: deque[tuple[Block, Path | Future[Path]]] = deque()
    here = _HERE
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (task,)) as pool:
        try:
            for block in blocks:
                path = task.path(block)
                if _is_whole(path):
                    waiting.append((block, path))
                elif here:
                    waiting.append((block, task(path, block)))
                    here -= 1
                else:
                    waiting.append((block, pool.submit(_judge_there, path, block)))
                if len(waiting) > workers * _AHEAD:
                    yield _done(*waiting.popleft())
            while waiting:
                yield _done(*waiting.popleft())
        except BrokenProcessPool:
            raise UserError("A process that judged rows was killed, as happens when memory runs out.") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _done(block: Block, path: "Path | Future[Path]") -> tuple[Block, Path]:
    return block, path if isinstance(path, Path) else path.result()


_THERE = list[_Task]()  # in a worker its only task; it is sent once, since a large lexicon takes a second to prepare


def _judge_there(path: Path, block: Block) -> Path:
    (task,) = _THERE
    return task(path, block)


def _start_worker(task: _Task) -> None:
    """Leave Ctrl-C to the parent, and look for garbage less often: rows come and go by the thousand, without cycles."""
    _THERE.append(task)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(100_000)


def _save(judged: Judged, path: Path) -> None:
    """Write a judgement with a checksum behind it, whole or not at all."""
    said = {
        "rejected": [one.state() for one in judged.rejected],
        "unused": judged.unused,
        "renamed": judged.renamed,
    }
    schema = judged.fit.schema.with_metadata({_SAID: json.dumps(said)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(judged.fit.replace_schema_metadata(schema.metadata))
    body = sink.getvalue()
    work = path.with_suffix(f".{os.getpid()}.part")
    with open(work, "wb") as file:
        file.write(body)
        file.write(xxhash.xxh3_128_digest(body))
    work.replace(path)


def _is_whole(path: Path) -> bool:
    try:
        data = pa.memory_map(str(path)).read_buffer()
    except OSError:
        return False
    end = len(data) - _CHECKSUM
    return end > 0 and xxhash.xxh3_128_digest(data[:end]) == data[end:].to_pybytes()


def _loaded(path: Path) -> Judged:
    """A judgement, its table mapped into memory."""
    table = pa.ipc.open_stream(pa.memory_map(str(path)).read_buffer()).read_all()
    said = json.loads(table.schema.metadata[_SAID])
    return Judged(
        table.replace_schema_metadata(),
        [Rejected.from_state(state) for state in said["rejected"]],
        Counter(said["unused"]),
        Counter(said["renamed"]),
    )
