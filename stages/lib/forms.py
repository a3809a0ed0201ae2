"""The raw forms that a row may have, and how each becomes a record.

    OpenAI             messages: [{role, content}, …]
    ShareGPT           conversations: [{from, value}, …]
    alpaca             instruction, output, optional input and history: [[question, answer], …]
    prompt/completion  prompt, completion
    question/answer    question, answer

Each may have `system`, `category`, `tags` (texts), `language` (a code: zh), `weight` (a number: how much the row counts
in training), `constraints` (an object: what the answer has to keep to, see stages/lib/constraints.py) and `id` (not
read). A turn of the first two forms may have `weight` as well: an answer of weight 0 is only read, never trained
(OpenAI's fine-tuning format). A row that has the fields of two forms is read as the first of them. `validate.columns`
maps our field to the user's, for everything else. An optional field that is null or blank counts as absent. Fields that
nothing reads are ignored, and named so that they can be counted.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any, NamedTuple

from stages.lib import constraints, json_rows
from stages.lib.findings import findings_in
from stages.lib.plural import counted
from stages.lib.records import UNCATEGORISED, Message, Record
from stages.lib.rejects import Code, Reject
from stages.lib.words import bare, is_blank, same

# Who speaks, as public chat sets write it; compared without case and outer blanks.
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}

# Tools speak and are called under these names (OpenAI, ShareGPT, glaive, ipython of Llama).
TOOLS = {"tool", "tools", "tool_call", "tool_calls", "tool_response", "observation", "ipython"}
TOOLS |= {"function", "function_call", "function_response"}

# The least and the most that a row may weigh. Only ratios count, and fp32 sums these safely; what lies beyond is a time
# or an id in a field that happens to have the name.
LEAST, MOST = 1e-6, 1e6
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

LANGUAGE = "language:"  # begins the tag that keeps a row's language
NO_INPUT = f"{Code.PLACEHOLDER}:no-input"  # tags a row whose input said only that there is none


@dataclass(frozen=True)
class Parsed:
    """A record, and what of its row was not taken as it stands."""

    record: Record
    unused: tuple[str, ...]  # fields that nothing reads
    renamed: tuple[str, ...]  # speakers that were mapped to a role, as they stand in the row


class Question(NamedTuple):
    """What is asked; `input` is an alpaca row's own part of it."""

    text: str  # without the system text
    input: str | None
    messages: tuple[Message, ...]  # all that comes before the answer, the system text included


def parse(
    row: Any, source: str, line: int, columns: Mapping[str, str], placeholders: Iterable[str] = ()
) -> Parsed | Reject:
    """Read one decoded row of any known form."""
    if not isinstance(row, dict):
        return Reject(Code.WRONG_TYPE, f"the row is {_kind(row)}, not an object with fields")
    fields = _Fields(row, columns, tuple(placeholders))
    messages, own = _conversation(fields)
    category = fields.optional("category") or UNCATEGORISED
    tags = _tags(fields)
    weight = fields.weight()
    asked = fields.constraints()
    if not fields.faults:
        _check_turns(fields, messages)
    if fields.only_read and not fields.faults:
        messages = _until_last_trained(fields, messages)
    if fields.faults:
        return _all_at_once(fields.faults)
    record = Record(source, line, tuple(messages), own, category.strip(), tags, weight, asked)
    return Parsed(record, fields.unused(), tuple(fields.renamed))


def _all_at_once(faults: list[Reject]) -> Reject:
    """Everything that is wrong with a row, so that nobody has to mend it twice; the first fault gives the code."""
    return Reject(faults[0].code, "; ".join(fault.reason for fault in faults), faults[0].detail)


