"""Share clean records out to train, validation and test, so that nothing in test has a twin in train.

Reads   data/clean/records.parquet, data/benchmarks/ (optional)
Writes  data/splits/{train,validation,test}.parquet, data/splits/{rejected,overlaps}.jsonl, reports/split.json

Rows that stand in another split than at the last run here are told of, with the cause.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from stages.lib import artifacts, contamination, dedupe, experiments, moves, question_rows, rejects, runtime
from stages.lib.errors import UserError, run, warn
from stages.lib.minhash import Pairs, jaccard
from stages.lib.params import load, load_seed
from stages.lib.plural import counted
from stages.lib.records import SCHEMA, from_table
from stages.lib.rejects import Code, Reject, Rejected
from stages.lib.wording import Wording
from stages.lib.words import Words, hashed, words
from stages.params.split import SplitParams
from stages.params.validate import ValidateParams

CLEAN = Path("data/clean/records.parquet")
BENCHMARKS = Path("data/benchmarks")
SPLITS = Path("data/splits")
MEMORY = Path(".cache/splits")
REPORT = Path("reports/split.json")

NAMES = ("train", "validation", "test")
_NAMED = 10  # categories in a warning
LARGE = 10  # rows: a group no larger never counts as swallowing a category, however small that is
_MOST_PAIRS = 1_000_000  # of like rows in different splits that are looked for, in one group
STEP = 0.1  # of similarity, when a group that does is broken up


@dataclass(frozen=True)
class Grouping:
    """Which rows stay together."""

    ids: list[str]  # for each record its group: the smallest record id in it
    broken: dict[int, NDArray[np.int64]]  # their rows
    alike: Pairs  # rows with like questions: in one group, unless that was broken up
    bound: Pairs  # rows that are never parted
    pieces: Words  # what is compared of each question


@dataclass(frozen=True)
class Splits:
    """What splitting gives."""

    tables: dict[str, pa.Table]
    rejected: list[Rejected]
    overlaps: list[dict[str, Any]]  # training rows that are kept and share a piece with a question that is held out
    placed: pa.Table  # each record's id, place, group and split, before anything was taken out of train
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """What splitting has to know of every record; the table itself is touched again only at the end."""

    ids: list[str]
    question_ids: list[str]
    categories: list[str]
    places: list[str]
    wording: Wording
    turns: contamination.Turns

    @classmethod
    def of(cls, table: pa.Table) -> "Rows":
        """Read the records of a table, some thousand at a time."""
        question_ids, wordings, turns, first = list[str](), [], [], 0
        for batch in table.to_batches(max_chunksize=4096):
            records = from_table(pa.table(batch))
            question_ids += [record.question_id for record in records]
            wordings.append(Wording.of(records))
            turns.append(contamination.Turns.of(records).moved(first))
            first += len(records)
        places = [
            f"{source}:{line}"
            for source, line in zip(table["source"].to_pylist(), table["line"].to_pylist(), strict=True)
        ]
        return cls(
            ids=table["id"].to_pylist(),
            question_ids=question_ids,
            categories=table["category"].to_pylist(),
            places=places,
            wording=Wording.end_to_end(wordings),
            turns=contamination.Turns.end_to_end(turns),
        )


def split(
    table: pa.Table, benchmarks: Mapping[str, str], params: SplitParams, near_duplicate: float, seed: int
) -> Splits:
    """Assign whole groups of like rows to one split each; then take out of train what gives away a held-out question.

    Args:
        table: the records.
        benchmarks: what each benchmark row asks, by its place.
        near_duplicate: `validate.near_duplicate`, the similarity at which two rows are the same row.

    Raises:
        UserError: there are too few groups for the parts, or nothing is left to train on.
    """
    rows = Rows.of(table)
    grouping = group(rows, params.group_similarity, near_duplicate)
    fixed = _fixed(table, grouping.ids, params.test_files)
    parts = np.array(assign(grouping.ids, params, seed, fixed))
    members = {name: np.flatnonzero(parts == name) for name in NAMES}
    leaks, overlaps, common = _leaks(rows, members, benchmarks, params.contamination)
    members["train"] = np.setdiff1d(members["train"], list(leaks))
    if not len(members["train"]):
        raise UserError(
            f"{CLEAN}: all {len(leaks):,} training rows give away a question of the test split or of {BENCHMARKS}. "
            "Add rows that differ from them."
        )
    if sum(map(len, members.values())) + len(leaks) != len(table):
        raise AssertionError("a record was lost or doubled on its way to the splits")
    torn = _torn(grouping, parts, params.group_similarity)
    torn = torn[~np.isin(torn, list(leaks)).any(axis=1)]
    sizes = Counter(grouping.ids)
    in_fixed = sum(name in fixed for name in grouping.ids) if fixed else 0
    of_files = sum(source in params.test_files for source in table["source"].to_pylist()) if fixed else 0
    metrics = {name: {"rows": len(numbers)} for name, numbers in members.items()} | {
        "fixed": {"rows": of_files, "like_them": in_fixed - of_files},
        "overlaps": {"rows": len(overlaps), "common": len(common)},
        "contaminated": {"rows": len(leaks)} | dict(Counter(leak.detail["by"] for leak in leaks.values())),
        "groups": len(sizes),
        "largest_group": max(sizes.values()),
        "broken_groups": len(grouping.broken),
        "broken_rows": sum(map(len, grouping.broken.values())),
        "like_pairs_across": len(torn),
        "like_test_rows": int(np.count_nonzero(parts[np.unique(torn)] == "test")),
        "categories": _by_category(rows.categories, members),
    }
    grouped = table.append_column("group", pa.array(grouping.ids, pa.string()))
    tables = {name: grouped.filter(_only(numbers, len(table))) for name, numbers in members.items()}
    placed = pa.table({"id": rows.ids, "place": rows.places, "group": grouping.ids, "split": parts})
    return Splits(tables, _rejected(table, leaks), overlaps + common, placed, metrics)


def _fixed(table: pa.Table, groups: Sequence[str], files: Sequence[str]) -> set[str]:
    """The groups that have a row from a file whose rows are for test."""
    if not files:
        return set()
    sources = table["source"].to_pylist()
    for file in files:
        if file not in sources:
            known = ", ".join(sorted(set(sources)))
            raise UserError(
                f"params.yaml: split.test_files names {file}, from which no row was kept. Rows come from {known}."
            )
    return {group for source, group in zip(sources, groups, strict=True) if source in files}


def _only(numbers: Iterable[int], count: int) -> pa.Array:
    """A mask over `count` rows."""
    chosen = np.zeros(count, dtype=bool)
    chosen[list(numbers)] = True
    return pa.array(chosen)


def _rejected(table: pa.Table, leaks: Mapping[int, Reject]) -> list[Rejected]:
    records = table.filter(_only(leaks, len(table))).select(SCHEMA.names).to_pylist()
    return [
        Rejected(record["source"], record["line"], leaks[row], record)
        for row, record in zip(sorted(leaks), records, strict=True)
    ]


def group(rows: Rows, similarity: float, near_duplicate: float) -> Grouping:
    """Put rows with like questions together, whatever they answer, and break up what would swallow a category.

    A group that has more than a tenth of a category's rows is cut at a higher similarity, `STEP` by `STEP`, until its
    parts are small or hold only rows that differ in nothing but their numbers. These are parted only where most of a
    category stands in such groups; rows with the same question, and near-duplicates, never.
    """
    repeats = dedupe.near_repeats(rows.wording, near_duplicate, dedupe.TO_GROUP)
    bound = _inseparable(rows, repeats, near_duplicate)
    alike, likeness, pieces = dedupe.like_questions(rows.wording, similarity)
    alike, likeness = np.concatenate([alike, repeats.copies]), np.append(likeness, repeats.copied)
    level = np.full(len(rows.ids), similarity)
    while True:
        holds = likeness >= level[alike[:, 0]]  # both rows of a pair are always cut at the same level
        heads = dedupe.components(len(rows.ids), np.concatenate([bound, alike[holds]]))
        is_swollen = np.isin(heads, list(_swollen(heads, rows.categories)))
        if (is_low := is_swollen & (level < 1)).any():
            level[is_low] = np.minimum(level[is_low] + STEP, 1)
        elif (is_whole := _of_swallowed(heads, rows.categories, is_swollen) & (level == 1)).any():
            level[is_whole] = np.inf
        else:
            break
    names: dict[int, str] = {}
    for name, head in zip(rows.ids, heads, strict=True):
        names[head] = min(names.get(head, name), name)
    whole = np.array(dedupe.components(len(rows.ids), np.concatenate([bound, alike])), dtype=np.int64)
    parts = Counter(first for first, _ in set(zip(whole.tolist(), heads, strict=True)))
    return Grouping(
        ids=[names[head] for head in heads],
        broken={head: np.flatnonzero(whole == head) for head, count in sorted(parts.items()) if count > 1},
        alike=alike,
        bound=bound,
        pieces=pieces,
    )


def _inseparable(rows: Rows, repeats: dedupe.Repeats, near_duplicate: float) -> Pairs:
    """Rows that ask the same, and near-duplicates, which validate has left only where it was told to keep them."""
    first: dict[str, int] = {}
    same = [(first.setdefault(question, row), row) for row, question in enumerate(rows.question_ids)]
    return np.concatenate([np.array(same, dtype=np.int64).reshape(-1, 2), repeats.same_rows(near_duplicate)])


def _swollen(heads: Sequence[int], categories: Sequence[str]) -> set[int]:
    """The groups that have more than `LARGE` rows, and more than a tenth of them all, in some category."""
    total = Counter(categories)
    shares = Counter(zip(heads, categories, strict=True))
    return {head for (head, category), rows in shares.items() if rows > max(LARGE, total[category] / 10)}


def _of_swallowed(heads: Sequence[int], categories: Sequence[str], is_swollen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The rows of the swollen groups that stand in a category of which more than half stands in swollen groups."""
    total, swallowed = Counter(categories), Counter(itertools.compress(categories, is_swollen))
    most = {head for head, category in zip(heads, categories, strict=True) if 2 * swallowed[category] > total[category]}
    return is_swollen & np.isin(heads, list(most))


