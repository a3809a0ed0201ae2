"""Whether a record is fit to be learned from: rules that reject it, and the guard over secrets and personal data.

A rule decides and returns a value; counting and writing happen once, in the stage.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stages.lib.detectors import Detector, find
from stages.lib.records import Message, Record
from stages.lib.rejects import Code, Reject
from stages.lib.words import is_blank
from stages.params.validate import ValidateParams

Rule = Callable[[Record, ValidateParams], Reject | None]

# C0 but tab, line feed and carriage return; DEL and C1; and surrogates, halves of characters that have no UTF-8 form.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def control_characters(record: Record, _: ValidateParams) -> Reject | None:
    """Some text of the row holds a character that no reader sees and that breaks tokenizers, terminals or Parquet."""
    texts = [(_turn(record, number), message.content) for number, message in enumerate(record.messages)]
    for where, text in [*texts, ("the category", record.category), *(("a tag", tag) for tag in record.tags)]:
        found = _CONTROL.search(text)
        if found:
            character = f"U+{ord(found[0]):04X}"
            reason = f"{where} holds the control character {character} at position {found.start() + 1}"
            return Reject(Code.CONTROL_CHARACTERS, reason, {"character": character, "position": found.start() + 1})
    return None


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


def too_short(record: Record, params: ValidateParams) -> Reject | None:
    """The last answer has fewer characters than `min_answer_chars`; blanks around it do not count."""
    length = len(record.answer.strip())
    if length >= params.min_answer_chars:
        return None
    reason = f"the answer has {length} characters, fewer than {params.min_answer_chars}"
    return Reject(Code.TOO_SHORT, reason, {"length": length, "minimum": params.min_answer_chars})


def too_long(record: Record, params: ValidateParams) -> Reject | None:
    """Questions and answers together have more characters than `max_chars`."""
    length = sum(len(message.content) for message in record.messages)
    if length <= params.max_chars:
        return None
    reason = f"the row has {length:,} characters, more than {params.max_chars:,}"
    return Reject(Code.TOO_LONG, reason, {"length": length, "maximum": params.max_chars})


RULES: tuple[Rule, ...] = (empty_prompt, empty_output, control_characters, too_short, too_long)


def judge(record: Record, params: ValidateParams) -> Reject | None:
    """What the first rule that fires says."""
    return next((reject for rule in RULES if (reject := rule(record, params))), None)


def _turn(record: Record, number: int) -> str:
    """How a person would name a turn."""
    name = {"system": "the system text", "user": "the question", "assistant": "the answer"}[
        record.messages[number].role
    ]
    talk = sum(message.role == "user" for message in record.messages) > 1
    return f"{name} in turn {number + 1}" if talk else name


def protect(record: Record, params: ValidateParams) -> Record | Reject:
    """Flag, redact or refuse a record that holds secrets or personal data, as the params say."""
    found = {finding.detector for message in record.messages for finding in find(message.content)}
    kinds = sorted(found, key=lambda detector: (detector.code is not Code.SECRET, detector.kind))
    for detector in kinds:
        if _action(detector, params) == "drop":
            reason = f"the row holds what looks like {_article(detector.kind)}"
            return Reject(detector.code, reason, {"kind": detector.kind})
    if not kinds:
        return record
    messages = tuple(Message(message.role, mask(message.content, params)) for message in record.messages)
    tags = [*record.tags, *(f"{detector.code}:{detector.kind}" for detector in kinds)]
    own = None if record.input is None else mask(record.input, params)
    if own is not None and not messages[-2].content.endswith(own):
        own = None  # a key that begins in the instruction and ends in the input
    return replace(record, messages=messages, input=own, tags=tuple(dict.fromkeys(tags)))


def mask(value: Any, params: ValidateParams) -> Any:
    """Put a mask over everything found in a text, or in the texts inside a raw row, unless it is only to be flagged.

    Raw rows that are rejected pass through it too: what must not be learned must not be kept beside it either.
    """
    if isinstance(value, list):
        return [mask(item, params) for item in value]
    if isinstance(value, dict):
        return {key: mask(item, params) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    parts, done = [], 0
    for finding in find(value):
        if _action(finding.detector, params) != "flag":
            parts += [value[done : finding.start], finding.detector.mask]
            done = finding.end
    return "".join([*parts, value[done:]])


def _action(detector: Detector, params: ValidateParams) -> str:
    return params.secrets if detector.code is Code.SECRET else params.personal_data


def _article(kind: str) -> str:
    words = kind.replace("-", " ")
    return f"an {words}" if words[0] in "aeioAEIO" else f"a {words}"
