"""The rows that a person should see: repeats beside what they repeat, what gave away a test question, what to look at.

They come from files with a row on every line; such a file can be larger than the memory, and is read line by line.
Where it is missing, what it tells is None, and the page says so.
"""

import difflib
import heapq
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from stages.lib import artifacts
from stages.lib.clusters import Clusters
from stages.lib.findings import ABOUT
from stages.lib.rejects import Code
from stages.lib.words import same

MOST_CLUSTERS = 5
MOST_EXAMPLES = 3  # of a cluster
MOST_LEAKS = 20
MOST_REMARKS = 10  # of a kind
LONGEST = 200  # characters of a text
LEAD = 60  # characters before the first difference, where that stands further down

_REPEATS = (Code.EXACT_DUPLICATE, Code.NEAR_DUPLICATE)
_BREAK = re.compile(r"\s*\n\s*")
_SPACES = re.compile(r"\s+")
# What a change consists of: words, blanks, signs; in scripts without spaces (see `words`) characters.
_TOKEN = re.compile(
    r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+|\s+|.", re.DOTALL
)

Row = Mapping[str, Any]
Piece = tuple[str, str]  # of a text: "" as it is, "ins" what the text beside it lacks, "del" what only that one has


@dataclass(frozen=True)
class Shown:
    """A row to be read."""

    place: str
    question: list[Piece]
    answer: list[Piece]
    similarity: float | None = None  # to the row that it repeats; None where it says the same


@dataclass(frozen=True)
class Cluster:
    """A row, and the rows that were left out because they repeat it."""

    first: Shown
    code: str  # why the first was left out itself, if it was
    repeats: int
    examples: list[Shown]  # the least similar, as changes of the first


@dataclass(frozen=True)
class Leak:
    """A training row that holds a piece of a question that is held out."""

    place: str
    text: list[Piece]  # what the row asks; empty where the file does not tell
    question: str  # where that stands
    share: float  # of the question's own words
    longest: int  # words in a row
    rows: int = 1  # that hold it; `place` is the first of them
    questions: int = 1  # that have it; `question` is the first of them


@dataclass(frozen=True)
class Leaks:
    """The worst of all."""

    shown: list[Leak]
    total: int


@dataclass
class Remarks:
    """Rows to look at, of one kind."""

    about: str
    total: int = 0
    shown: list[tuple[str, str]] = field(default_factory=list)  # place and reason of the first

    @property
    def meaning(self) -> str:
        """What `about` says."""
        return ABOUT.get(self.about, "")


def duplicates(clean: Path) -> list[Cluster] | None:
    """The largest clusters of repeated rows; of equals by the row's hash, so that nobody chose them."""
    rejected, records = clean / "rejected.jsonl", clean / "records.parquet"
    if not (rejected.exists() and records.exists()):
        return None
    clusters = Clusters.of(
        (row["record"]["id"], row["detail"]["repeats_id"])
        for row in _rejected(rejected, "validate", _REPEATS)
        if "repeats_id" in row["detail"]
    )
    largest = heapq.nsmallest(MOST_CLUSTERS, clusters.sizes.items(), key=lambda item: (-item[1], item[0]))
    names = {name for name, _ in largest}
    if not names:
        return []
    firsts = {row["id"]: (row, "") for row in _kept(records, names)}
    if lost := names - firsts.keys():
        dropped = _rejected(rejected, "validate", (Code.CONFLICTING_ANSWER,))
        firsts |= {row["record"]["id"]: (row["record"], row["code"]) for row in dropped if row["record"]["id"] in lost}
    repeats = _rows(rejected, "validate", [f'"repeats_id": "{name}"' for name in names])
    examples = _least_alike(repeats, names)
    return [_cluster(*firsts[name], size, examples[name]) for name, size in largest if name in firsts]


def _least_alike(repeats: Iterable[Row], names: Collection[str]) -> dict[str, list[Row]]:
    """For each row of these names, its repeats that are least like it; copies of a near-duplicate show nothing new."""
    found: dict[str, list[Row]] = {name: [] for name in names}
    for row in repeats:
        if (name := row["detail"].get("repeats_id")) in found:
            found[name] = heapq.nsmallest(MOST_EXAMPLES, [*found[name], row], key=_similarity)
    return found


def _kept(records: Path, ids: Collection[str]) -> list[Row]:
    """Only these rows: of the others no more than a batch is in memory."""
    columns = ["id", "source", "line", "messages"]
    return artifacts.read_parquet(records, "validate", columns, pc.field("id").isin(sorted(ids))).to_pylist()


def _rejected(path: Path, made_by: str, codes: Collection[str]) -> Iterator[Row]:
    """The rejected rows of some codes."""
    return (row for row in _rows(path, made_by, [f'"code": "{code}"' for code in codes]) if row["code"] in codes)


def _similarity(row: Row) -> float:
    return row["detail"].get("similarity", 1.0)


def _cluster(first: Row, code: str, size: int, examples: Iterable[Row]) -> Cluster:
    question, answer = _said(first)
    shown = []
    for row in examples:
        its_question, its_answer = _said(row["record"])
        changed = changes(question, its_question), changes(answer, its_answer)
        shown.append(Shown(_place(row), *changed, row["detail"].get("similarity")))
    return Cluster(Shown(_place(first), excerpt(question), excerpt(answer)), code, size, shown)