def assign(groups: Sequence[str], params: SplitParams, seed: int, fixed: Collection[str] = ()) -> list[str]:
    """The split of each row's group, drawn from nothing but the group's id and the seed: a new row moves no other.

    So each category gets its share only up to chance (of 100 groups at 18 %, 18 ± 4 are for test), where a quota would
    move old rows. Only a part that stays empty, as in a set of twenty rows, takes the group that was drawn next to it.
    The `fixed` groups are for test, whatever was drawn.

    Raises:
        UserError: there are fewer groups than parts.
    """
    drawn = {name: _draw(name, seed) for name in set(groups) - set(fixed)}
    order = sorted(drawn, key=lambda name: (drawn[name], name))
    shares = {"test": params.test, "validation": params.validation, "train": 1 - params.test - params.validation}
    wanted = [name for name, share in shares.items() if share > 0 and not (fixed and name == "test")]
    if len(order) < len(wanted):
        raise UserError(
            f"{CLEAN}: {counted(len(groups), 'row')} in {counted(len(order), 'group')} of like rows are too few for "
            f"{' and '.join(sorted(wanted))}, which need a group each. Add rows that differ, or set split.validation "
            "or split.test to 0 in params.yaml."
        )
    parts = {name: _part(drawn[name], params) for name in order}
    for missing in wanted:
        sizes = Counter(parts.values())
        if not sizes[missing]:
            spare = [name for name in order if sizes[parts[name]] > 1]
            parts[spare[-1] if missing == "train" else spare[0]] = missing
    return [parts.get(name, "test") for name in groups]


