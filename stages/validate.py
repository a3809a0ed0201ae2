"""Turn raw rows of any known form into clean records, and account for every row that is left out.

Reads   data/raw/ (JSON, JSONL, CSV, Parquet, in folders as you like), data/unsafe.txt (phrases to look for)
Writes  data/clean/ (records.parquet, rejected.jsonl, remarks.jsonl), reports/validate.json

`python -m stages.validate --check FILE…` only tells what is wrong with the rows of these files, and writes nothing.
"""

import argparse
import itertools
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from stages.lib import artifacts, corpus, dedupe, experiments, forms, judging, rejects, remarks, runtime, sources
from stages.lib.clusters import Clusters
from stages.lib.errors import UserError, run, warn
from stages.lib.findings import findings_in
from stages.lib.judging import Judged
from stages.lib.params import load
from stages.lib.places import Places
from stages.lib.plural import counted
from stages.lib.records import SCHEMA, Record
from stages.lib.rejects import Code, Reject, Rejected
from stages.lib.unsafe import Watch
from stages.params.split import SplitParams
from stages.params.validate import ValidateParams

RAW = Path("data/raw")
CLEAN = Path("data/clean")
MEMORY = Path(".cache/judged")
REPORT = Path("reports/validate.json")
_SHOWN = 10  # places that an error names
_LARGE = 8 << 20  # bytes of raw files: from here on, starting other processes pays


@dataclass
class Ledger:
    """What became of every row that was read; the rows that are in neither list are still in the race."""

    read: Counter[str] = field(default_factory=Counter)  # by file
    rejected: list[Rejected] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)  # fields that nothing reads
    renamed: Counter[str] = field(default_factory=Counter)  # speakers that were mapped to a role

    def take(self, judged: Judged) -> None:
        """Add what came of a block."""
        self.read[judged.source] += judged.read
        self.unused.update(judged.unused)
        self.renamed.update(judged.renamed)
        self.rejected += judged.rejected


@dataclass(frozen=True)
class Outcome:
    """What validation gives."""

    kept: pa.Table
    rejected: list[Rejected]
    remarks: list[dict[str, Any]]  # on rows that are kept and that a person should look at
    metrics: dict[str, Any]


def validate(
    raw: Path, params: ValidateParams, memory: Path, workers: int | None = None, test_files: Collection[str] = ()
) -> Outcome:
    """Read and judge every row below `raw`, then drop those that repeat or contradict another.

    Args:
        test_files: files whose rows come first, so that a copy elsewhere is dropped, and not the row that is for test.
        memory: the folder that remembers how rows were judged, so that only new ones are judged again.
        workers: processes that judge; by default as many as the rows are worth. The result is the same.

    Raises:
        UserError: nothing to read, nothing left, too many rejects, or conflicting answers where the params forbid them.
    """
    ledger, watch = Ledger(), Watch.over(params.unsafe)
    fit = _fit(raw, params, watch, memory, workers, test_files, ledger)
    places = Places.within(fit)
    dropped, latest = _exact_duplicates(places, fit["id"].to_pylist())
    conflicts = _conflicts(fit["question_id"].to_pylist(), dropped)
    dropped |= _settled(places, conflicts, latest, params.conflicting_answers)
    is_left = np.ones(len(fit), dtype=bool)
    is_left[list(dropped)] = False
    repeats, varied, alike = _near_duplicates(places, fit, is_left, params.near_duplicate)
    dropped |= repeats
    is_left[list(repeats)] = False
    kept = fit.filter(pa.array(is_left)).select(SCHEMA.names)
    remarked = remarks.on_kept(places, fit, is_left, conflicts, varied, alike, params, watch)
    ledger.rejected += _rejected(fit.filter(pa.array(~is_left)), [dropped[row] for row in sorted(dropped)])
    read = ledger.read.total()
    if read != len(kept) + len(ledger.rejected):
        raise AssertionError(f"{read} rows read, but {len(kept)} kept and {len(ledger.rejected)} rejected")
    _require_enough(raw, read, ledger, params.max_reject_share)
    metrics = {
        "rows": {"read": read, "kept": len(kept), "rejected": len(ledger.rejected)},
        "rejected": rejects.tally(ledger.rejected),
        "by_file": _by_file(kept, ledger),
        "duplicates": Clusters.of(_repeats(ledger.rejected)).figures(),
        "categories": _sorted(Counter(kept["category"].to_pylist())),
        "flagged": _sorted(Counter(kind for _, kind in findings_in(itertools.chain(*kept["tags"].to_pylist())))),
        "conflicts": {"questions": len(conflicts), "rows": sum(map(len, conflicts))},
        "variations": {"rows": sum(about == "variation" for about, _ in varied.values())},
        "inputs": {"rows": sum(about == "input" for about, _ in varied.values())},
        "alike": {"groups": len(alike), "rows": sum(map(len, alike))},
        "lengths": corpus.lengths(kept["messages"]),
        "scripts": _sorted(Counter(fit["script"].filter(pa.array(is_left)).to_pylist())),
        "variety": corpus.variety(kept, judging.words_of(fit["answers"], is_left)),
        "unused_fields": _sorted(ledger.unused),
        "renamed_speakers": _sorted(ledger.renamed),
    }
    return Outcome(kept, ledger.rejected, remarked, metrics)


