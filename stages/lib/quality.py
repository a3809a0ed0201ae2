"""Whether a record is fit to be learned from: rules that reject it, and the guard over secrets and personal data.

A rule decides and returns a value; counting and writing happen once, in the stage.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from stages.lib import constraints, refusals, scripts
from stages.lib.detectors import NAMES, Detector, find, may_hold
from stages.lib.findings import BREAKS, CONSTRAINTS
from stages.lib.forms import LANGUAGE, is_placeholder
from stages.lib.plural import counted
from stages.lib.records import Record
from stages.lib.rejects import Code, Reject
from stages.lib.words import is_blank, words
from stages.params.validate import ValidateParams

Rule = Callable[[Record, ValidateParams], Reject | None]

# C0 but tab, line feed and carriage return; DEL and C1; and surrogates, halves of characters that have no UTF-8 form.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def control_characters(record: Record, _: ValidateParams) -> Reject | None:
    """Some text of the row holds a character that no reader sees and that breaks tokenizers, terminals or Parquet."""
    for number, text in enumerate(_texts(record)):
        if not text.isprintable() and (found := _CONTROL.search(text)):
            turns = len(record.messages)
            after = ("the category", *["a tag"] * len(record.tags), "a constraint")
            where = _turn(record, number) if number < turns else after[number - turns]
            character = f"U+{ord(found[0]):04X}"
            reason = f"{where} holds the control character {character} at position {found.start() + 1}"
            return Reject(Code.CONTROL_CHARACTERS, reason, {"character": character, "position": found.start() + 1})
    return None


def _texts(record: Record) -> list[str]:
    """All that a record holds: its turns, its category, its tags, its constraints."""
    said = [*(message.content for message in record.messages), record.category, *record.tags]
    return said if record.constraints is None else [*said, record.constraints]


def empty_prompt(record: Record, _: ValidateParams) -> Reject | None:
    """A question is blank to a reader."""
    return _blank(record, "user", Code.EMPTY_PROMPT)


def empty_output(record: Record, _: ValidateParams) -> Reject | None:
    """An answer is blank to a reader."""
    return _blank(record, "assistant", Code.EMPTY_OUTPUT)


def _blank(record: Record, role: str, code: Code) -> Reject | None:
    for number, message in enumerate(record.messages):
        if message.role == role and is_blank(message.content):
            return Reject(code, f"{_turn(record, number)} is empty")
    return None


def placeholder(record: Record, params: ValidateParams) -> Reject | None:
    """The last answer is a word that stands for none: `<noinput>`, or the `nan` of a table that went through pandas."""
    if not is_placeholder(record.messages[-1].plain, tuple(params.placeholders)):
        return None
    said = record.answer.strip()
    return Reject(Code.PLACEHOLDER, f'the answer is only "{said}"', {"answer": said})


def echo(record: Record, _: ValidateParams) -> Reject | None:
    """The last answer is the question again. A row's `input` may come back unchanged: there was nothing to correct."""
    if record.messages[-1].plain == record.messages[-2].plain:
        return Reject(Code.ECHO, "the answer is the question again")
    return None


REFUSED = f"{Code.REFUSAL}:refusal"  # tags a row whose answer refuses


def refuses(record: Record) -> bool:
    """The last answer begins as chat programs refuse, in English or Chinese."""
    return refusals.is_canned(record.messages[-1].plain)


def refusal(record: Record, params: ValidateParams) -> Reject | None:
    """The last answer refuses, and `refusals` says to drop such rows."""
    if params.refusals == "drop" and refuses(record):
        return Reject(Code.REFUSAL, "the answer refuses, as a chat program does")
    return None


def repetition(record: Record, params: ValidateParams) -> Reject | None:
    """Most of the last answer's runs of three words stood in it before; answers of fewer than 50 words never count."""
    said = record.messages[-1].plain
    if len(said) < (3 * _RUNS if said.isascii() else _RUNS):
        return None
    quick = said.split()
    if len(set(quick)) - 2 > (1 - params.max_repetition) * len(quick):  # each word that is new begins a new run
        return None
    found = words(said)
    runs = list(zip(found, found[1:], found[2:], strict=False))
    share = 1 - len(set(runs)) / len(runs) if len(found) >= _RUNS else 0
    if share <= params.max_repetition:
        return None
    reason = (
        f"the answer repeats itself: {share:.0%} of its 3-word runs stood in it before, more than "
        f"validate.max_repetition ({params.max_repetition:.0%})"
    )
    return Reject(Code.REPETITION, reason, {"share": round(share, 3), "maximum": params.max_repetition})


_RUNS = 50  # words


def wrong_script(record: Record, _: ValidateParams) -> Reject | None:
    """The row names its `language`, and fewer than half of the last answer's letters are of that language's script."""
    language = next((tag.removeprefix(LANGUAGE) for tag in record.tags if tag.startswith(LANGUAGE)), None)
    share = scripts.share_of(record.answer, language) if language else None
    if share is None or share >= 0.5:
        return None
    reason = (
        f'the row says its language is "{language}", but only {share:.0%} of the answer\'s letters are of its script'
    )
    return Reject(Code.WRONG_SCRIPT, reason, {"language": language, "share": round(share, 3)})


