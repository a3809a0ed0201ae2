"""Turn raw rows of any known form into clean records, and account for every row that is left out.

Reads   data/raw/ (JSON, JSONL, CSV, Parquet, in folders as you like)
Writes  data/clean/records.parquet, data/clean/rejected.jsonl, reports/validate.json

`python -m stages.validate --check FILE…` only tells what is wrong with the rows of these files, and writes nothing.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stages.lib import artifacts, dedupe, experiments, forms, quality, rejects, runtime, sources
from stages.lib.errors import UserError, run, warn
from stages.lib.params import load
from stages.lib.records import Record, to_table
from stages.lib.rejects import Code, Reject, Rejected
from stages.lib.sources import RawRow
from stages.params.validate import ValidateParams

RAW = Path("data/raw")
CLEAN = Path("data/clean")
REPORT = Path("reports/validate.json")
_SHOWN = 10  # places that an error names


@dataclass(frozen=True)
class Row:
    """A record, beside the raw row that it came from."""

    raw: RawRow
    record: Record


@dataclass
class Ledger:
    """What became of every row that was read; the rows that are in neither list are still in the race."""

    params: ValidateParams
    read: Counter[str] = field(default_factory=Counter)  # by file
    cut: list[str] = field(default_factory=list)  # where and why files could not be read to their end
    rejected: list[Rejected] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)  # fields that nothing reads
    renamed: Counter[str] = field(default_factory=Counter)  # speakers that were mapped to a role

    def reject(self, raw: RawRow, reject: Reject) -> None:
        """Leave a row out. What must not be learned is masked here too: it must not be kept beside the reason."""
        self.rejected.append(Rejected(raw.source, raw.line, reject, quality.mask(raw.value, self.params)))


@dataclass(frozen=True)
class Outcome:
    """What validation gives."""

    kept: list[Record]
    rejected: list[Rejected]
    metrics: dict[str, Any]


def validate(raw: Path, params: ValidateParams) -> Outcome:
    """Read and judge every row below `raw`, then drop those that repeat or contradict another.

    Raises:
        UserError: nothing to read, nothing left, too many rejects, or conflicting answers where the params forbid them.
    """
    ledger = Ledger(params)
    rows = list(_fit(_read(raw), ledger))
    _require_whole(raw, ledger)
    rows, latest = _drop_exact_duplicates(rows, ledger)
    conflicts = _conflicts(rows)
    rows = _settle(rows, conflicts, latest, ledger)
    rows, variations = _drop_near_duplicates(rows, ledger)
    kept = [row.record for row in rows]
    read = ledger.read.total()
    if read != len(kept) + len(ledger.rejected):
        raise AssertionError(f"{read} rows read, but {len(kept)} kept and {len(ledger.rejected)} rejected")
    _require_enough(raw, read, ledger)
    metrics = {
        "rows": {"read": read, "kept": len(kept), "rejected": len(ledger.rejected)},
        "rejected": rejects.tally(ledger.rejected),
        "by_file": _by_file(kept, ledger),
        "categories": _sorted(Counter(record.category for record in kept)),
        "flagged": _sorted(Counter(kind for record in kept for kind in _found(record))),
        "conflicts": {"questions": len(conflicts), "rows": sum(map(len, conflicts))},
        "variations": {"rows": variations},
        "lengths": _lengths(kept),
        "unused_fields": _sorted(ledger.unused),
        "renamed_speakers": _sorted(ledger.renamed),
    }
    return Outcome(kept, ledger.rejected, metrics)


def _read(raw: Path) -> Iterator[RawRow]:
    files, strange = sources.find(raw)
    if not files:
        raise UserError(f"{raw} holds no file that can be read ({sources.ENDINGS}). Put your rows there.")
    for path in strange:
        warn(f"{path} was not read: only {sources.ENDINGS} files are, outside hidden folders.")
    for path in files:
        for found in sources.read(path, path.relative_to(raw).as_posix()):
            if found.reject and found.reject.code is Code.EMPTY_FILE:
                warn(f"{path}: {found.reject.reason}. {found.reject.code.remedy}")
            yield found


def _fit(found: Iterable[RawRow], ledger: Ledger) -> Iterator[Row]:
    """The rows that can be learned from, each judged by itself."""
    for raw in tqdm(found, desc="validate", unit=" rows", disable=None, leave=False):
        ledger.read[raw.source] += 1
        if raw.cut and raw.reject:
            ledger.cut.append(f"{raw.place}: {raw.reject.reason}. {raw.reject.code.remedy}")
        record = raw.reject or _record(raw, ledger)
        if isinstance(record, Reject):
            ledger.reject(raw, record)
        else:
            yield Row(raw, record)


def _record(raw: RawRow, ledger: Ledger) -> Record | Reject:
    parsed = forms.parse(raw.value, raw.source, raw.line, ledger.params.columns)
    if isinstance(parsed, Reject):
        return parsed
    ledger.unused.update(parsed.unused)
    ledger.renamed.update(parsed.renamed)
    return quality.judge(parsed.record, ledger.params) or quality.protect(parsed.record, ledger.params)


def _drop_exact_duplicates(rows: list[Row], ledger: Ledger) -> tuple[list[Row], dict[str, int]]:
    """Keep the first of equal rows; also tell, by record id, which row said so last, for `conflicting_answers`."""
    kept: dict[str, Row] = {}
    latest: dict[str, int] = {}
    for number, row in enumerate(rows):
        latest[row.record.id] = number
        first = kept.setdefault(row.record.id, row)
        if first is not row:
            reason = f"the row says the same as {first.raw.place}"
            ledger.reject(row.raw, Reject(Code.EXACT_DUPLICATE, reason, {"repeats": first.raw.place}))
    return list(kept.values()), latest


def _conflicts(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of every question that is answered in more than one way."""
    askers = defaultdict(list)
    for row in rows:
        askers[row.record.question_id].append(row)
    return [together for together in askers.values() if len(together) > 1]