def leaks(splits: Path) -> Leaks | None:
    """The rows that were taken out of training, by the share of the question that they give away."""
    path = splits / "rejected.jsonl"
    if not path.exists():
        return None
    rows = (
        Leak(_place(row), excerpt(_said(row["record"])[0]), *_of_question(row["detail"]))
        for row in _rejected(path, "split", (Code.CONTAMINATED,))
    )
    return _worst(rows, by=("share", "longest"))


def overlaps(splits: Path) -> Leaks | None:
    """The training rows that stay though they share words with a held-out question, by how many in a row."""
    path = splits / "overlaps.jsonl"
    if not path.exists():
        return None
    alone = (row for row in _rows(path, "split") if "rows" not in row)
    return _worst((Leak(row["place"], [], *_of_question(row)) for row in alone), by=("longest", "share"))


def common(splits: Path) -> Leaks | None:
    """The pieces of held-out questions that many training rows hold, by how long they are."""
    path = splits / "overlaps.jsonl"
    if not path.exists():
        return None
    shared = (row for row in _rows(path, "split", ['"rows": ']) if "rows" in row)
    return _worst(
        (Leak(row["place"], [], row["question"], 0.0, row["longest"], row["rows"], row["questions"]) for row in shared),
        by=("longest",),
    )


def _of_question(row: Row) -> tuple[str, float, int]:
    return row["question"], row["share"], row["longest"]


def _worst(found: Iterable[Leak], by: Sequence[str]) -> Leaks:
    total = 0

    def counted() -> Iterator[Leak]:
        nonlocal total
        for leak in found:
            total += 1
            yield leak

    shown = heapq.nlargest(MOST_LEAKS, counted(), key=lambda leak: tuple(getattr(leak, name) for name in by))
    return Leaks(shown, total)


def remarks(clean: Path) -> list[Remarks] | None:
    """The rows that were kept and that a person should look at, by kind, the commonest first."""
    path = clean / "remarks.jsonl"
    if not path.exists():
        return None
    kinds: dict[str, Remarks] = {}
    for row in _rows(path, "validate"):
        kind = kinds.setdefault(row["about"], Remarks(row["about"]))
        kind.total += 1
        if kind.total <= MOST_REMARKS:
            kind.shown.append((_place(row), short(row["reason"])))
    return sorted(kinds.values(), key=lambda kind: (-kind.total, kind.about))


def short(text: str) -> str:
    """The beginning of a text, on one line."""
    line = _one_line(text)
    return _until(line, LONGEST) + (" …" if len(line) > LONGEST else "")


def excerpt(text: str) -> list[Piece]:
    """The beginning of a text that is compared with no other."""
    return [(short(text), "")] if text.strip() else []


def changes(before: str, after: str) -> list[Piece]:
    """The beginning of a text as changes of another; where the first change stands further down, from near there."""
    before, after = _one_line(before), _one_line(after)
    if before == after:
        return excerpt(after)
    pairs = enumerate(zip(before, after, strict=False))
    alike = next((place for place, (one, other) in pairs if one != other), min(len(before), len(after)))
    start = alike - LEAD if alike > LONGEST - LEAD else 0
    before, after = before[start:], after[start:]
    old, new = (_TOKEN.findall(_until(text, LONGEST)) for text in (before, after))
    pieces = [("… ", "")] if start else []
    plain = [[same(token) or " " for token in text] for text in (old, new)]
    matcher = difflib.SequenceMatcher(None, plain[0], plain[1], autojunk=False)
    for what, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        gone, come = "".join(old[old_from:old_to]), "".join(new[new_from:new_to])
        is_cut = (old_to, new_to) == (len(old), len(new)) and max(len(before), len(after)) > LONGEST
        if what == "equal" or is_cut:  # where a text was cut, nobody knows whether what follows is a change
            pieces.append((come, ""))
        else:
            pieces += [(gone, "del"), (come, "ins")]
    return [piece for piece in [*pieces, (" …" if len(after) > LONGEST else "", "")] if piece[0]]


def _until(text: str, length: int) -> str:
    """The beginning of a text, cut between words unless one of them is very long."""
    if len(text) <= length:
        return text
    whole = text[:length].rpartition(" ")[0]
    return whole if len(whole) > length - LEAD else text[:length]


def _one_line(text: str) -> str:
    """Line breaks as a reader can see them, other blanks as one."""
    return _SPACES.sub(" ", _BREAK.sub(" ↵ ", text.strip()))


def _said(record: Row) -> tuple[str, str]:
    """What a record asks (without the system text, which is the same in thousands of rows), and its answer."""
    turns = [turn["content"] for turn in record["messages"] if turn["role"] != "system"]
    return "\n".join(turns[:-1]), turns[-1]


def _place(row: Row) -> str:
    return f"{row['source']}:{row['line']}"


def _rows(path: Path, made_by: str, markers: Collection[str] = ()) -> Iterator[Row]:
    """The rows of a file, one after another; with markers only those that hold one of them."""
    with artifacts.reading(path, made_by), open(path, encoding="utf-8") as file:
        for line in file:
            if not markers or any(marker in line for marker in markers):
                yield json.loads(line)