def _draw(name: str, seed: int) -> float:
    """A number from 0 to 1."""
    return xxhash.xxh3_64_intdigest(f"{seed}:{name}".encode()) / 2**64


def _part(drawn: float, params: SplitParams) -> str:
    if drawn < params.test:
        return "test"
    return "validation" if drawn < params.test + params.validation else "train"


def _torn(grouping: Grouping, parts: NDArray[np.str_], similarity: float) -> Pairs:
    """The pairs of like rows that breaking up groups has put into different splits; nothing else may do so.

    Of a group with more than `_MOST_PAIRS` pairs across only those are named that were found in looking for groups.
    """

    def torn(pairs: Pairs) -> Pairs:
        return pairs[parts[pairs[:, 0]] != parts[pairs[:, 1]]]

    across = torn(grouping.alike)
    is_broken = np.zeros(len(parts), dtype=bool)
    is_broken[list(itertools.chain(*grouping.broken.values()))] = True
    if len(torn(grouping.bound)) or not is_broken[across].all():
        raise AssertionError("rows that belong together are in different splits")
    named = [across]
    for members in grouping.broken.values():
        by_part = [members[parts[members] == name] for name in NAMES]
        couples = list(itertools.combinations(by_part, 2))
        if sum(len(one) * len(other) for one, other in couples) > _MOST_PAIRS:
            continue
        for one, other in couples:
            pairs = np.stack([np.repeat(one, len(other)), np.tile(other, len(one))], axis=1)
            named.append(np.sort(pairs[jaccard(grouping.pieces, pairs) >= similarity], axis=1))
    return np.unique(np.concatenate(named), axis=0)


