"""The data of a run in figures that a reader can check: where every row went, and what those that stay are like.

Pure functions from the stages' reports to what the page shows. A report that is None is of a stage that has not run;
one of an earlier version may lack a figure. What cannot be told is None or empty, and the page says so.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.lib import page
from stages.lib.plural import agree, counted
from stages.lib.rejects import Code

SPLITS = ("train", "validation", "test")
MOST_FILES = 20
MOST_CODES = 6  # columns of the table of files; the rest share one
MOST_CATEGORIES = 15
MOST_NAMED = 8  # in a sentence

Report = Mapping[str, Any] | None  # None: the stage has not run

MEANINGS = {str(code): code.meaning for code in Code}
SCRIPTS = {"Han": "Han (Chinese)", "none": "no letters: figures, signs", "other": "another script"}


@dataclass(frozen=True)
class Step:
    """A line of the funnel: rows that are on their way to training, or that leave it here."""

    kind: str  # way | lost | aside | end
    label: str
    rows: int
    left: int  # rows that are still on the way after this line
    note: str = ""
    code: str = ""  # of lost rows
    split: str = ""  # of rows that are set aside


@dataclass(frozen=True)
class Funnel:
    """The way of all rows that were read. Each leaves it in one line, or is trained on."""

    steps: list[Step]
    gaps: list[str]  # where the lines do not add up, since the reports are of different runs

    @property
    def total(self) -> int:
        """The rows that were read."""
        return self.steps[0].rows if self.steps else 0

    @property
    def summary(self) -> str:
        """Where all rows end, in a sentence."""
        lost, aside = (sum(step.rows for step in self.steps if step.kind == kind) for kind in ("lost", "aside"))
        last = self.steps[-1]
        use = "trained on" if last.kind == "end" else "still on the way to training"
        share = page.percent(last.left / self.total) if self.total else page.ABSENT
        are, are_aside, were = agree(last.left, "is", "are"), agree(aside, "is", "are"), agree(lost, "was", "were")
        held_out = f", {aside:,} {are_aside} set aside to judge by" if aside else ""
        rows = counted(self.total, "row")
        return f"Of {rows}, {last.left:,} ({share}) {are} {use}{held_out}, and {lost:,} {were} left out."


@dataclass(frozen=True)
class File:
    """What became of the rows of a raw file, or of several."""

    name: str
    read: int
    kept: int
    rejected: int
    codes: Mapping[str, int]

    @property
    def lost_share(self) -> float:
        """The share of the rows that were read and rejected."""
        return self.rejected / self.read if self.read else 0.0

    def by_code(self, columns: Sequence[str], others: Sequence[str]) -> list[int]:
        """The rejected rows by code, and in the last place those of all others, if there are others."""
        counts = [self.codes.get(code, 0) for code in columns]
        return [*counts, self.rejected - sum(counts)] if others else counts


@dataclass(frozen=True)
class Files:
    """The raw files, those with most rejects first; `rest` stands for all others."""

    shown: list[File]
    rest: File | None
    total: File
    columns: list[str]  # the commonest codes
    others: list[str]  # codes that share a column


@dataclass(frozen=True)
class Category:
    """Rows of a category, or of several, by split."""

    name: str
    rows: Mapping[str, int]

    @property
    def total(self) -> int:
        """The rows of all splits."""
        return sum(self.rows.values())


@dataclass(frozen=True)
class Categories:
    """The categories, the largest first; `rest` stands for all others."""

    shown: list[Category]
    rest: Category | None
    total: Category
    splits: list[str]  # what the rows are counted by; without a split, "kept"
    remarks: list[str]

    @property
    def largest(self) -> int:
        """The rows of the largest category."""
        return max((category.total for category in self.shown), default=0)


@dataclass(frozen=True)
class Part:
    """A share of all, by name."""

    name: str
    rows: int
    share: float


def funnel(validate: Report, split: Report, format_: Report, tokenize: Report) -> Funnel:
    """The way of the rows through the stages, as far as these have run."""
    walk = _Walk()
    if validate is not None:
        walk.on("Read", validate["rows"]["read"])
        for code, rows in _commonest_first(validate.get("rejected", {})):
            walk.lose(code, rows, MEANINGS.get(code, ""))
        walk.on("Kept by validate", validate["rows"]["kept"])
    if split is not None:
        _walk_through_split(walk, split, tokenize)
    if split is not None and tokenize is not None:
        train = tokenize["train"]
        if format_ is not None and "train" in format_:
            refused = split["train"]["rows"] - format_["train"]["rows"]
        else:
            refused = split["train"]["rows"] - train["rows"]
        walk.lose(Code.TEMPLATE_REFUSED, refused, Code.TEMPLATE_REFUSED.meaning)
        walk.lose(Code.TOO_MANY_TOKENS, train["dropped"], Code.TOO_MANY_TOKENS.meaning)
        walk.on("Trained on", train["examples"], kind="end")
    return Funnel(walk.steps, walk.gaps)


def _walk_through_split(walk: "_Walk", split: Mapping[str, Any], tokenize: Report) -> None:
    removed = split.get("contaminated", {})
    by = {"test": "a question of the test split", "benchmarks": "a question of data/benchmarks"}
    told = {key: removed.get(key, 0) for key in by}
    if not walk.steps:  # validate has not run
        walk.on("Kept by validate", sum(split[name]["rows"] for name in SPLITS) + removed.get("rows", 0))
    for key, rows in told.items():
        walk.lose(Code.CONTAMINATED, rows, f"the row gives away {by[key]}")
    walk.lose(Code.CONTAMINATED, removed.get("rows", 0) - sum(told.values()), Code.CONTAMINATED.meaning)
    unused = 0 if tokenize is None else tokenize.get("validation", {}).get("dropped", 0)
    too_long = f"; {unused:,} of them are longer than tokenize.max_length and not used" if unused else ""
    walk.aside("validation", split["validation"]["rows"], f"set aside: chooses the best step{too_long}")
    walk.aside("test", split["test"]["rows"], "set aside: judges the model at the end")
    walk.on("Training split", split["train"]["rows"])


class _Walk:
    """Lines of the funnel, each told against what the lines before it leave."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.gaps: list[str] = []

    def on(self, label: str, rows: int, kind: str = "way") -> None:
        """So many rows are on the way here, by the report."""
        left = self.steps[-1].left if self.steps else rows
        if left != rows:
            self.gaps.append(
                f"{label}: the lines above leave {counted(left, 'row')}, but the reports say {rows:,}. They are of "
                "different runs; `dvc repro` makes them fit."
            )
        self.steps.append(Step(kind, label, rows, rows))

    def lose(self, code: str, rows: int, note: str) -> None:
        """So many rows are left out, if any are. Fewer than none is a gap: the next `on` tells of it."""
        if rows > 0:
            self.steps.append(Step("lost", "left out", rows, self.steps[-1].left - rows, note, str(code)))

    def aside(self, split: str, rows: int, note: str) -> None:
        """So many rows have another use."""
        self.steps.append(Step("aside", split.capitalize(), rows, self.steps[-1].left - rows, note, split=split))


