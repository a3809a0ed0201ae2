"""Chat templates: from a conversation to the text that a model reads, and to the part of it that is trained.

Every template is Jinja, read with the settings of transformers' `apply_chat_template` (transformers 5,
utils/chat_template_utils.py) but without importing it. What is trained is found by rendering, never by searching for
markers: the text before an answer (with the generation prompt) must be a prefix of the text with the answer, and the
difference is what the model has to write.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stages.lib.errors import UserError
from stages.lib.pinned import BASE, Pinned
from stages.lib.prompts import Segment

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
BUILT_IN = ("alpaca", "chatml")

# Put before a template's text; the comment takes the line break with it, so nothing else of the template changes.
BOS_FIRST = "{{ bos_token }}{# the base's tokenizer begins every text with it #}\n"
# An undefined name set to an undefined name stays undefined, here and in transformers: a template that asks whether
# the clock is there (Llama 3.2) writes its own fixed date, the same on the day of training and ever after.
NO_CLOCK = "{% set strftime_now = strftime_now_is_left_out %}\n"
# A string of JSON is one of Jinja too.
SYSTEM_FIRST = (
    "{% if messages[0].role != 'system' %}"
    "{% set messages = [{'role': 'system', 'content': TEXT}] + messages %}"
    "{% endif %}\n"
)

QUESTION, ANSWER = "retune-question", "retune-answer"  # a probe: stands in no template

Message = Mapping[str, str]  # role and content; a user's message may also have instruction and input


class Refused(Exception):
    """The template cannot write this conversation; the text says why."""


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template and the special tokens that it may write."""

    name: str
    source: str  # what travels with the adapter and the merged model
    tokens: Mapping[str, str]  # bos_token, eos_token, …

    def render(self, messages: Sequence[Message], answer_next: bool = False) -> str:
        """The text of a conversation; `answer_next` adds what calls for an answer (the generation prompt).

        Raises:
            Refused: when the template stops, by its own `raise_exception` or by a fault.
        """
        try:
            return self._compiled.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=answer_next, **self.tokens
            )
        except Exception as error:  # a template is foreign code: whatever it raises is its verdict on this row
            raise Refused(str(error)) from error

    @cached_property
    def _compiled(self) -> jinja2.Template:
        return _environment().from_string(self.source)


@dataclass(frozen=True)
class Frame:
    """What a template writes around an answer."""

    lead: str  # between prompt and answer, trained: an empty <think> block, say; mostly ""
    close: str  # after the answer, trained: "<|im_end|>", say
    blanks: str  # white space after that, which belongs to the next turn: not trained
    eos: str  # the base's end token where `close` holds no token that could stop generation, else ""
    stop: tuple[str, ...]  # texts at which generation ends


@dataclass(frozen=True)
class Cut:
    """A conversation, rendered and cut."""

    segments: list[Segment]
    trained_turns: int
    untrained_turns: int  # earlier answers that the template writes differently once the conversation has gone on
    context_turns: int  # earlier answers that are only read, because the row says so


def choose(
    choice: str, pinned: Pinned, base: Path = BASE, folder: Path = TEMPLATES, system: str | None = None
) -> ChatTemplate:
    """The template that `format.template` names, made to begin with BOS exactly once and to ignore the clock.

    A conversation without a system text gets `system`, if that is given. The template itself adds it, and so whoever
    uses the tuned model asks as in training without having to know.

    A base whose tokenizer adds BOS gets it from the template: chat servers tokenize a rendered template without adding
    special tokens, so this is the one place where training and every later use agree.

    Raises:
        UserError: when there is no such template, or it is no valid Jinja.
    """
    name, place, source = _find(choice, pinned, base, folder)
    tokens = _special_tokens(pinned)
    try:
        _environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{place}:{error.lineno}: not a valid Jinja template: {error.message}.") from None
    if "strftime_now" in source:
        source = NO_CLOCK + source
    if system is not None:
        source = SYSTEM_FIRST.replace("TEXT", json.dumps(system, ensure_ascii=False)) + source
    template = ChatTemplate(name, source, tokens)
    if pinned.adds_bos and pinned.bos and not _probe(template)[0].startswith(pinned.bos):
        template = ChatTemplate(name, BOS_FIRST + source, tokens)
    return template


