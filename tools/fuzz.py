"""Look for raw files on which validate or split break, lose a row, or decide otherwise when they look again.

`python -m tools.fuzz --minutes 20` makes one raw folder after the other, validates it with params drawn at random, and
splits what is kept of some. All of it comes from a seed, which is told with whatever goes wrong: `--seed N --minutes 0`
makes that folder again, and no other. Exits with 1 if anything went wrong.
"""

import argparse
import csv
import gzip
import io
import json
import re
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, TypeVar, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib import artifacts, rejects
from stages.lib.errors import UserError
from stages.lib.params import Section, load
from stages.lib.records import Record, from_table
from stages.params.split import SplitParams
from stages.params.validate import Action, Conflicts, ValidateParams
from stages.split import NAMES, split
from stages.validate import Outcome, validate
from tools.fuzz_files import COLUMNS, damaged, raw_files

S = TypeVar("S", bound=Section)
Found = dict[str, bytes] | str  # the files that a stage would write, or the sentence with which it stops


class Fault(Exception):
    """What must never be, in a sentence."""


@dataclass
class Tally:
    """What was tried, and what went wrong."""

    sets: int = 0
    rows: int = 0
    kept: int = 0
    stopped: int = 0  # sets that a stage refused in a sentence
    splits: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)  # by seed

    def add(self, outcome: Outcome) -> None:
        """Count what became of the rows of a set."""
        self.rows += outcome.metrics["rows"]["read"]
        self.kept += outcome.metrics["rows"]["kept"]
        self.codes.update(outcome.metrics["rejected"])

    def __str__(self) -> str:
        lines = [
            f"fuzz: {self.sets:,} sets · {self.rows:,} rows · {self.kept:,} kept · {self.splits:,} splits · "
            f"{self.stopped:,} stops in a sentence · {len(self.failures):,} failures",
            f"      {rejects.summary(self.codes)}",
            *(f"FAILED --seed {seed} --minutes 0: {what}" for seed, what in self.failures.items()),
        ]
        return "\n".join(lines)


def run(first: int, seconds: float, tally: Tally) -> Tally:
    """Try sets for so long, the seeds in turn; at least one."""
    end = time.monotonic() + seconds
    for seed in range(first, sys.maxsize):
        with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
            try:
                examine(Random(seed), Path(folder), tally)
            except Exception as error:
                tally.failures[seed] = _told(error)
        tally.sets += 1
        if time.monotonic() > end:
            break
    return tally


def _told(error: Exception) -> str:
    if isinstance(error, Fault):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {error}"


def examine(rng: Random, folder: Path, tally: Tally) -> None:
    """Validate one set of files in every way in which the result must be the same; split what is kept of some.

    Raises:
        Fault: something is lost, or not the same.
    """
    files, params = raw_files(rng), drawn(ValidateParams, rng, VALIDATE)
    raw, elsewhere = folder / "raw", folder / "elsewhere" / "raw"
    write(files, raw)
    write(dict(reversed(files.items())), elsewhere)

    def again(raw: Path, memory: str, workers: int = 1) -> Found:
        return as_written(_outcome(raw, params, folder / memory, workers), folder)

    outcome = _outcome(raw, params, folder / "memory")
    found = as_written(outcome, folder)
    _require_same(found, again(raw, "memory"), "with what it remembers")
    _require_same(found, again(elsewhere, "none"), "on files written in another order")
    if rng.random() < 0.01:
        _require_same(found, again(raw, "of two", workers=2), "with two processes")
    if isinstance(outcome, str):
        tally.stopped += 1
    else:
        account(files, outcome, params)
        tally.add(outcome)
        if rng.random() < 0.5:
            tally.splits += examine_split(rng, outcome.kept, params.near_duplicate)
    if rng.random() < 0.3:
        name = rng.choice(list(files))
        write({name: damaged(rng, files[name])}, raw)
        _require_same(again(raw, "memory"), again(raw, "no memory"), "after an edit, with what it remembers or without")


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the files below the folder, in their order."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


_UNSAFE = {"lexicon": "data/unsafe.txt", "classifier": None, "labels": ["toxic"], "threshold": 0.5}
VALIDATE: dict[str, tuple[Any, ...]] = {
    "columns": ({}, COLUMNS, COLUMNS),
    "refusals": ("flag", "drop"),
    "max_repetition": (0.0, 0.8, 1.0),
    "min_answer_chars": (1, 3),
    "max_chars": (80, 8000, 8000, 8000, 8000),
    "near_duplicate": (0.3, 0.7, 1.0),
    "conflicting_answers": (*get_args(Conflicts), "keep-all", "keep-all"),
    "secrets": get_args(Action),
    "personal_data": get_args(Action),
    "unsafe": ({"action": "flag"} | _UNSAFE, {"action": "drop"} | _UNSAFE),
    "max_reject_share": (0.25, 1.0, 1.0, 1.0, 1.0, 1.0),
}
SPLIT: dict[str, tuple[Any, ...]] = {
    "validation": (0.0, 0.07, 0.3),
    "test": (0.0, 0.17, 0.5),
    "group_similarity": (0.1, 0.5, 1.0),
    "contamination": (0.1, 0.5, 1.0),
}