def too_short(record: Record, params: ValidateParams) -> Reject | None:
    """The last answer has fewer characters than `min_answer_chars`; blanks around it do not count."""
    length = len(record.answer.strip())
    if length >= params.min_answer_chars:
        return None
    reason = f"the answer has {counted(length, 'character')}, fewer than {params.min_answer_chars}"
    return Reject(Code.TOO_SHORT, reason, {"length": length, "minimum": params.min_answer_chars})


def too_long(record: Record, params: ValidateParams) -> Reject | None:
    """Questions and answers together have more characters than `max_chars`."""
    length = sum(len(message.content) for message in record.messages)
    if length <= params.max_chars:
        return None
    reason = f"the row has {counted(length, 'character')}, more than {params.max_chars:,}"
    return Reject(Code.TOO_LONG, reason, {"length": length, "maximum": params.max_chars})


RULES: tuple[Rule, ...] = (
    empty_prompt,
    empty_output,
    control_characters,
    placeholder,
    echo,
    too_short,
    too_long,
    refusal,
    repetition,
    wrong_script,
)


def broken(record: Record) -> Iterator[str]:
    """Tags for the constraints of the row that its own answer does not keep to."""
    kept = constraints.kept(record.answer, json.loads(record.constraints)) if record.constraints else {}
    yield from (f"{CONSTRAINTS}:{BREAKS}{kind}" for kind, is_kept in kept.items() if not is_kept)


def judge(record: Record, params: ValidateParams) -> Reject | None:
    """What the first rule that fires says."""
    for rule in RULES:
        if reject := rule(record, params):
            return reject
    return None


def _turn(record: Record, number: int) -> str:
    """How a person would name a turn."""
    name = {"system": "the system text", "user": "the question", "assistant": "the answer"}[
        record.messages[number].role
    ]
    talk = sum(message.role == "user" for message in record.messages) > 1
    return f"{name} in turn {number + 1}" if talk else name


def protect(record: Record, params: ValidateParams) -> Record | Reject:
    """Flag, redact or refuse a record that holds secrets or personal data, as the params say."""
    texts = _texts(record)
    if not may_hold("\n".join(texts)):
        return record
    found = {finding.detector for text in texts for finding in find(text)}
    kinds = sorted(found, key=lambda detector: (detector.code is not Code.SECRET, detector.kind))
    for detector in kinds:
        if _action(detector, params) == "drop":
            reason = f"the row holds what looks like {NAMES[detector.kind]}"
            return Reject(detector.code, reason, {"kind": detector.kind})
    if not kinds:
        return record
    for detector in {finding.detector for finding in find(record.constraints or "")}:
        if _action(detector, params) == "redact":  # a mask would be a pattern, or asked for
            reason = f"the row's constraints hold what looks like {NAMES[detector.kind]}, and cannot be blacked out"
            return Reject(detector.code, reason, {"kind": detector.kind})
    messages = tuple(replace(message, content=mask(message.content, params)) for message in record.messages)
    tags = [f"{detector.code}:{detector.kind}" for detector in kinds]
    own = None if record.input is None else mask(record.input, params)
    if own is not None and not messages[-2].content.endswith(own):
        own = None  # a key that begins in the instruction and ends in the input
    category, theirs = mask(record.category, params), mask(list(record.tags), params)
    return replace(record, messages=messages, input=own, category=category, tags=tuple(theirs)).tagged(tags)


def mask(value: Any, params: ValidateParams) -> Any:
    """Put a mask over everything found in a text, or in the texts inside a raw row, unless it is only to be flagged.

    Raw rows that are rejected pass through it too: what must not be learned must not be kept beside it either. There a
    telephone number may stand as a number, and where a CSV file lacks its header, the first row as names of fields.
    """
    if isinstance(value, list):
        return [mask(item, params) for item in value]
    if isinstance(value, dict):
        return _masked_fields(value, params)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if (masked := mask(str(value), params)) == str(value) else masked
    if not isinstance(value, str):
        return value
    parts, done = [], 0
    for finding in find(value):
        if _action(finding.detector, params) != "flag":
            parts += [value[done : finding.start], finding.detector.mask]
            done = finding.end
    return "".join([*parts, value[done:]])


def _masked_fields(row: dict[str, Any], params: ValidateParams) -> dict[str, Any]:
    """A row with its names masked, too. Those that became the same are numbered: no field takes another's place."""
    masked: dict[str, Any] = {}
    again = Counter[str]()
    for key, value in row.items():
        name = numbered = mask(key, params)
        while numbered in masked:
            again[name] += 1
            numbered = f"{name} {again[name] + 1}"
        masked[numbered] = mask(value, params)
    return masked


def _action(detector: Detector, params: ValidateParams) -> str:
    return params.secrets if detector.code is Code.SECRET else params.personal_data