def _settle(rows: list[Row], conflicts: list[list[Row]], latest: Mapping[str, int], ledger: Ledger) -> list[Row]:
    """Keep of each conflict what `conflicting_answers` says."""
    policy = ledger.params.conflicting_answers
    if policy == "keep-all" or not conflicts:
        return rows
    if policy == "fail":
        places = [", ".join(row.raw.place for row in together) for together in conflicts]
        raise UserError(
            f"{RAW}: some questions have more than one answer ({len(conflicts):,}), and validate.conflicting_answers "
            f"is fail. Decide on one each, or set keep-all, first or newest in params.yaml.{_listed(places)}"
        )
    losers = set()
    for together in conflicts:
        winner = together[0] if policy == "first" else max(together, key=lambda row: latest[row.record.id])
        for row in together:
            if row is not winner:
                losers.add(row.record.id)
                reason = f"{winner.raw.place} answers the same question differently, and the {policy} answer is kept"
                ledger.reject(row.raw, Reject(Code.CONFLICTING_ANSWER, reason, {"kept": winner.raw.place}))
    return [row for row in rows if row.record.id not in losers]


def _drop_near_duplicates(rows: list[Row], ledger: Ledger) -> tuple[list[Row], int]:
    """Drop rows that nearly repeat an earlier row that is kept; count those whose answer makes them worth keeping."""
    threshold = ledger.params.near_duplicate
    repeats = dedupe.near_repeats([row.record for row in rows], threshold)
    dropped: set[int] = set()
    varied: set[int] = set()
    for earlier, later, likeness, answers in repeats.in_order():
        if earlier in dropped or later in dropped:
            continue
        if answers < threshold:
            varied.add(later)
            continue
        dropped.add(later)
        first = rows[earlier].raw.place
        similarity = round(min(likeness, answers), 3)
        reason = f"question and answer are nearly those of {first} (similarity {similarity:.2f})"
        detail = {"repeats": first, "similarity": similarity}
        ledger.reject(rows[later].raw, Reject(Code.NEAR_DUPLICATE, reason, detail))
    return [row for number, row in enumerate(rows) if number not in dropped], len(varied - dropped)