def _fit(
    raw: Path,
    params: ValidateParams,
    watch: Watch,
    memory: Path,
    workers: int | None,
    test_files: Collection[str],
    ledger: Ledger,
) -> pa.Table:
    """The records of all rows that can be learned from, each judged by itself; what is not is rejected."""
    files, strange = sources.find(raw)
    if not files:
        raise UserError(f"{raw} holds no file that can be read ({sources.ENDINGS}). Put your rows there.")
    for path in strange:
        warn(f"{path} was not read: {sources.why_not(path)}.")
    if workers is None:
        workers = _processors() if sum(path.stat().st_size for path in files) > _LARGE else 1
    names = {path: path.relative_to(raw).as_posix() for path in files}
    files.sort(key=lambda path: names[path] not in test_files)
    blocks = (block for path in files for block in sources.blocks(path, names[path]))
    tables = []
    with tqdm(desc="validate", unit=" rows", disable=None, leave=False) as bar:
        for judged in judging.judge_all(blocks, params, watch, memory, workers):
            tables.append(judged.fit)
            ledger.take(judged)
            bar.update(judged.read)
    _require_whole(raw, ledger.rejected, params.max_reject_share)
    return pa.concat_tables(tables)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _exact_duplicates(places: Places, ids: list[str]) -> tuple[dict[int, Reject], dict[int, int]]:
    """All but the first of equal rows; also, for each first, the row that said so last, for `conflicting_answers`."""
    first: dict[str, int] = {}
    latest: dict[int, int] = {}
    dropped = {}
    for row, name in enumerate(ids):
        earlier = first.setdefault(name, row)
        latest[earlier] = row
        if earlier != row:
            place = places.of(earlier)
            detail = {"repeats": place, "repeats_id": name}
            dropped[row] = Reject(Code.EXACT_DUPLICATE, f"the row says the same as {place}", detail)
    return dropped, latest


def _conflicts(questions: list[str], dropped: Mapping[int, Reject]) -> list[list[int]]:
    """The rows of every question that is answered in more than one way."""
    askers = defaultdict(list)
    for row, question in enumerate(questions):
        if row not in dropped:
            askers[question].append(row)
    return [together for together in askers.values() if len(together) > 1]


def _settled(places: Places, conflicts: list[list[int]], latest: Mapping[int, int], policy: str) -> dict[int, Reject]:
    """Drop of each conflict what `conflicting_answers` says."""
    if policy == "keep-all" or not conflicts:
        return {}
    if policy == "fail":
        asked = [places.few(together) for together in conflicts]
        raise UserError(
            f"{RAW}: some questions have more than one answer ({len(conflicts):,}), and validate.conflicting_answers "
            f"is fail. Decide on one each, or set keep-all, first or newest in params.yaml.{_listed(asked)}"
        )
    dropped: dict[int, Reject] = {}
    for together in conflicts:
        winner = together[0] if policy == "first" else max(together, key=lambda row: latest[row])
        place = places.of(winner)
        reason = f"{place} answers the same question differently, and the {policy} answer is kept"
        dropped |= {row: Reject(Code.CONFLICTING_ANSWER, reason, {"kept": place}) for row in together if row != winner}
    return dropped