def drawn(section: type[S], rng: Random, choices: Mapping[str, tuple[Any, ...]]) -> S:
    """The section of params.yaml with some values drawn."""
    values = {name: rng.choice(those) for name, those in choices.items()}
    return section.model_validate(_as_in_file(section).model_dump() | values)


_as_in_file = cache(load)


def _outcome(raw: Path, params: ValidateParams, memory: Path, workers: int = 1) -> Outcome | str:
    """What validation gives, or the sentence with which it stops, without the folder's name."""
    try:
        return validate(raw, params, memory, workers)
    except UserError as error:
        return str(error).replace(str(raw), "raw")


def as_written(outcome: Outcome | str, folder: Path) -> Found:
    """The bytes that the stage would write."""
    if isinstance(outcome, str):
        return outcome
    with tempfile.TemporaryDirectory(dir=folder) as name:
        out = Path(name)
        artifacts.write_parquet(out / "records.parquet", outcome.kept)
        rejects.write(out / "rejected.jsonl", outcome.rejected)
        artifacts.write_jsonl(out / "remarks.jsonl", outcome.remarks)
        artifacts.write_json(out / "validate.json", outcome.metrics)
        return {path.name: path.read_bytes() for path in out.iterdir()}


def _require_same(one: Found, other: Found, how: str) -> None:
    if isinstance(one, str) or isinstance(other, str):
        differing = "" if one == other else f"it stops with {one if isinstance(one, str) else other!r}"
    else:
        differing = ", ".join(name for name in sorted(one) if one[name] != other[name])
    if differing:
        raise Fault(f"validate, {how}, gives another result: {differing}")


# --- is every row there?


def account(files: Mapping[str, bytes], outcome: Outcome, params: ValidateParams) -> None:
    """Hold what was read against what an independent, strict reader finds in the files.

    What follows a place where a file could not be read any further is excused; but then the params must allow that.
    """
    read, rejected = outcome.metrics["rows"]["read"], outcome.rejected
    records = from_table(outcome.kept)
    if read != len(records) + len(rejected):
        raise Fault(f"{read} rows read, but {len(records)} kept and {len(rejected)} rejected")
    cuts = {one.source: one.line for one in reversed(rejects.ordered(rejected)) if one.cut}
    if cuts and params.max_reject_share < 1:
        raise Fault(f"{', '.join(cuts)} was not read to its end, and yet validate went on")
    places = Counter([(one.source, one.line) for one in records] + [(one.source, one.line) for one in rejected])
    for name, data in files.items():
        rows = [(line, value) for line, value in strictly_read(name, data) if line < cuts.get(name, sys.maxsize)]
        if lost := Counter((name, line) for line, _ in rows) - places:
            raise Fault(f"{sum(lost.values())} rows are lost, the first at {':'.join(map(str, min(lost)))}")
        _require_unchanged(rows, [record for record in records if record.source == name], params)


def _require_unchanged(rows: list[tuple[int, Any]], records: list[Record], params: ValidateParams) -> None:
    """Each message of a record stands in a row of its line; an alpaca row's is made of two of its texts."""
    if "redact" in (params.secrets, params.personal_data):
        return
    found: dict[int, set[str]] = {}
    for line, value in rows:
        found.setdefault(line, set()).update(_texts(value))
    for record in records:
        texts = found.get(record.line, set())
        for message in record.messages if texts else ():
            whole = message.content
            seams = (seam.start() for seam in re.finditer(r"(?=\n\n)", whole))
            if whole not in texts and not any(whole[:seam] in texts and whole[seam + 2 :] in texts for seam in seams):
                raise Fault(f"{record.place}: {whole!r} does not stand in the row")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)