def chosen(content: Mapping[str, Any], pinned: Pinned) -> ChatTemplate:
    """The template that `format` chose, out of the template.json that it wrote."""
    return ChatTemplate(content["template"], content["chat_template"], _special_tokens(pinned))


def _special_tokens(pinned: Pinned) -> dict[str, str]:
    """The special tokens that a template may write, under the names that it knows them by."""
    names = {"bos_token": pinned.bos, "eos_token": pinned.eos, "pad_token": pinned.pad, "unk_token": pinned.unk}
    return {name: token for name, token in names.items() if token is not None}


def last_question(content: str, own: str | None) -> Message:
    """The last question as a template gets it: with the two fields of an alpaca row, where `own` is its `input`."""
    question = {"role": "user", "content": content}
    if own is None:
        return question
    return question | {"instruction": content.removesuffix(own).removesuffix("\n\n"), "input": own}


def frame_of(template: ChatTemplate, eos: str | None, added: re.Pattern[str]) -> Frame:
    """Learn from a probe what the template writes around an answer, and where generation has to stop.

    `added` matches the tokens that the tokenizer never takes apart.

    An answer must end with a token that the model can learn and a server can stop at. Where the template ends it with
    plain text (ChatML on GPT-2) or with nothing, the base's end token follows it, and generation stops at both.

    Raises:
        UserError: when training text cannot be made with this template on this base.
    """
    prompt, text = _probe(template)
    lead, found, tail = text[len(prompt) :].partition(ANSWER)
    if not text.startswith(prompt) or not found:
        raise UserError(
            f"the template {template.name} does not write an answer right after the text that calls for it, so what "
            "the model should learn cannot be told apart. Set format.system to null if it is set, or format.template "
            "to chatml, alpaca or a file of your own."
        )
    close = tail.rstrip()
    token = added.search(close)
    if token is None and not eos:
        raise UserError(
            f"the template {template.name} ends an answer with no token, and the base has no end token: the model "
            "could not learn to stop. Choose another format.template or another base."
        )
    ends = (token[0] if token else close.strip(), eos)
    return Frame(
        lead=lead,
        close=close,
        blanks=tail[len(close) :],
        eos="" if token or not eos else eos,
        stop=tuple(dict.fromkeys(end for end in ends if end)),
    )


def cut(
    messages: Sequence[Message],
    template: ChatTemplate,
    frame: Frame,
    control: re.Pattern[str],
    only_read: Collection[int] = (),
) -> Cut:
    """Render a conversation that ends with an answer and cut it into as few segments as tell trained from untrained.

    A prompt stays in one piece, so that its tokens are those that a server makes of the whole text. Only a control
    token inside what somebody wrote (`control` matches it) is cut out, to be read as plain text.

    Args:
        only_read: places in `messages` of earlier answers that are not trained.

    Raises:
        Refused: when the template cannot write the conversation, or changes its beginning when the answer is added.
    """
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    prompts = [template.render(messages[:index], answer_next=True) for index in turns]
    written = [template.render(messages[: index + 1]) for index in turns]
    text = written[-1]
    spans = [_trained_span(prompt, so_far, text, frame) for prompt, so_far in zip(prompts, written, strict=True)]
    if spans[-1] is None:
        raise Refused("the template changes what stands before the last answer, or how the answer ends")
    wanted = [span for index, span in zip(turns, spans, strict=True) if index not in only_read]
    trained = [span for span in wanted if span is not None]
    text = text[: spans[-1][1]]
    segments = _split(text, trained, _literal_spans(messages, text, template, control))
    if frame.eos:
        segments.append(Segment(frame.eos, trained=True, literal=False))
    return Cut(segments, len(trained), len(wanted) - len(trained), len(spans) - len(wanted))