def _near_duplicates(
    places: Places, fit: pa.Table, is_left: NDArray[np.bool_], threshold: float
) -> tuple[dict[int, Reject], dict[int, tuple[str, str]], list[list[int]]]:
    """Rows that nearly repeat an earlier one that is kept.

    Also those whose answer or input makes them worth it, with why; and what may be copies of one row, or a task.
    """
    numbers = np.flatnonzero(is_left)
    repeats = dedupe.near_repeats(judging.wording(fit, is_left), threshold)
    dropped: dict[int, Reject] = {}
    varied: dict[int, tuple[str, str]] = {}
    for earlier, later, likeness, answers, is_input in repeats.in_order():
        first, row = int(numbers[earlier]), int(numbers[later])
        if first in dropped or row in dropped:
            continue
        place, similarity = places.of(first), round(min(likeness, answers), 3)
        if answers < threshold:
            why = f"the question is nearly that of {place} (similarity {likeness:.2f}), but not the answer"
            varied.setdefault(row, ("variation", why))
        elif is_input:
            why = f"question and answer are nearly those of {place}, but for one place, which passes for another input"
            varied.setdefault(row, ("input", why))
        else:
            reason = f"question and answer are nearly those of {place} (similarity {similarity:.2f})"
            detail = {"repeats": place, "repeats_id": fit["id"][first].as_py(), "similarity": similarity}
            dropped[row] = Reject(Code.NEAR_DUPLICATE, reason, detail)
    together = defaultdict(list)
    for row, head in zip(numbers.tolist(), dedupe.components(len(numbers), repeats.copies), strict=True):
        if row not in dropped:
            together[head].append(row)
    alike = [rows for rows in together.values() if len(rows) > dedupe.MANY_TO_DELETE]
    return dropped, {row: why for row, why in varied.items() if row not in dropped}, alike


def _rejected(records: pa.Table, reasons: Iterable[Reject]) -> list[Rejected]:
    """Records that were dropped after they had been found fit."""
    rows = records.select(SCHEMA.names).to_pylist()
    return [Rejected(row["source"], row["line"], reject, row) for row, reject in zip(rows, reasons, strict=True)]


def _require_whole(raw: Path, rejected: Iterable[Rejected], limit: float) -> None:
    """Stop at a file that could not be read to its end: nobody knows how much of it is lost."""
    cut = []
    for one in rejected:
        sentence = f"{raw}/{one.source}:{one.line}: {one.reject.reason}. {one.reject.code.remedy}"
        if one.cut:
            cut.append(sentence)
        elif one.reject.code is Code.EMPTY_FILE:
            warn(sentence)
    if cut and limit < 1:
        raise UserError(
            f"{raw}: rows are lost at these places, and nobody knows how many. (To go on without them, set "
            f"validate.max_reject_share in params.yaml to 1.){_listed(cut)}"
        )
    for sentence in cut:
        warn(sentence)


def _require_enough(raw: Path, read: int, ledger: Ledger, limit: float) -> None:
    """Stop when what is left is not what the user believes to train on."""
    rejected = ledger.rejected
    if len(rejected) < read and len(rejected) <= limit * read:
        return
    common = rejects.summary(dict(Counter(rejects.tally(rejected)).most_common(3)))
    places = [f"{raw}/{one.source}:{one.line}: {one.reject.reason}" for one in rejects.ordered(rejected)]
    if len(rejected) == read:
        problem = f"{raw}: no row is left of {read:,} ({common}). Mend the rows."
    else:
        problem = (
            f"{raw}: {len(rejected):,} of {read:,} rows ({len(rejected) / read:.0%}) were rejected, most of them for "
            f"{common}; validate.max_reject_share allows {limit:.0%}. Mend the rows, or raise the share in params.yaml."
        )
    raise UserError(problem + _listed(places))


def _listed(places: list[str]) -> str:
    """The first places, one a line."""
    more = [f"… and {len(places) - _SHOWN:,} more"] if len(places) > _SHOWN else []
    return "".join(f"\n       {place}" for place in places[:_SHOWN] + more)


