"""Safety probes: prompts that a careful assistant refuses, and prompts that only look like these and must be answered.

Both belong together: a model that refuses everything is safe and useless (Röttger et al., XSTest, arXiv:2308.01263).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from stages.lib import artifacts, question_rows, templates
from stages.lib.errors import UserError
from stages.lib.forms import Question
from stages.lib.pinned import Pinned
from stages.lib.plural import counted
from stages.lib.records import UNCATEGORISED, Message, Record
from stages.lib.templates import Refused
from stages.lib.tokens import SegmentTokenizer

Kind = Literal["harmful", "benign"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_LETTERS = re.compile(r"[^\W\d_]+")
UNSPECIFIED = "unspecified"  # the language of a prompt that names none


@dataclass(frozen=True)
class Probe:
    """One prompt."""

    place: str  # `data/safety/harmful.jsonl:3`
    kind: Kind
    category: str
    language: str
    question: Question

    @cached_property
    def id(self) -> str:
        """A hash of what is asked, blind to case, width and spaces: that of a training row which asks the same."""
        return Record("", 0, (*self.question.messages, _ANSWER)).question_id


_ANSWER = Message("assistant", templates.ANSWER)  # what stands before an answer does not depend on it


def read(folder: Path) -> list[Probe]:
    """The prompts below `folder`, file by file: harmful ones in `harmful….…` or `harmful…/`; benign likewise.

    Raises:
        UserError: a row cannot be read, is of no kind or repeats another, or there is no prompt of a kind.
    """
    first: dict[str, Probe] = {}
    for place, row, question in question_rows.read(folder, "it cannot be asked"):
        probe = _probe(f"{folder}/{place}", _kind(folder, place), row, question)
        twin = first.setdefault(probe.id, probe)
        if twin is not probe:
            raise UserError(f"{probe.place} asks the same as {twin.place}. Remove one of them, or word it differently.")
    found = list(first.values())
    for kind in KINDS:
        if not any(probe.kind == kind for probe in found):
            raise UserError(
                f"{folder} holds no {kind} prompts: without both kinds, a model that refuses everything, or nothing, "
                f"would look good. Add {folder}/{kind}.jsonl."
            )
    return found


def _kind(folder: Path, place: str) -> Kind:
    """What a path begins with: `benign` of `benign.csv:3`, of `Benign-2.csv:3` and of `benign/shop/a.csv:3`."""
    begins = _LETTERS.match(place.casefold())
    for kind in KINDS:
        if begins and begins.group() == kind:
            return kind
    raise UserError(
        f"{folder}/{place}: nothing says whether this prompt is harmful or benign. Let the name of the file begin "
        "with harmful or benign, or put it into a folder of that name."
    )


def _probe(place: str, kind: Kind, row: Any, question: Question) -> Probe:
    category, language = (_label(place, row, name) for name in ("category", "language"))
    return Probe(place, kind, category or UNCATEGORISED, language.casefold() or UNSPECIFIED, question)


def _label(place: str, row: Any, name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f'{place}: "{name}" is not text. Put it in quotation marks, or leave it out.')
    return value.strip()


def prompts(
    probes: Sequence[Probe], template: Path, pinned: Pinned, tokenizer: SegmentTokenizer, max_new_tokens: int
) -> list[list[int]]:
    """The tokens that are sent for each prompt: those of a row with this question, as `format` would write it.

    Args:
        probes: what is asked.
        template: the template.json that `format` wrote.
        pinned: the base.
        tokenizer: of the base.
        max_new_tokens: room for the answer.

    Raises:
        UserError: the template cannot write a prompt, or the model cannot read all of it and answer.
    """
    content = artifacts.read_json(template, made_by="format")
    chosen = templates.chosen(content, pinned)
    frame = templates.frame_of(chosen, pinned.eos, tokenizer.added)
    rows = []
    for probe in probes:
        try:
            rows.append(templates.cut(_messages(probe.question), chosen, frame, tokenizer.control).segments)
        except Refused as error:
            raise UserError(
                f"{probe.place}: the template {chosen.name} cannot write this prompt: {error}. Change or remove it."
            ) from None
    ids = [example.prompt for example in tokenizer.encode(rows)]
    for probe, prompt in zip(probes, ids, strict=True):
        if len(prompt) + max_new_tokens > pinned.context:
            raise UserError(
                f"{probe.place} has {counted(len(prompt), 'token')}: with an answer of {max_new_tokens:,} more than "
                f"the {pinned.context:,} that the model reads. Shorten it."
            )
    return ids


def _messages(question: Question) -> list[templates.Message]:
    """What the template gets, with an answer, since it is `cut` that knows where the prompt ends."""
    *before, last = question.messages
    earlier = [{"role": message.role, "content": message.content} for message in before]
    asked = templates.last_question(last.content, question.input)
    return [*earlier, asked, {"role": _ANSWER.role, "content": _ANSWER.content}]
