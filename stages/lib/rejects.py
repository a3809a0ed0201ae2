"""Why a row was left out: the closed list of reasons, and the file that keeps every row that was left out."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from stages.lib import artifacts


class Code(StrEnum):
    """What is wrong with a row. Meaning and remedy stand beside the code and are shown in docs/curator.md."""

    meaning: str
    remedy: str

    def __new__(cls, value: str, meaning: str, remedy: str) -> "Code":
        code = str.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        code.remedy = remedy
        return code

    NOT_UTF8 = (
        "not-utf8",
        "the row holds a byte that is not UTF-8",
        "Save the file as UTF-8 (in a spreadsheet: CSV UTF-8).",
    )
    UNREADABLE = (
        "unreadable",
        "the file cannot be read from this row on: it is damaged, cut off, or no such file as its name says",
        "Write or copy the file again, and let its name end in what it is.",
    )
    EMPTY_FILE = "empty-file", "the file holds no row", "Fill or remove the file."
    JSON_SYNTAX = (
        "json-syntax",
        "the text is not strict JSON at this line; what follows in a broken array is lost, and the run stops",
        "Mend the line; for help, paste it into a JSON checker, or open the file in VS Code.",
    )
    CSV_SYNTAX = (
        "csv-syntax",
        "the text is not CSV with a header at this line; where rows may have been swallowed, the run stops",
        "Mend the line in a text editor, or save the file as CSV again.",
    )
    MISSING_FIELD = (
        "missing-field",
        "a field that the row's form needs is not there",
        "Add the field (the first line of a CSV names them), or name yours under validate.columns in params.yaml.",
    )
    WRONG_TYPE = (
        "wrong-type",
        "a field holds another type than text, or the row is no object",
        "Write one text in quotation marks there, or what docs/curator.md shows for this form of row.",
    )
    WRONG_WEIGHT = (
        "wrong-weight",
        "a weight is no number above 0, a turn's is neither 0 nor 1, or every answer of the row has weight 0",
        "Write a number such as 0.5 or 2 (in a turn 0 or 1), leave it out, or remove a row that should not be trained.",
    )
    WRONG_CONSTRAINTS = (
        "wrong-constraints",
        "the row's `constraints` hold an unknown kind or a wrong value, or forbid what they ask for",
        "Write them as the table of kinds in docs/curator.md shows, or leave the field out.",
    )
    EMPTY_OUTPUT = (
        "empty-output",
        "the answer is empty, or holds only blanks and invisible characters",
        "Write the answer, or remove the row.",
    )
    EMPTY_PROMPT = (
        "empty-prompt",
        "the question is empty, or holds only blanks and invisible characters",
        "Write the question, or remove the row.",
    )
    PLACEHOLDER = (
        "placeholder",
        "the answer is one of validate.placeholders, such as <noinput>",
        "Write the answer, or remove the row.",
    )
    ECHO = "echo", "the answer is the question again", "Write an answer, or remove the row."
    REFUSAL = (
        "refusal",
        "the answer refuses, as a chat program does (only where validate.refusals is drop)",
        "Write what should be answered, or remove the row.",
    )
    REPETITION = (
        "repetition",
        "the answer repeats itself: a larger share of its 3-word runs than validate.max_repetition stood in it before",
        "Shorten the answer to what it says, or remove the row.",
    )
    WRONG_SCRIPT = (
        "wrong-script",
        "the row names its `language`, and most letters of the answer are of another script",
        "Correct the language, or the answer.",
    )
    ROLE_ORDER = (
        "role-order",
        "the turns of a conversation are not user, assistant, user, assistant …",
        "Let user and assistant take turns, the assistant last, or remove the row.",
    )
    UNKNOWN_ROLE = (
        "unknown-role",
        "a turn is spoken by somebody else than user, assistant or system, or by one of their other names",
        "Write user, assistant or system.",
    )
    TOOL_CALL = (
        "tool-call",
        "a tool is offered, called or speaks in the conversation, which cannot be trained here",
        "Remove the row; or, if nothing in it needs the tools, remove what names them.",
    )
    CONTROL_CHARACTERS = (
        "control-characters",
        "the text holds control characters or halves of characters",
        "Remove the character; it is invisible in most editors, so type the words around it anew.",
    )
    TOO_SHORT = (
        "too-short",
        "the answer has fewer characters than validate.min_answer_chars",
        "Write a longer answer, or lower validate.min_answer_chars in params.yaml.",
    )
    TOO_LONG = (
        "too-long",
        "the row has more characters than validate.max_chars",
        "Shorten the row, or raise validate.max_chars in params.yaml.",
    )
    SECRET = "secret", "the row holds what looks like an access key or a token", "Remove the key, and revoke it."
    PERSONAL_DATA = (
        "personal-data",
        "the row holds what looks like an e-mail address, a phone, card or ID number, or the IP address of a machine",
        "Remove it, or put an invented one at example.com in its place.",
    )
    UNSAFE = (
        "unsafe",
        "the row holds a phrase of the lexicon (data/unsafe.txt), or a classifier calls it unsafe",
        "Rewrite or remove the row; or, where it is harmless, take the phrase out of the lexicon.",
    )
    EXACT_DUPLICATE = (
        "exact-duplicate",
        "an earlier row says the same, but for case, width and spaces",
        "Remove one of the two.",
    )
    NEAR_DUPLICATE = (
        "near-duplicate",
        "an earlier row has nearly the same question and nearly the same answer",
        "Remove one of the two, or make them differ in what they teach.",
    )
    CONFLICTING_ANSWER = (
        "conflicting-answer",
        "another row answers the same question differently",
        "Decide on one answer.",
    )
    CONTAMINATED = (
        "contaminated",
        "the row repeats a question of the test split or of data/benchmarks",
        "Nothing: the row stays out of training.",
    )
    TEMPLATE_REFUSED = (
        "template-refused",
        "the chat template cannot write the conversation",
        "Change the row to what the template knows, or choose another template.",
    )
    TOO_MANY_TOKENS = (
        "too-many-tokens",
        "the row has more tokens than tokenize.max_length",
        "Shorten the row, or raise tokenize.max_length in params.yaml.",
    )


@dataclass(frozen=True)
class Reject:
    """A rule's decision about one row: the code, the reason in a sentence, and the values that were measured."""

    code: Code
    reason: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """A row that was left out, where it stood, and why."""

    source: str
    line: int
    reject: Reject
    record: Any
    cut: bool = False  # more than this row was lost: what follows in the file could not be read

    def row(self) -> dict[str, Any]:
        """The row of `rejected.jsonl`."""
        return {
            "source": self.source,
            "line": self.line,
            "code": str(self.reject.code),
            "reason": self.reject.reason,
            "detail": self.reject.detail,
            "record": _as_json(self.record),
        }

    def state(self) -> dict[str, Any]:
        """All of it, for `from_state`."""
        return self.row() | {"cut": self.cut}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Rejected":
        """What `state` was taken from; the record as JSON holds it."""
        reject = Reject(_CODES[state["code"]], state["reason"], state["detail"])
        return cls(state["source"], state["line"], reject, state["record"], state["cut"])


_CODES = {str(code): code for code in Code}


def _as_json(value: Any) -> Any:
    """A value as strict JSON can hold it: Parquet rows may bring dates, bytes, decimals and NaN."""
    try:
        json.dumps(value, allow_nan=False)  # nearly always it can, and this is soon known
    except (TypeError, ValueError):
        return _made_json(value)
    return value


def _made_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _made_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_made_json(item) for item in value]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def ordered(rejected: Iterable[Rejected]) -> list[Rejected]:
    """By file and line."""
    return sorted(rejected, key=lambda one: (one.source, one.line, one.reject.code))


def write(path: Path, rejected: Iterable[Rejected]) -> None:
    """Write `rejected.jsonl`, ordered by place."""
    artifacts.write_jsonl(path, (one.row() for one in ordered(rejected)))


def tally(rejected: Iterable[Rejected]) -> dict[str, int]:
    """Rejected rows by code, sorted by code."""
    return dict(sorted(Counter(str(one.reject.code) for one in rejected).items()))


def summary(counts: dict[str, int]) -> str:
    """`41 near-duplicate, 18 empty-output`: the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {code}" for code, count in ordered)