def question_of(row: Any) -> Question | None:
    """What a benchmark row asks: the question of any known form, answered or not, or a lone `question` or `text`."""
    parsed = parse(_only_asked(row), "", 0, {})
    if isinstance(parsed, Parsed):
        record = parsed.record
        return Question(record.question, record.input, record.messages[:-1])
    if not isinstance(row, dict):
        return None
    texts = {key: text for key, text in row.items() if isinstance(text, str) and not is_blank(text)}
    system = [Message("system", texts["system"])] if "system" in texts else []
    own = texts.get("input") if "instruction" in texts else None
    found = next((texts[key] for key in ("instruction", "prompt", "question", "text") if key in texts), None)
    if found is None:
        return None
    text = _joined(found, own)
    return Question(text, own, (*system, Message("user", text)))


def _only_asked(value: Any) -> Any:
    """A row without weights and constraints: it is held out whole, whatever would be trained or asked of its answer."""
    if isinstance(value, dict):
        return {key: _only_asked(inner) for key, inner in value.items() if key not in ("weight", "constraints")}
    return [_only_asked(inner) for inner in value] if isinstance(value, list) else value


class _Fields:
    """A row under our names for its fields, remembering which of them were read and what is wrong with them."""

    def __init__(self, row: Mapping[str, Any], columns: Mapping[str, str], placeholders: tuple[str, ...]) -> None:
        self._columns = columns
        self._placeholders = placeholders
        self._theirs = {ours: theirs for ours, theirs in columns.items() if theirs in row}
        self._row = row
        if self._theirs:
            taken = set(self._theirs.values())
            self._row = {key: value for key, value in row.items() if key not in taken}
            self._row |= {ours: row[theirs] for ours, theirs in self._theirs.items()}
        self._read = {"id"}
        self._strange: set[str] = set()
        self.tags: list[str] = []  # ours, beside the row's own
        self.renamed: list[str] = []
        self.only_read = False  # whether some answer has weight 0
        self.faults: list[Reject] = []

    def fault(self, code: Code, reason: str, **detail: Any) -> None:
        """Something is wrong, and the row cannot become a record."""
        self.faults.append(Reject(code, reason, detail))

    def shown(self, name: str) -> str:
        """The name that the user knows the field by."""
        return self._theirs.get(name, name)

    def names(self) -> str:
        """What the row has, in words."""
        names = [self.shown(name) for name in self._row]
        if not names:
            return "the row has no field"
        if len(names) == 1 and isinstance(next(iter(self._row.values())), list):
            return f'the row has only the list "{names[0]}"; if that holds the rows, leave nothing around it'
        hints = [f'is "{name}" meant for "{near_it}"?' for name in names if (near_it := near(name, names))]
        return "; ".join(["the row has " + ", ".join(names), *hints])

    def has_any(self, names: Iterable[str]) -> bool:
        for name in names:  # noqa: SIM110  # this is called for every row, and `any` takes three times as long
            if self._row.get(name) is not None:
                return True
        return False

    def get(self, name: str) -> Any:
        self._read.add(name)
        return self._row.get(name)

    def text(self, name: str) -> str:
        """A text that must be there, though it may be blank."""
        value = self.get(name)
        if value is None:
            theirs = self._columns.get(name)
            state = "null" if name in self._row else f"missing; {self.names()}"
            if theirs is not None and name not in self._row:
                state = f'missing: validate.columns calls it "{theirs}"; {self.names()}'
            self.fault(Code.MISSING_FIELD, f'"{self.shown(name)}" is {state}', field=self.shown(name))
            return ""
        return self.as_text(value, f'"{self.shown(name)}"')

    def optional(self, name: str) -> str | None:
        """A text, or None where it is missing, null or blank."""
        value = self.get(name)
        if value is None:
            return None
        text = self.as_text(value, f'"{self.shown(name)}"')
        return None if is_blank(text) else text

    def own_input(self) -> str | None:
        """An alpaca row's `input`, unless it only says that there is none."""
        own = self.optional("input")
        if own is None or not is_placeholder(same(own), self._placeholders):
            return own
        self.tags.append(NO_INPUT)
        return None

    def weight(self) -> float:
        """How much the row counts in training: 1 if it does not say. Text will do, as a CSV cell has it."""
        value = self.get("weight")
        if value is None or (isinstance(value, str) and is_blank(value)):
            return 1.0
        number = _number(value)
        if number is not None and LEAST <= number <= MOST:
            return float(number)
        shown = f'the text "{value}"' if isinstance(value, str) else _shown(value)
        reason = f'"{self.shown("weight")}" is {shown}, not a number from {LEAST:f} to {MOST:,.0f}'
        self.fault(Code.WRONG_WEIGHT, reason, field=self.shown("weight"))
        return 1.0

    def constraints(self) -> str | None:
        """What the answer has to keep to, as canonical JSON; None for nothing. A text will do, as a CSV cell has it."""
        value = self.get("constraints")
        if value is None or (isinstance(value, str) and is_blank(value)):
            return None
        found = constraints.parse(value) if not isinstance(value, str) else _constraints_in(value)
        if isinstance(found, dict):
            return constraints.canonical(found) if found else None
        shown = self.shown("constraints")
        for fault in found:
            self.fault(Code.WRONG_CONSTRAINTS, f'"{shown}": {fault}', field=shown)
        return None

    def as_text(self, value: Any, what: str) -> str:
        """A value that has to be a text."""
        if isinstance(value, str):
            return value
        self.fault(Code.WRONG_TYPE, f"{what} is {_shown(value)}, not text")
        return ""

    def as_list(self, value: Any, what: str) -> list[Any]:
        """A value that has to be a list."""
        if isinstance(value, list):
            return value
        self.fault(Code.WRONG_TYPE, f"{what} is {_kind(value)}, not a list")
        return []

    def ignore(self, names: str) -> None:
        """Name fields inside a field that nothing reads."""
        self._strange.add(names)

    def unused(self) -> tuple[str, ...]:
        """The fields that hold something and that nothing read."""
        rest = {self.shown(name) for name in self._row.keys() - self._read if self._row[name] is not None}
        return tuple(sorted(rest | self._strange))


