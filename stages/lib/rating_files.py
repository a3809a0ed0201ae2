"""Filled sheets as raters send them back: one CSV file a rater, as any spreadsheet saves it.

Commas, semicolons or tabs, columns in any order, with a byte order mark or without. Only the columns that hold ratings
are read; what else the sheet had may be there or not.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.lib import artifacts, sources
from stages.lib.errors import UserError
from stages.lib.questions import BETTER, COLUMNS, ITEM, QUESTIONS
from stages.lib.raw import RawRow

_NEEDED = (ITEM, BETTER)
# What raters write for an answer that the sheet offers in another word.
_SYNONYMS = {"y": "yes", "true": "yes", "n": "no", "false": "no", "tie": "same"}
# Begin the names of files that a spreadsheet keeps while it has one open, and that Windows leaves in folders.
_LEFT_BEHIND = ("~$", ".~lock.", "Thumbs.db", "desktop.ini")
# What browsers and file managers write around the name of a copy: `anna (1)`, `anna - Copy`, `Copy of anna`.
_COPY = re.compile(
    r"(?:(?:copy of|kopie von|copie de|copia de) )?(?P<name>.+?)(?: ?\(\d+\)|(?: -)? (?:copy|kopie)|(?: -)? ?副本)*"
)
_ITEM = re.compile(r"i[0-9a-f]{16}")


@dataclass(frozen=True)
class Rating:
    """What one rater said of one pair of answers."""

    rater: str
    place: str  # file:line
    item: str
    choices: Mapping[str, str]  # by question; one that was left empty is absent


def read(folder: Path) -> list[Rating]:
    """Every row of every file, in the order of files and lines.

    Raises:
        UserError: naming every fault with its place.
    """
    readable, strange = (
        [path for path in paths if not path.name.startswith(_LEFT_BEHIND)] for paths in sources.find(folder)
    )
    files = [path for path in readable if path.parent == folder and path.suffix.lower() == ".csv"]
    found = [one for path in files for one in _file(path)]
    filled = {one.rater for one in found if isinstance(one, Rating) and one.choices}
    copies = _copies([path for path in files if path.stem in filled])
    faults = [*_names(folder, readable, strange), *copies, *(one for one in found if isinstance(one, str))]
    if faults:
        raise UserError("\n       ".join(faults))
    return [one for one in found if isinstance(one, Rating)]


def _names(folder: Path, readable: list[Path], strange: list[Path]) -> Iterator[str]:
    """Faults of the files' names: each file is one rater's, and bears the rater's name."""
    raters: dict[str, Path] = {}
    for path in sorted([*readable, *strange]):
        if path in strange or path.suffix.lower() != ".csv":
            yield f"{path} is no rater's file: only CSV files are read here. Save it as CSV (UTF-8), or remove it."
        elif path.parent != folder:
            yield f"{path} lies in a folder of its own. Put it into {folder}, one file a rater."
        elif (other := raters.setdefault(path.stem.casefold(), path)) != path:
            yield f"{path} and {other} bear the name of one rater. Join them, or rename one."


def _copies(files: Sequence[Path]) -> Iterator[str]:
    """Files that one rater sent twice: counted as two raters, they would agree on all."""
    by_content: dict[str, Path] = {}
    by_name: dict[str, Path] = {}
    for path in sorted(files, key=lambda path: len(path.stem)):  # a copy has the longer name
        same = by_content.setdefault(artifacts.sha256(path), path)
        named = by_name.setdefault(_name(path), path)
        if same.stem.casefold() != path.stem.casefold():  # of one name is told already
            yield (
                f"{path} and {same} hold the same, to the byte. Remove one; if two raters did agree on all, write so "
                "under note in one of the files."
            )
        elif named.stem.casefold() != path.stem.casefold():
            yield f"{path} looks like a copy of {named}. Remove one, or, if two people rated, name each file after one."


def _name(path: Path) -> str:
    """The rater's name, without what marks a copy."""
    stem = unicodedata.normalize("NFKC", path.stem).casefold()  # full-width brackets, too
    found = _COPY.fullmatch(stem)
    return found["name"] if found else stem


def _file(path: Path) -> Iterator[Rating | str]:
    """The ratings of one file, and its faults."""
    rows = list(sources.read(path))
    yield from _columns(path, rows)
    for row in rows:
        place = f"{path}:{row.line}"
        if row.reject:
            yield f"{place}: {row.reject.reason}. {row.reject.code.remedy}"
        elif set(_NEEDED) <= set(row.value) and any(cell.strip() for cell in row.value.values()):
            yield from _row(path.stem, place, row.value)


def _columns(path: Path, rows: list[RawRow]) -> Iterator[str]:
    """Faults of the header: a column that is needed and missing, or one that is unknown and not empty."""
    rows = [row for row in rows if not row.reject]
    if not rows:
        return
    missing = [name for name in _NEEDED if name not in rows[0].value]
    for name in dict.fromkeys(name for row in rows for name in row.value if name not in COLUMNS):
        filled = next((row for row in rows if row.value.get(name, "").strip()), None)
        meant = _close(name)
        if filled is None and meant not in missing:
            continue
        place = f"{path}:{filled.line}" if filled else f"{path}"
        missing = [other for other in missing if other != meant]
        hint = f"Is {meant} meant?" if meant else "Write remarks under note, or remove the column."
        yield f'{place}: the column "{name}" is not one of the sheet\'s. {hint}'
    for name in missing:
        yield f'{path}: the column "{name}" is missing. Copy it from the sheet; ratings cannot be read without it.'


def _close(name: str) -> str | None:
    known = {column.casefold(): column for column in COLUMNS}
    return next((known[close] for close in difflib.get_close_matches(name.casefold(), known, n=1)), None)


def _row(rater: str, place: str, cells: Mapping[str, str]) -> Iterator[Rating | str]:
    """The rating of a row, or what is wrong with it."""
    faults = []
    item = cells[ITEM].strip()
    if not _ITEM.fullmatch(item):
        what = f'is "{item}", which names no pair of answers' if item else "is empty"
        faults.append(f"{place}: item {what}. Copy it from the same row of the sheet.")
    choices = {}
    for name, question in QUESTIONS.items():
        given = cells.get(name, "").strip()
        plain = unicodedata.normalize("NFKC", given).casefold()
        plain = _SYNONYMS.get(plain, plain)
        choice = next((choice for choice in question.choices if choice.casefold() == plain), None)
        if choice is not None:
            choices[name] = choice
        elif given:
            faults.append(f'{place}: {name} is "{given}". Write {_listed(question.choices)}, or leave it empty.')
    if faults:
        yield from faults
    else:
        yield Rating(rater, place, item, choices)


def _listed(choices: tuple[str, ...]) -> str:
    """`A, B or same`."""
    return f"{', '.join(choices[:-1])} or {choices[-1]}"