def _leaks(
    rows: Rows, members: Mapping[str, NDArray[np.int64]], benchmarks: Mapping[str, str], threshold: float
) -> tuple[dict[int, Reject], list[dict[str, Any]], list[dict[str, Any]]]:
    """The training rows that give away a question of the test split or of a benchmark, and those that share a piece.

    Also the pieces of such questions that many rows hold, with the first of them.
    """
    test = members["test"]
    sets: tuple[tuple[str, list[str], Words, NDArray[np.int64] | None], ...] = (
        ("test", [f"{rows.places[row]} (test)" for row in test], contamination.asked(rows.wording.take(test)), test),
        ("benchmarks", [f"{BENCHMARKS}/{place}" for place in benchmarks], hashed(benchmarks.values()), None),
    )
    shares: dict[int, float] = {}
    reasons: dict[int, Reject] = {}
    shared: dict[int, dict[str, Any]] = {}
    common = list[dict[str, Any]]()
    for by, places, questions, askers in sets:
        found = contamination.find(rows.wording, rows.turns, members["train"], questions, askers, threshold)
        for leak, is_leak in [*((one, True) for one in found.leaks), *((one, False) for one in found.overlaps)]:
            place = places[leak.question]
            detail = {"question": place, "share": round(leak.share, 3), "longest": leak.longest, "by": by}
            if not is_leak:
                shared.setdefault(leak.row, {"place": rows.places[leak.row]} | detail)
            elif leak.share > shares.get(leak.row, 0):
                shares[leak.row] = leak.share
                reason = f"the row gives away {leak.share:.0%} of the question at {place}"
                reasons[leak.row] = Reject(Code.CONTAMINATED, reason, detail)
        for one in found.common:
            detail = {"question": places[one.question], "questions": one.questions, "longest": one.longest, "by": by}
            common.append({"place": rows.places[one.row], "rows": one.rows} | detail)
    return reasons, [shared[row] for row in sorted(shared) if row not in reasons], common