def strictly_read(name: str, data: bytes) -> list[tuple[int, Any]]:
    """The rows that can be read without leniency, each with its line; none of those that follow an error in an array.

    Written from the description of the forms alone, with the standard library, and not from stages/lib/sources.py.
    """
    name = name.lower()
    try:
        if name.endswith(".gz"):
            name, data = name.removesuffix(".gz"), gzip.decompress(data)
        elif name.endswith(".zst"):
            name, data = name.removesuffix(".zst"), pa.input_stream(io.BytesIO(data), compression="zstd").read()
        if name.endswith(".parquet"):
            return list(enumerate(pq.read_table(io.BytesIO(data)).to_pylist(), 1))
        data = data.removeprefix(b"\xef\xbb\xbf")
        if name.endswith(".csv"):
            return _csv_rows(data.decode())
        lines = data.split(b"\n")
        heads = [line for line in lines if line.strip()][:2]
        if any(isinstance(_json_or_none(line, json.loads), dict) for line in heads) and not heads[0].strip().startswith(
            b"["
        ):
            return [(number, row) for number, line in enumerate(lines, 1) if (row := _json_or_none(line, _strict))]
        return list(_values(data.decode()))
    except (ValueError, OSError, EOFError, zlib.error, pa.ArrowException, csv.Error):
        return []


def _json_or_none(line: bytes, reader: Callable[[str], Any]) -> Any:
    try:
        return reader(line.decode())
    except (ValueError, RecursionError):
        return None


def _strict(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _values(text: str) -> Iterator[tuple[int, Any]]:
    """The members of an array, or values one after the other, up to the first error."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
    blanks = " \t\r\n"
    place = len(text) - len(text.lstrip(blanks))
    between = "," if text[place : place + 1] == "[" else ""
    place += len(between)
    while rest := text[place:].lstrip(blanks):
        place = len(text) - len(rest)
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return
        yield text.count("\n", 0, place) + 1, value
        following = text[end:].lstrip(blanks)
        if between and not following.startswith(between):
            return
        place = len(text) - len(following) + len(between)


def _csv_rows(text: str) -> list[tuple[int, Any]]:
    """The rows with a cell for each name of the header."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=max(",;\t", key=first.count))
    rows, line = [], 1
    for cells in reader:
        rows.append((line, cells))
        line = reader.line_num + 1
    rows = [(line, cells) for line, cells in rows if cells]
    header = rows[0][1] if rows else []
    if len(set(header)) < len(header):
        return []
    return [(line, dict(zip(header, cells, strict=True))) for line, cells in rows[1:] if len(cells) == len(header)]


# --- is every record in one split?


def examine_split(rng: Random, records: pa.Table, near_duplicate: float) -> bool:
    """Split the records, and again in another order; whether the stage did not stop in a sentence.

    Raises:
        Fault: a record is lost or doubled, a group is torn apart, or the order decides.
    """
    params = drawn(SplitParams, rng, SPLIT) if rng.random() < 0.9 else load(SplitParams)
    questions = [record.question for record in from_table(records)]
    benchmarks = {
        f"exam.jsonl:{line}": asked for line, asked in enumerate(rng.sample(questions, len(questions) // 9), 1)
    }
    seed = rng.randrange(2**32)
    parts = [
        _parts(part, benchmarks, params, near_duplicate, seed)
        for part in (records, records, records.take(list(reversed(range(len(records))))))
    ]
    if parts[0] != parts[1]:
        raise Fault("split gives another result when it is run again")
    if parts[0] != parts[2]:
        raise Fault("split gives another result when the records come in another order")
    return isinstance(parts[0], dict)


def _parts(
    records: pa.Table, benchmarks: Mapping[str, str], params: SplitParams, near_duplicate: float, seed: int
) -> dict[str, str] | str:
    """The part of each record; or the sentence with which the stage stops."""
    try:
        splits = split(records, benchmarks, params, near_duplicate, seed)
    except UserError as error:
        return str(error)
    placed = [(name, part) for part, table in splits.tables.items() for name in table["id"].to_pylist()]
    placed += [(one.record["id"], "rejected") for one in splits.rejected]
    if sorted(name for name, _ in placed) != sorted(records["id"].to_pylist()):
        raise Fault(f"{len(records)} records to split, but {len(placed)} found a place")
    groups = [set(splits.tables[name]["group"].to_pylist()) for name in NAMES]
    if sum(map(len, groups)) > len(set.union(*groups)):
        raise Fault("a group stands in two splits")
    return dict(placed)


def main() -> None:
    """Try for as long as the command line says; exit with 1 if anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="how long to try; 0 is one set (default: 20)")
    parser.add_argument("--seed", type=int, default=1, help="of the first set; each further one adds 1 (default: 1)")
    arguments = parser.parse_args()
    tally = run(arguments.seed, arguments.minutes * 60, Tally())
    print(tally)
    sys.exit(1 if tally.failures else 0)


if __name__ == "__main__":
    main()
