"""Share clean records out to train, validation and test, so that nothing in test has a twin in train.

Reads   data/clean/records.parquet, data/benchmarks/ (optional)
Writes  data/splits/{train,validation,test}.parquet, data/splits/rejected.jsonl, reports/split.json
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from stages.lib import artifacts, contamination, dedupe, forms, rejects, runtime, sources
from stages.lib.errors import UserError, run, warn
from stages.lib.params import load, load_seed
from stages.lib.records import Record, from_table, to_table
from stages.lib.rejects import Code, Reject, Rejected
from stages.params.split import SplitParams
from stages.params.validate import ValidateParams

CLEAN = Path("data/clean/records.parquet")
BENCHMARKS = Path("data/benchmarks")
SPLITS = Path("data/splits")
REPORT = Path("reports/split.json")

NAMES = ("train", "validation", "test")
LARGE = 10  # rows: a group no larger never counts as swallowing a category, however small that is
STEP = 0.1  # of similarity, when a group that does is broken up


@dataclass(frozen=True)
class Grouping:
    """Which rows stay together."""

    ids: list[str]  # for each record its group: the smallest record id in it
    broken_groups: int  # groups that would have swallowed a category
    is_broken: list[bool]  # for each record, whether it stood in one of them
    alike: dedupe.Pairs  # rows with like questions: in one group, unless that was broken up
    bound: dedupe.Pairs  # rows that are never parted


@dataclass(frozen=True)
class Splits:
    """What splitting gives."""

    tables: dict[str, pa.Table]
    rejected: list[Rejected]
    metrics: dict[str, Any]


def split(
    records: Sequence[Record],
    benchmarks: Mapping[str, str],
    params: SplitParams,
    near_duplicate: float,
    seed: int,
) -> Splits:
    """Assign whole groups of like rows to one split each; then take out of train what gives away a held-out question.

    Args:
        benchmarks: what each benchmark row asks, by its place.
        near_duplicate: `validate.near_duplicate`, the similarity at which two rows are the same row.

    Raises:
        UserError: there are too few groups for the parts, or nothing is left to train on.
    """
    grouping = group(records, params.group_similarity, near_duplicate)
    parts = assign(grouping.ids, params, seed)
    across = _like_pairs_across(grouping, parts)
    members = {name: [row for row, part in enumerate(parts) if part == name] for name in NAMES}
    rejected, is_leak = _decontaminate(records, members, benchmarks, params.contamination)
    members["train"] = [row for row in members["train"] if row not in is_leak]
    if not members["train"]:
        raise UserError(
            f"{CLEAN}: all {len(is_leak):,} training rows give away a question of the test split or of {BENCHMARKS}. "
            "Add rows that differ from them."
        )
    if sum(map(len, members.values())) + len(rejected) != len(records):
        raise AssertionError("a record was lost or doubled on its way to the splits")
    table = to_table(records).append_column("group", pa.array(grouping.ids, pa.string()))
    sizes = Counter(grouping.ids)
    metrics = {name: {"rows": len(rows)} for name, rows in members.items()} | {
        "contaminated": {"rows": len(rejected)} | dict(Counter(one.reject.detail["by"] for one in rejected)),
        "groups": len(sizes),
        "largest_group": max(sizes.values()),
        "broken_groups": grouping.broken_groups,
        "broken_rows": sum(grouping.is_broken),
        "like_pairs_across": across,
        "categories": _by_category(records, members),
    }
    tables = {name: table.take(pa.array(rows, pa.int64())) for name, rows in members.items()}
    return Splits(tables, rejected, metrics)


def group(records: Sequence[Record], similarity: float, near_duplicate: float) -> Grouping:
    """Put rows with like questions together, whatever they answer, and break up what would swallow a category.

    A group that has more than a tenth of a category's rows is cut at a higher similarity, `STEP` by `STEP`, until its
    parts are small or hold only rows that are never parted: those with the same question, and near-duplicates.
    """
    alike, likeness = dedupe.like_questions(records, similarity)
    bound = _inseparable(records, near_duplicate)
    categories = [record.category for record in records]
    level = np.full(len(records), similarity)
    while True:
        holds = likeness >= level[alike[:, 0]]  # both rows of a pair are always cut at the same level
        heads = dedupe.components(len(records), np.concatenate([bound, alike[holds]]))
        swollen = _swollen(heads, categories)
        rows = [row for row, head in enumerate(heads) if head in swollen and level[row] <= 1]
        if not rows:
            break
        level[rows] += STEP
    names: dict[int, str] = {}
    for record, head in zip(records, heads, strict=True):
        names[head] = min(names.get(head, record.id), record.id)
    is_broken = level > similarity
    first_heads = np.array(dedupe.components(len(records), np.concatenate([bound, alike])))
    return Grouping(
        ids=[names[head] for head in heads],
        broken_groups=len(np.unique(first_heads[is_broken])),
        is_broken=is_broken.tolist(),
        alike=alike,
        bound=bound,
    )


def _inseparable(records: Sequence[Record], near_duplicate: float) -> dedupe.Pairs:
    """Rows that ask the same, and near-duplicates, which validate has left only where it was told to keep them."""
    first: dict[str, int] = {}
    same = [(first.setdefault(record.question_id, row), row) for row, record in enumerate(records)]
    repeats = dedupe.near_repeats(records, near_duplicate, dedupe.TO_GROUP)
    return np.concatenate(
        [np.array(same, dtype=np.int64).reshape(-1, 2), repeats.pairs[repeats.answers >= near_duplicate]]
    )


def _swollen(heads: Sequence[int], categories: Sequence[str]) -> set[int]:
    """The groups that have more than `LARGE` rows, and more than a tenth of them all, in some category."""
    total = Counter(categories)
    shares = Counter(zip(heads, categories, strict=True))
    return {head for (head, category), rows in shares.items() if rows > max(LARGE, total[category] / 10)}


def assign(groups: Sequence[str], params: SplitParams, seed: int) -> list[str]:
    """The split of each row's group, drawn from nothing but the group's id and the seed: a new row moves no other.

    So each category gets its share only up to chance (of 100 groups at 18 %, 18 ± 4 are for test), where a quota would
    move old rows. Only a part that stays empty, as in a set of twenty rows, takes the group that was drawn next to it.

    Raises:
        UserError: there are fewer groups than parts.
    """
    drawn = {name: _draw(name, seed) for name in set(groups)}
    order = sorted(drawn, key=lambda name: (drawn[name], name))
    shares = {"test": params.test, "validation": params.validation, "train": 1 - params.test - params.validation}
    wanted = [name for name, share in shares.items() if share > 0]
    if len(order) < len(wanted):
        raise UserError(
            f"{CLEAN}: {len(groups):,} rows in {len(order):,} groups of like rows are too few for "
            f"{' and '.join(sorted(wanted))}, which need a group each. Add rows that differ, or set split.validation "
            "or split.test to 0 in params.yaml."
        )
    parts = {name: _part(drawn[name], params) for name in order}
    for missing in wanted:
        sizes = Counter(parts.values())
        if not sizes[missing]:
            spare = [name for name in order if sizes[parts[name]] > 1]
            parts[spare[-1] if missing == "train" else spare[0]] = missing
    return [parts[name] for name in groups]


def _draw(name: str, seed: int) -> float:
    """A number from 0 to 1."""
    return xxhash.xxh3_64_intdigest(f"{seed}:{name}".encode()) / 2**64


def _part(drawn: float, params: SplitParams) -> str:
    if drawn < params.test:
        return "test"
    return "validation" if drawn < params.test + params.validation else "train"


def _like_pairs_across(grouping: Grouping, parts: Sequence[str]) -> int:
    """How many pairs of like rows were torn apart by breaking up groups; nothing else may do so."""

    def torn(pairs: dedupe.Pairs) -> list[list[int]]:
        return [pair for pair in pairs.tolist() if parts[pair[0]] != parts[pair[1]]]

    across = torn(grouping.alike)
    if torn(grouping.bound) or any(not grouping.is_broken[row] for pair in across for row in pair):
        raise AssertionError("rows that belong together are in different splits")
    return len(across)


def _decontaminate(
    records: Sequence[Record], members: Mapping[str, Sequence[int]], benchmarks: Mapping[str, str], threshold: float
) -> tuple[list[Rejected], set[int]]:
    """The training rows that give away a question of the test split or of a benchmark, and their row numbers."""
    training = [records[row] for row in members["train"]]
    test = {f"{records[row].place} (test)": _asked(records[row]) for row in members["test"]}
    exams = {f"{BENCHMARKS}/{place}": question for place, question in benchmarks.items()}
    places = [*test, *exams]
    found = [
        *contamination.leaks(training, list(test.values()), threshold),
        *(
            replace(leak, question=len(test) + leak.question)
            for leak in contamination.leaks(training, list(exams.values()), threshold, are_benchmarks=True)
        ),
    ]
    rejected = []
    rows = set()
    for leak in contamination.worst_of_each(found):
        record, place = training[leak.row], places[leak.question]
        reason = f"the row gives away {leak.share:.0%} of the question at {place}"
        by = "test" if leak.question < len(test) else "benchmarks"
        detail = {"question": place, "share": round(leak.share, 3), "by": by}
        rejected.append(Rejected(record.source, record.line, Reject(Code.CONTAMINATED, reason, detail), record.row()))
        rows.add(members["train"][leak.row])
    return rejected, rows


def _asked(record: Record) -> str:
    return contamination.asked(record.question, record.input)


def _by_category(records: Sequence[Record], members: Mapping[str, Sequence[int]]) -> dict[str, dict[str, int]]:
    counts = {name: Counter(records[row].category for row in rows) for name, rows in members.items()}
    return {
        category: {name: counts[name][category] for name in NAMES}
        for category in sorted({record.category for record in records})
    }


def read_benchmarks(folder: Path) -> dict[str, str]:
    """What each benchmark row asks, by its place below `folder`.

    Raises:
        UserError: a row cannot be read, so nothing could keep its question out of training.
    """
    questions = {}
    files, strange = sources.find(folder)
    for path in strange:
        warn(f"{path} was not read: only {sources.ENDINGS} files are.")
    for path in files:
        for found in sources.read(path, path.relative_to(folder).as_posix()):
            question = forms.question_of(found.value)
            if found.reject or question is None:
                reason = found.reject.reason if found.reject else "the row asks nothing"
                raise UserError(f"{folder}/{found.place}: {reason}. Mend the row; until then it cannot be held out.")
            questions[found.place] = contamination.asked(question.text, question.input)
    return questions


def main() -> None:
    """Run the stage."""
    params = load(SplitParams)
    near_duplicate = load(ValidateParams).near_duplicate
    with runtime.measured("split") as figures:
        records = from_table(artifacts.read_parquet(CLEAN, "validate"))
        splits = split(records, read_benchmarks(BENCHMARKS), params, near_duplicate, load_seed())
        with artifacts.replacing(SPLITS) as out:
            for name, table in splits.tables.items():
                artifacts.write_parquet(out / f"{name}.parquet", table)
            rejects.write(out / "rejected.jsonl", splits.rejected)
        artifacts.write_json(REPORT, splits.metrics)
        figures["rows"] = len(records)
    without = [name for name, counts in splits.metrics["categories"].items() if not counts["test"]]
    if without and params.test:
        warn(f"no test row judges the categories {', '.join(without)}. Add rows to them, or raise split.test.")
    print(_summary(len(records), splits.metrics))


def _summary(rows: int, metrics: Mapping[str, Any]) -> str:
    counts = " · ".join(f"{metrics[name]['rows']:,} {name}" for name in NAMES)
    broken = f" ({metrics['broken_groups']:,} broken up)" if metrics["broken_groups"] else ""
    return (
        f"split: {rows:,} rows in {metrics['groups']:,} groups{broken} · {counts} · "
        f"{metrics['contaminated']['rows']:,} contaminated → {SPLITS / 'rejected.jsonl'}"
    )


if __name__ == "__main__":
    run(main)