def _by_file(kept: pa.Table, ledger: Ledger) -> dict[str, dict[str, Any]]:
    stayed = Counter(kept["source"].to_pylist())
    codes: dict[str, Counter[str]] = {source: Counter() for source in ledger.read}
    for one in ledger.rejected:
        codes[one.source][str(one.reject.code)] += 1
    return {
        source: {
            "read": read,
            "kept": stayed[source],
            "rejected": codes[source].total(),
            "codes": _sorted(codes[source]),
        }
        for source, read in sorted(ledger.read.items())
    }


def _repeats(rejected: Iterable[Rejected]) -> Iterator[tuple[str, str]]:
    """The rows that repeat another, and which."""
    for one in rejected:
        if "repeats_id" in one.reject.detail:
            yield one.record["id"], one.reject.detail["repeats_id"]


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def check(files: Iterable[Path], params: ValidateParams) -> Iterator[str]:
    """What is wrong with the rows of some files, each judged by itself, and which of them repeat another exactly.

    Fields that nothing reads are warned about: they are no fault, but often a name that was mistyped.
    """
    first: dict[str, str] = {}
    watch = Watch.over(params.unsafe)
    for path in files:
        unused = Counter[str]()
        try:
            for row, found in judging.each(sources.read(path), params, watch, unused, Counter()):
                place, reject = f"{path.as_posix()}:{row.line}", found
                if isinstance(reject, Record):
                    if reject.id not in first:
                        first[reject.id] = place
                        continue
                    earlier = first[reject.id]
                    where = earlier if earlier != place else "another row of this line"
                    reject = Reject(Code.EXACT_DUPLICATE, f"the row says the same as {where}")
                yield f"{place}: {reject.reason}. {reject.code.remedy}"
        except UserError as error:  # the file cannot be opened; the others can
            yield str(error)
        _warn_of_unused(unused, f"{path.as_posix()}: ")


def _warn_of_unused(fields: Mapping[str, int], where: str = "") -> None:
    for name, count in sorted(fields.items()):
        near = forms.near(name)
        hint = f' Is "{near}" meant?' if near else ""
        warn(f'{where}nothing reads the field "{name}" (rows that have it: {count:,}).{hint}')


def _require_known_columns(params: ValidateParams) -> None:
    for ours in params.columns:
        if ours not in forms.FIELDS:
            known = ", ".join(sorted(forms.FIELDS))
            raise UserError(f"params.yaml: validate.columns.{ours} is not a field of ours; these are: {known}.")


def _check_only(files: Iterable[Path], params: ValidateParams) -> None:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # halves of characters in a key
    problem = None
    for problem in check(files, params):
        print(problem)
    sys.exit(1 if problem else 0)


def main() -> None:
    """Run the stage, or only check the files that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m stages.validate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", nargs="+", type=Path, metavar="FILE", help="only tell what is wrong with these files"
    )
    arguments = parser.parse_args()
    params = load(ValidateParams)
    _require_known_columns(params)
    if arguments.check:
        _check_only(arguments.check, params)
    experiments.require_all_files(RAW)
    with runtime.measured("validate") as figures:
        outcome = validate(RAW, params, MEMORY, test_files=load(SplitParams).test_files)
        with artifacts.replacing(CLEAN) as out:
            artifacts.write_parquet(out / "records.parquet", outcome.kept)
            rejects.write(out / "rejected.jsonl", outcome.rejected)
            artifacts.write_jsonl(out / "remarks.jsonl", outcome.remarks)
        artifacts.write_json(REPORT, outcome.metrics)
        figures["rows"] = outcome.metrics["rows"]["read"]
    _warn_of_unused(outcome.metrics["unused_fields"])
    print(_summary(outcome.metrics))
    if outcome.remarks:
        print(f"validate: {counted(len(outcome.remarks), 'remark')} on rows that were kept → {CLEAN / 'remarks.jsonl'}")


def _summary(metrics: Mapping[str, Any]) -> str:
    rows = metrics["rows"]
    reasons = f" ({rejects.summary(metrics['rejected'])})" if rows["rejected"] else ""
    return (
        f"validate: {rows['read']:,} read · {rows['kept']:,} kept · {rows['rejected']:,} rejected{reasons} "
        f"→ {CLEAN / 'rejected.jsonl'}"
    )


if __name__ == "__main__":
    run(main)