def _by_category(categories: Sequence[str], members: Mapping[str, NDArray[np.int64]]) -> dict[str, dict[str, int]]:
    counts = {name: Counter(categories[row] for row in rows) for name, rows in members.items()}
    return {category: {name: counts[name][category] for name in NAMES} for category in sorted(set(categories))}


def read_benchmarks(folder: Path) -> dict[str, str]:
    """What each benchmark row asks, by its place below `folder`.

    Raises:
        UserError: a row cannot be read, so nothing could keep its question out of training.
    """
    asked = {}
    for place, _, question in question_rows.read(folder, "it cannot be held out"):
        own = question.input
        is_enough = own is not None and len(words(own)) >= contamination.RUN
        asked[place] = own if own is not None and is_enough else question.text
    return asked


def main() -> None:
    """Run the stage."""
    params, near_duplicate, seed = load(SplitParams), load(ValidateParams).near_duplicate, load_seed()
    experiments.require_all_files(BENCHMARKS)
    with runtime.measured("split") as figures:
        records = artifacts.read_parquet(CLEAN, "validate")
        splits = split(records, read_benchmarks(BENCHMARKS), params, near_duplicate, seed)
        with artifacts.replacing(SPLITS) as out:
            for name, table in splits.tables.items():
                artifacts.write_parquet(out / f"{name}.parquet", table)
            rejects.write(out / "rejected.jsonl", splits.rejected)
            artifacts.write_jsonl(out / "overlaps.jsonl", splits.overlaps)
        artifacts.write_json(REPORT, splits.metrics)
        figures["rows"] = len(records)
    without = [name for name, counts in splits.metrics["categories"].items() if not counts["test"]]
    if without and params.test:
        more = f" and {len(without) - _NAMED:,} more" if len(without) > _NAMED else ""
        named = ", ".join(without[:_NAMED]) + more
        warn(f"no test row judges the categories {named}. Add rows to them, or raise split.test.")
    if twins := splits.metrics["like_test_rows"]:
        warn(
            f"of {counted(splits.metrics['test']['rows'], 'test row')} {twins:,} ask nearly what rows of other splits "
            "ask, since rows that are alike are too large a part of a category to stay together. The test is easier "
            "than it looks; add rows that differ."
        )
    print(_summary(len(records), splits.metrics))
    _tell_moves(splits.placed, params, near_duplicate, seed)


def _tell_moves(placed: pa.Table, params: SplitParams, near_duplicate: float, seed: int) -> None:
    """Say which rows were in another split when the stage last ran here, and remember where they are now."""
    settings = {f"split.{key}": value for key, value in params.model_dump(exclude={"contamination"}).items()}
    settings |= {"validate.near_duplicate": near_duplicate, "seed": seed}
    before = moves.remembered(MEMORY)
    for sentence in moves.told(before, placed, settings) if before is not None else ():
        print(f"split: {sentence}")
    moves.remember(MEMORY, placed, settings)


def _summary(rows: int, metrics: Mapping[str, Any]) -> str:
    counts = " · ".join(f"{metrics[name]['rows']:,} {name}" for name in NAMES)
    broken = f" ({metrics['broken_groups']:,} broken up)" if metrics["broken_groups"] else ""
    stay, common = (metrics["overlaps"][key] for key in ("rows", "common"))
    told = [counted(stay, "overlap")] * (stay > 0) + [f"{counted(common, 'piece')} in many rows"] * (common > 0)
    more = f" · {' · '.join(told)} → {SPLITS / 'overlaps.jsonl'}" if told else ""
    return (
        f"split: {counted(rows, 'row')} in {counted(metrics['groups'], 'group')}{broken} · {counts} · "
        f"{metrics['contaminated']['rows']:,} contaminated → {SPLITS / 'rejected.jsonl'}{more}"
    )


if __name__ == "__main__":
    run(main)