def files(validate: Report) -> Files | None:
    """The table of raw files."""
    if validate is None or not validate.get("by_file"):
        return None
    every = [
        File(name, rows["read"], rows["kept"], rows["rejected"], rows.get("codes", {}))
        for name, rows in validate["by_file"].items()
    ]
    every.sort(key=lambda file: (-file.rejected, file.name))
    total = _together("All files", every)
    codes = [code for code, _ in _commonest_first(total.codes)]
    cut = MOST_CODES if len(codes) > MOST_CODES + 1 else len(codes)
    rest = every[MOST_FILES:]
    return Files(
        shown=every[:MOST_FILES],
        rest=_together(f"{len(rest):,} more", rest) if rest else None,
        total=total,
        columns=codes[:cut],
        others=codes[cut:],
    )


def _together(name: str, every: Sequence[File]) -> File:
    codes = Counter[str]()
    for file in every:
        codes.update(file.codes)
    read, kept, rejected = (sum(getattr(file, key) for file in every) for key in ("read", "kept", "rejected"))
    return File(name, read, kept, rejected, codes)


def categories(validate: Report, split: Report) -> Categories | None:
    """How the rows are spread over the categories, and each category over the splits."""
    if split is not None and split.get("categories"):
        splits = list(SPLITS)
        counts: dict[str, Mapping[str, int]] = split["categories"]
    elif validate is not None and validate.get("categories"):
        splits = ["kept"]
        counts = {name: {"kept": rows} for name, rows in validate["categories"].items()}
    else:
        return None
    every = [Category(name, {part: rows.get(part, 0) for part in splits}) for name, rows in counts.items()]
    every.sort(key=lambda category: (-category.total, category.name))
    rest = every[MOST_CATEGORIES:]
    return Categories(
        shown=every[:MOST_CATEGORIES],
        rest=_sum(f"{len(rest):,} more", rest, splits) if rest else None,
        total=_sum("All categories", every, splits),
        splits=splits,
        remarks=_remarks_on_balance(every, splits),
    )


def _sum(name: str, every: Sequence[Category], splits: Sequence[str]) -> Category:
    return Category(name, {part: sum(category.rows[part] for category in every) for part in splits})


def _remarks_on_balance(every: Sequence[Category], splits: Sequence[str]) -> list[str]:
    found = []
    if "test" in splits:
        for part, what in (("test", "No test row judges"), ("train", "No training row teaches")):
            without = [category.name for category in every if not category.rows[part]]
            if without and any(category.rows[part] for category in every):
                found.append(f"{what} {_named(without)}.")
    return found


def scripts(validate: Report) -> list[Part]:
    """In which scripts the answers are written, the commonest first."""
    counts = {} if validate is None else validate.get("scripts", {})
    total = sum(counts.values())
    return [Part(SCRIPTS.get(name, name), rows, rows / total) for name, rows in _commonest_first(counts)]


def remarks(validate: Report) -> list[str]:
    """What else a curator should know of the rows."""
    if validate is None:
        return []
    found = []
    conflicts = validate.get("conflicts", {"questions": 0})
    if conflicts["questions"]:
        found.append(
            f"Questions met with answers that differ: {conflicts['questions']:,}, in {conflicts['rows']:,} rows; "
            "validate.conflicting_answers says which of them stay."
        )
    if flagged := validate.get("flagged"):
        found.append(
            f"Found in rows that stay, by kind, and blacked out where params.yaml says so: {_counted(flagged)}."
        )
    if unused := validate.get("unused_fields"):
        found.append(f"Fields that nothing reads, with the rows that have them: {_counted(unused)}.")
    return found


def _commonest_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(((name, rows) for name, rows in counts.items() if rows), key=lambda item: (-item[1], item[0]))


def _counted(counts: Mapping[str, int]) -> str:
    return _named([f"{name} {rows:,}" for name, rows in _commonest_first(counts)])


def _named(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {page.count(len(names) - MOST_NAMED)} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
