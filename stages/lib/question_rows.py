"""Rows that are only asked, never learned from: questions in any of the raw forms, answered or not."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stages.lib import sources
from stages.lib.errors import UserError, warn
from stages.lib.forms import Question, question_of
from stages.lib.rejects import Reject


class Asked(NamedTuple):
    """A row of a folder of questions."""

    place: str  # below the folder: `exam.jsonl:3`
    row: Any
    question: Question


def read(folder: Path, until_then: str) -> Iterator[Asked]:
    """Every row below `folder`, and what it asks. A file that cannot be read is named in a warning.

    Args:
        folder: may be missing.
        until_then: what cannot be done as long as a row is broken, for the sentence that says so.

    Raises:
        UserError: a row cannot be read, or asks nothing.
    """
    on_line = Counter[str]()
    files, strange = sources.find(folder)
    for path in strange:
        warn(f"{path} was not read: {sources.why_not(path)}.")
    for path in files:
        for found in sources.read(path):
            place = f"{path.relative_to(folder).as_posix()}:{found.line}"
            on_line[place] += 1
            if on_line[place] > 1:  # a JSON array may have all of its rows on one line
                place = f"{place} (row {on_line[place]} of the line)"
            question = question_of(found.value)
            if found.reject or question is None:
                reason, remedy = _fault(found.reject)
                raise UserError(f"{folder}/{place}: {reason}. {remedy} Until then {until_then}.")
            yield Asked(place, found.value, question)


def _fault(reject: Reject | None) -> tuple[str, str]:
    """Why a row asks nothing, and what to do about it."""
    if reject:
        return reject.reason, reject.code.remedy
    return "the row asks nothing", "Add a question, or remove the row."