def _require_whole(raw: Path, ledger: Ledger) -> None:
    """Stop at a file that could not be read to its end: nobody knows how much of it is lost."""
    places = [f"{raw}/{place}" for place in ledger.cut]
    if places and ledger.params.max_reject_share < 1:
        raise UserError(
            f"{raw}: what follows these places could not be read. (To go on without it, set validate.max_reject_share "
            f"in params.yaml to 1.){_listed(places)}"
        )
    for place in places:
        warn(place)


def _require_enough(raw: Path, read: int, ledger: Ledger) -> None:
    """Stop when what is left is not what the user believes to train on."""
    rejected, limit = ledger.rejected, ledger.params.max_reject_share
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


def _by_file(kept: Iterable[Record], ledger: Ledger) -> dict[str, dict[str, int]]:
    stayed = Counter(record.source for record in kept)
    left = Counter(one.source for one in ledger.rejected)
    return {
        source: {"read": read, "kept": stayed[source], "rejected": left[source]} for source, read in ledger.read.items()
    }


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _found(record: Record) -> Iterator[str]:
    """The kinds of secrets and personal data that a record is tagged with."""
    for tag in record.tags:
        code, _, kind = tag.partition(":")
        if kind and code in (Code.SECRET, Code.PERSONAL_DATA):
            yield kind


def _lengths(kept: Iterable[Record]) -> dict[str, dict[str, int]]:
    """Percentiles of the characters in what is asked (system text and earlier turns included) and in the answer."""
    asked = [sum(len(message.content) for message in record.messages[:-1]) for record in kept]
    answered = [len(record.answer) for record in kept]
    return {
        name: {
            f"p{percent}": int(np.percentile(values, percent, method="inverted_cdf"))
            for percent in (5, 25, 50, 75, 95, 100)
        }
        for name, values in (("prompt", asked), ("answer", answered))
        if values
    }


def check(files: Iterable[Path], params: ValidateParams) -> list[str]:
    """What is wrong with the rows of some files, each judged by itself, and which of them repeat another exactly."""
    ledger = Ledger(params)
    found = (row for path in files for row in sources.read(path, path.as_posix()))
    _drop_exact_duplicates(list(_fit(found, ledger)), ledger)
    return [
        f"{one.source}:{one.line}: {one.reject.reason}. {one.reject.code.remedy}"
        for one in rejects.ordered(ledger.rejected)
    ]


def _require_known_columns(params: ValidateParams) -> None:
    for ours in params.columns:
        if ours not in forms.FIELDS:
            known = ", ".join(sorted(forms.FIELDS))
            raise UserError(f"params.yaml: validate.columns.{ours} is not a field of ours; these are: {known}.")


def _check_only(files: Iterable[Path], params: ValidateParams) -> None:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # halves of characters in a key
    problems = check(files, params)
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


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
        outcome = validate(RAW, params)
        with artifacts.replacing(CLEAN) as out:
            artifacts.write_parquet(out / "records.parquet", to_table(outcome.kept))
            rejects.write(out / "rejected.jsonl", outcome.rejected)
        artifacts.write_json(REPORT, outcome.metrics)
        figures["rows"] = outcome.metrics["rows"]["read"]
    for name, count in outcome.metrics["unused_fields"].items():
        warn(f'nothing reads the field "{name}" (rows that have it: {count:,}).')
    print(_summary(outcome.metrics))


def _summary(metrics: Mapping[str, Any]) -> str:
    rows = metrics["rows"]
    reasons = f" ({rejects.summary(metrics['rejected'])})" if rows["rejected"] else ""
    return (
        f"validate: {rows['read']:,} read · {rows['kept']:,} kept · {rows['rejected']:,} rejected{reasons} "
        f"→ {CLEAN / 'rejected.jsonl'}"
    )


if __name__ == "__main__":
    run(main)