def _find(choice: str, pinned: Pinned, base: Path, folder: Path) -> tuple[str, Path, str]:
    """Name, place and text of the template that the user asked for."""
    own = pinned.chat_template(base)
    if choice == "auto":
        choice = "alpaca" if own is None else "tokenizer"
    if choice == "tokenizer":
        if own is None:
            raise UserError(
                f"params.yaml: format.template is tokenizer, but {pinned.name} has no chat template of its own. "
                "Set it to alpaca, chatml or a .jinja file."
            )
        return choice, base / "chat_template.jinja", own
    path = folder / f"{choice}.jinja" if choice in BUILT_IN else folder.parent / choice
    if path.suffix != ".jinja":
        raise UserError(
            f"params.yaml: format.template is {choice!r}; auto, tokenizer, {', '.join(BUILT_IN)} or the path of a "
            ".jinja file is allowed."
        )
    if folder not in path.resolve().parents:
        raise UserError(
            f"params.yaml: format.template is {choice}, which lies outside {folder.name}/, where DVC would not notice "
            f"an edit. Move it to {folder.name}/{path.name}."
        )
    place = path.resolve().relative_to(folder.parent)
    try:
        return choice if choice in BUILT_IN else place.as_posix(), place, path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"params.yaml: format.template is {choice}, but there is no such file.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8 at byte {error.start}. Save it as UTF-8.") from None


def _probe(template: ChatTemplate) -> tuple[str, str]:
    """The text of a shortest conversation before its answer and with it."""
    question = {"role": "user", "content": QUESTION}
    try:
        return (
            template.render([question], answer_next=True),
            template.render([question, {"role": "assistant", "content": ANSWER}]),
        )
    except Refused as error:
        raise UserError(
            f"the template {template.name} cannot write one question and one answer: {error}. "
            "Set format.template to chatml, alpaca or a file of your own, or format.system to null if it refuses that."
        ) from None


def _trained_span(prompt: str, written: str, text: str, frame: Frame) -> tuple[int, int] | None:
    """Where the answer that `written` adds to `prompt` is trained; None if `text` no longer holds it as written then.

    Some templates drop the reasoning of earlier answers (Qwen 3): these are not what the model wrote.
    """
    ending = frame.close + frame.blanks
    if not (written.startswith(prompt) and written[len(prompt) :].endswith(ending) and text.startswith(written)):
        return None
    return len(prompt), len(written) - len(frame.blanks)


def _literal_spans(
    messages: Sequence[Message], text: str, template: ChatTemplate, control: re.Pattern[str]
) -> list[tuple[int, int]]:
    """Where control tokens that somebody typed stand in `text`, the beginning of the rendered `messages`.

    The conversation is rendered once more with the tokens between marks, so that it does not matter what the template
    trims or repeats (the method of transformers' `sanitize_control_tokens`).
    """
    typed = "".join(value for message in messages for value in message.values())
    if not control.search(typed):
        return []
    private_use = map(chr, range(0xE000, 0xF900))
    opening, closing = islice((mark for mark in private_use if mark not in typed + text), 2)
    mark = partial(control.sub, rf"{opening}\g<0>{closing}")
    marked = template.render([{key: mark(value) for key, value in message.items()} for message in messages])
    pairs = re.compile(f"{opening}([^{opening}{closing}]*){closing}")
    if not pairs.sub(r"\1", marked).startswith(text):
        raise Refused("the template takes a control token inside a message apart, so it cannot be made plain text")
    starts = [found.start() - 2 * earlier for earlier, found in enumerate(pairs.finditer(marked))]
    lengths = [len(found[1]) for found in pairs.finditer(marked)]
    return [(start, start + length) for start, length in zip(starts, lengths, strict=True)]


def _split(text: str, trained: list[tuple[int, int]], literal: list[tuple[int, int]]) -> list[Segment]:
    """Cut `text` at the edges of the spans; spans of one kind do not overlap."""
    edges = sorted({0, len(text)}.union(*trained, *literal))
    return [
        Segment(
            text[start:end],
            trained=any(first <= start and end <= last for first, last in trained),
            literal=any(first <= start and end <= last for first, last in literal),
        )
        for start, end in pairwise(edges)
    ]


class _Generation(Extension):
    """`{% generation %}` marks answers for other tools; here it only writes what stands inside."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's own declaration)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja as transformers sets it up, but without a clock: a date in the text would make every day's data another."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
        autoescape=False,  # the text is for a model, not for a browser
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes `<`, `>`, `&` and `'` for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