def near(name: str, others: Iterable[str] = ()) -> str | None:
    """Our field whose name was mistyped so, if the row does not have that as well."""
    return next((field for field in _like(name) if field not in others), None)


@lru_cache(maxsize=4096)  # a file in no known form asks for the same few names in every row
def _like(name: str) -> list[str]:
    """Our fields with a name like this one, the likest first."""
    if name in FIELDS or "[]" in name:
        return []
    return difflib.get_close_matches(name.strip().lower(), FIELDS, len(FIELDS), 0.75)


def is_placeholder(plain: str, phrases: tuple[str, ...]) -> bool:
    """Whether a text, which went through `same`, is nothing but one of some words that stand for none."""
    return len(plain) <= _longest(phrases) + _SIGNS and bare(plain) in _plain(phrases)


_SIGNS = 8  # around a placeholder, at most: ` <noinput> `


@cache
def _plain(phrases: tuple[str, ...]) -> frozenset[str]:
    return frozenset(bare(same(phrase)) for phrase in phrases)


@cache
def _longest(phrases: tuple[str, ...]) -> int:
    return max(map(len, _plain(phrases)), default=0)


def _number(value: Any) -> int | float | None:
    """The number that a value is, or that it is the text of."""
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value.strip()) else None
    if isinstance(value, Decimal):  # a column of a Parquet file: to DuckDB, say, 0.5 is one
        return float(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _constraints_in(text: str) -> constraints.Constraints | constraints.Faults:
    try:
        value = json_rows.value_of(text)
        return {} if value is None else constraints.parse(value)
    except ValueError as error:
        return [str(error)]


def _shown(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"the number {value}" if is_number else _kind(value)


def _kind(value: Any) -> str:
    kinds: tuple[tuple[Any, str], ...] = (
        (type(None), "null"),
        (bool, "true or false"),
        ((int, float), "a number"),
        (str, "text"),
        (list, "a list"),
        (dict, "an object"),
    )
    return next((words for kind, words in kinds if isinstance(value, kind)), f"of type {type(value).__name__}")


def _conversation(fields: _Fields) -> tuple[list[Message], str | None]:
    """The messages in order, and what stood in an alpaca row's `input`."""
    for needed, reader in _FORMS:
        if fields.has_any(needed):
            messages, own = reader(fields)
            break
    else:
        fields.fault(Code.MISSING_FIELD, f"no known form: {fields.names()}")
        return [], None
    system = fields.optional("system")
    if system is not None:
        messages.insert(0, Message("system", system))
    elif messages and messages[0].role == "system" and is_blank(messages[0].content):
        del messages[0]
    return messages, own


def _openai(fields: _Fields) -> tuple[list[Message], None]:
    return _turns(fields, "messages"), None


def _sharegpt(fields: _Fields) -> tuple[list[Message], None]:
    return _turns(fields, "conversations"), None


def _alpaca(fields: _Fields) -> tuple[list[Message], str | None]:
    messages = []
    for number, pair in enumerate(fields.as_list(fields.get("history") or [], '"history"'), 1):
        what = f"pair {number} of the history"
        both = fields.as_list(pair, what)
        if isinstance(pair, list) and len(both) != 2:
            fields.fault(Code.WRONG_TYPE, f"{what} has {counted(len(both), 'text')}, not a question and an answer")
        for role, said in zip(("user", "assistant"), both, strict=False):
            messages.append(Message(role, fields.as_text(said, what)))
    own = fields.own_input()
    messages.append(Message("user", _joined(fields.text("instruction"), own)))
    messages.append(Message("assistant", fields.text("output")))
    return messages, own


def _joined(instruction: str, own: str | None) -> str:
    if own is None:
        return instruction
    return own if is_blank(instruction) else f"{instruction}\n\n{own}"


def _prompt_completion(fields: _Fields) -> tuple[list[Message], None]:
    return [Message("user", fields.text("prompt")), Message("assistant", fields.text("completion"))], None


def _question_answer(fields: _Fields) -> tuple[list[Message], None]:
    return [Message("user", fields.text("question")), Message("assistant", fields.text("answer"))], None


_FORMS: tuple[tuple[tuple[str, ...], Callable[[_Fields], tuple[list[Message], str | None]]], ...] = (
    (("messages",), _openai),
    (("conversations",), _sharegpt),
    (("instruction", "output"), _alpaca),
    (("prompt", "completion"), _prompt_completion),
    (("question", "answer"), _question_answer),
)
# What `validate.columns` may name on its left side.
FIELDS = (
    *(name for needed, _ in _FORMS for name in needed),
    "input",
    "history",
    "system",
    "category",
    "tags",
    "language",
    "weight",
    "constraints",
    "id",
)


def _turns(fields: _Fields, name: str) -> list[Message]:
    """A list of turns; either form's keys will do, since public sets mix them."""
    messages, tools = [], []
    for number, turn in enumerate(fields.as_list(fields.get(name), f'"{fields.shown(name)}"'), 1):
        what = f"turn {number}"
        if not isinstance(turn, dict):
            fields.fault(Code.WRONG_TYPE, f"{what} is {_kind(turn)}, not an object")
            continue
        speaker, said = ("role", "content") if "role" in turn else ("from", "value")
        if _plainly(turn.get(speaker)) in TOOLS or turn.get("tool_calls") or turn.get("function_call"):
            tools.append(number)
            continue
        role = _role(turn.get(speaker), what, fields)
        if turn.get(said) is None:
            fields.fault(Code.MISSING_FIELD, f'{what} has no "{said}"', turn=number)
        else:
            text = fields.as_text(turn[said], f'"{said}" of {what}')
            messages.append(Message(role, text, _turn_weight(turn.get("weight"), role, number, name, fields)))
        for key in turn.keys() - {speaker, said, "weight"}:
            if turn[key] is not None:
                fields.ignore(f"{fields.shown(name)}[].{key}")
    offered = fields.get("tools")
    if tools:
        which = ", ".join(map(str, tools))
        turns = f"turn {which} is a tool's, or calls" if len(tools) == 1 else f"turns {which} are a tool's, or call"
        fields.fault(Code.TOOL_CALL, f"{turns} one; tools cannot be trained here", turns=tools)
    elif offered and (not isinstance(offered, str) or _plainly(offered) not in ("", "[]", "{}", "null")):
        fields.fault(Code.TOOL_CALL, "the row offers tools, which cannot be trained here", field="tools")
    return messages


def _turn_weight(weight: Any, role: str, number: int, name: str, fields: _Fields) -> int | None:
    """0 for an answer that is only read; else None, since answers are trained and nothing else is."""
    if weight is None:
        return None
    if isinstance(weight, bool) or weight not in (0, 1):
        fields.fault(Code.WRONG_WEIGHT, f'"weight" of turn {number} is {_shown(weight)}, not 0 or 1', turn=number)
    elif role == "assistant" and weight == 0:
        fields.only_read = True
        return 0
    elif role != "assistant" and weight == 1:
        fields.ignore(f"{fields.shown(name)}[].weight ({role})")
    return None


def _plainly(value: Any) -> str:
    return value.strip().casefold() if isinstance(value, str) else ""


def _role(tag: Any, what: str, fields: _Fields) -> str:
    if tag is None:
        fields.fault(Code.MISSING_FIELD, f"{what} does not say who speaks")
        return ""
    role = ROLES.get(_plainly(fields.as_text(tag, f"the speaker of {what}")), "")
    if not role and isinstance(tag, str):
        fields.fault(Code.UNKNOWN_ROLE, f'{what} is spoken by "{tag}"', tag=tag)
    elif tag != role:
        fields.renamed.append(tag)
    return role


def _check_turns(fields: _Fields, messages: list[Message]) -> None:
    """An optional system text, then user and assistant in turns, the assistant last. Nothing is merged or invented."""
    if not messages:
        fields.fault(Code.ROLE_ORDER, "the conversation has no turn")
        return
    first = int(messages[0].role == "system")
    for number, message in enumerate(messages[first:]):
        due = ("user", "assistant")[number % 2]
        if message.role != due:
            fields.fault(Code.ROLE_ORDER, f"turn {first + number + 1} is {message.role}, where {due} is due")
            return  # all that follow are out of step, too
    if messages[-1].role != "assistant":
        fields.fault(Code.ROLE_ORDER, f"the conversation ends with {messages[-1].role}, not with an answer")


def _until_last_trained(fields: _Fields, messages: list[Message]) -> list[Message]:
    """The conversation without what follows its last trained answer, which no loss depends on: a model reads forwards.

    So the last answer, by which a row is judged and compared everywhere else, is always one that is trained.
    """
    trained = [place for place, message in enumerate(messages) if message.role == "assistant" and message.weight != 0]
    if not trained:
        fields.fault(Code.WRONG_WEIGHT, "every answer has weight 0, so there is nothing to train")
        return messages
    if trained[-1] + 1 < len(messages):
        name = "messages" if fields.has_any(["messages"]) else "conversations"
        fields.ignore(f"{fields.shown(name)}[] after the last answer with weight 1")
    return messages[: trained[-1] + 1]


def _tags(fields: _Fields) -> tuple[str, ...]:
    """A list of texts; one text is one tag, as a CSV cell has it. What only rules may say is ignored, and named so."""
    value = fields.get("tags")
    items = [value] if isinstance(value, str) else fields.as_list(value or [], '"tags"')
    tags = [tag.strip() for tag in (fields.as_text(item, "a tag") for item in items) if not is_blank(tag)]
    for code, kind in list(findings_in(tags)):
        fields.ignore(f"{fields.shown('tags')}[].{code}:…")
        tags.remove(f"{code}:{kind}")
    language = fields.optional("language")
    return (*tags, *fields.tags, *([f"{LANGUAGE}{language.strip()}"] if language else []))
