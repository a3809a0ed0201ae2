"""The raw forms that a row may have, and how each becomes a record.

    OpenAI             messages: [{role, content}, …]
    ShareGPT           conversations: [{from, value}, …]
    alpaca             instruction, output, optional input and history: [[question, answer], …]
    prompt/completion  prompt, completion

Each may have `system`, `category`, `tags` (texts) and `id` (not read). A row that has the fields of two forms is read
as the first of them. `validate.columns` maps our field to the user's, for everything else. An optional field that is
null or blank counts as absent. Fields that nothing reads are ignored, and named so that they can be counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from stages.lib.records import UNCATEGORISED, Message, Record
from stages.lib.rejects import Code, Reject
from stages.lib.words import is_blank

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


@dataclass(frozen=True)
class Parsed:
    """A record, and what of its row was not taken as it stands."""

    record: Record
    unused: tuple[str, ...]  # fields that nothing reads
    renamed: tuple[str, ...]  # speakers that were mapped to a role, as they stand in the row


class Question(NamedTuple):
    """What is asked; `input` is an alpaca row's own part of it."""

    text: str
    input: str | None


def parse(row: Any, source: str, line: int, columns: Mapping[str, str]) -> Parsed | Reject:
    """Read one decoded row of any known form."""
    if not isinstance(row, dict):
        return Reject(Code.WRONG_TYPE, f"the row is {_kind(row)}, not an object with fields")
    fields = _Fields(row, columns)
    try:
        messages, own = _conversation(fields)
        category = fields.optional("category") or UNCATEGORISED
        record = Record(source, line, tuple(messages), own, category.strip(), _tags(fields))
    except _Unfit as unfit:
        return unfit.reject
    return Parsed(record, fields.unused(), tuple(fields.renamed))


def question_of(row: Any) -> Question | None:
    """What a benchmark row asks: the question of any known form, answered or not, or a lone `question` or `text`."""
    parsed = parse(row, "", 0, {})
    if isinstance(parsed, Parsed):
        return Question(parsed.record.question, parsed.record.input)
    if not isinstance(row, dict):
        return None
    texts = {key: text for key, text in row.items() if isinstance(text, str) and not is_blank(text)}
    if "instruction" in texts:
        return Question(_joined(texts["instruction"], texts.get("input")), texts.get("input"))
    return next((Question(texts[key], None) for key in ("prompt", "question", "text") if key in texts), None)


class _Unfit(Exception):
    """Ends the reading of a row that cannot become a record."""

    def __init__(self, code: Code, reason: str, **detail: Any) -> None:
        super().__init__(reason)
        self.reject = Reject(code, reason, detail)


class _Fields:
    """A row under our names for its fields, remembering which of them were read."""

    def __init__(self, row: Mapping[str, Any], columns: Mapping[str, str]) -> None:
        self._theirs = {ours: theirs for ours, theirs in columns.items() if theirs in row}
        taken = set(self._theirs.values())
        self._row = {key: value for key, value in row.items() if key not in taken}
        self._row |= {ours: row[theirs] for ours, theirs in self._theirs.items()}
        self._read = {"id"}
        self._strange: set[str] = set()
        self.renamed: list[str] = []

    def shown(self, name: str) -> str:
        """The name that the user knows the field by."""
        return self._theirs.get(name, name)

    def names(self) -> str:
        """What the row has, in words."""
        return "it has " + ", ".join(self.shown(name) for name in self._row) if self._row else "it has no field"

    def has(self, name: str) -> bool:
        return self._row.get(name) is not None

    def get(self, name: str) -> Any:
        self._read.add(name)
        return self._row.get(name)

    def text(self, name: str) -> str:
        """A text that must be there, though it may be blank."""
        value = self.get(name)
        if value is None:
            state = "null" if name in self._row else f"missing; {self.names()}"
            raise _Unfit(Code.MISSING_FIELD, f'"{self.shown(name)}" is {state}', field=self.shown(name))
        return _text(value, f'"{self.shown(name)}"')

    def optional(self, name: str) -> str | None:
        """A text, or None where it is missing, null or blank."""
        value = self.get(name)
        text = "" if value is None else _text(value, f'"{self.shown(name)}"')
        return None if is_blank(text) else text

    def ignore(self, names: str) -> None:
        """Name fields inside a field that nothing reads."""
        self._strange.add(names)

    def unused(self) -> tuple[str, ...]:
        """The fields that hold something and that nothing read."""
        rest = {self.shown(name) for name in self._row if self.has(name) and name not in self._read}
        return tuple(sorted(rest | self._strange))


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise _Unfit(Code.WRONG_TYPE, f"{what} is {_kind(value)}, not text")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise _Unfit(Code.WRONG_TYPE, f"{what} is {_kind(value)}, not a list")
    return value


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
        if any(fields.has(name) for name in needed):
            messages, own = reader(fields)
            break
    else:
        raise _Unfit(Code.MISSING_FIELD, f"the row has no known form; {fields.names()}")
    system = fields.optional("system")
    if system is not None:
        messages.insert(0, Message("system", system))
    elif messages and messages[0].role == "system" and is_blank(messages[0].content):
        del messages[0]
    _require_turns(messages)
    return messages, own


def _openai(fields: _Fields) -> tuple[list[Message], None]:
    return _turns(fields, "messages"), None


def _sharegpt(fields: _Fields) -> tuple[list[Message], None]:
    return _turns(fields, "conversations"), None


def _alpaca(fields: _Fields) -> tuple[list[Message], str | None]:
    messages = []
    for number, pair in enumerate(_list(fields.get("history") or [], '"history"'), 1):
        what = f"pair {number} of the history"
        if len(_list(pair, what)) != 2:
            raise _Unfit(Code.WRONG_TYPE, f"{what} has {len(pair)} texts, not a question and an answer")
        messages += [Message("user", _text(pair[0], what)), Message("assistant", _text(pair[1], what))]
    own = fields.optional("input")
    messages.append(Message("user", _joined(fields.text("instruction"), own)))
    messages.append(Message("assistant", fields.text("output")))
    return messages, own


def _joined(instruction: str, own: str | None) -> str:
    if own is None:
        return instruction
    return own if is_blank(instruction) else f"{instruction}\n\n{own}"


def _prompt_completion(fields: _Fields) -> tuple[list[Message], None]:
    return [Message("user", fields.text("prompt")), Message("assistant", fields.text("completion"))], None


_FORMS: tuple[tuple[tuple[str, ...], Callable[[_Fields], tuple[list[Message], str | None]]], ...] = (
    (("messages",), _openai),
    (("conversations",), _sharegpt),
    (("instruction", "output"), _alpaca),
    (("prompt", "completion"), _prompt_completion),
)
# What `validate.columns` may name on its left side.
FIELDS = (*(name for needed, _ in _FORMS for name in needed), "input", "history", "system", "category", "tags", "id")


def _turns(fields: _Fields, name: str) -> list[Message]:
    """A list of turns; either form's keys will do, since public sets mix them."""
    messages = []
    for number, turn in enumerate(_list(fields.get(name), f'"{fields.shown(name)}"'), 1):
        what = f"turn {number}"
        if not isinstance(turn, dict):
            raise _Unfit(Code.WRONG_TYPE, f"{what} is {_kind(turn)}, not an object")
        speaker, said = ("role", "content") if "role" in turn else ("from", "value")
        role = _role(turn.get(speaker), what, fields)
        if turn.get("tool_calls") or turn.get("function_call"):
            raise _Unfit(Code.ROLE_ORDER, f"{what} calls a tool, which cannot be trained here", turn=number)
        if turn.get(said) is None:
            raise _Unfit(Code.MISSING_FIELD, f'{what} has no "{said}"', turn=number)
        messages.append(Message(role, _text(turn[said], f'"{said}" of {what}')))
        for key in turn.keys() - {speaker, said}:
            if turn[key] is not None:
                fields.ignore(f"{fields.shown(name)}[].{key}")
    return messages


def _role(tag: Any, what: str, fields: _Fields) -> str:
    if tag is None:
        raise _Unfit(Code.MISSING_FIELD, f"{what} does not say who speaks")
    role = ROLES.get(_text(tag, f"the speaker of {what}").strip().casefold())
    if role is None:
        raise _Unfit(Code.ROLE_ORDER, f'{what} is spoken by "{tag}"; known are {", ".join(ROLES)}', tag=tag)
    if tag != role:
        fields.renamed.append(tag)
    return role


def _require_turns(messages: list[Message]) -> None:
    """An optional system text, then user and assistant in turns, the assistant last. Nothing is merged or invented."""
    if not messages:
        raise _Unfit(Code.ROLE_ORDER, "the conversation has no turn")
    first = int(messages[0].role == "system")
    for number, message in enumerate(messages[first:]):
        due = ("user", "assistant")[number % 2]
        if message.role != due:
            raise _Unfit(Code.ROLE_ORDER, f"turn {first + number + 1} is {message.role}, where {due} is due")
    if messages[-1].role != "assistant":
        raise _Unfit(Code.ROLE_ORDER, f"the conversation ends with {messages[-1].role}, not with an answer")


def _tags(fields: _Fields) -> tuple[str, ...]:
    """A list of texts; one text is one tag, as a CSV cell has it."""
    value = fields.get("tags")
    items = [value] if isinstance(value, str) else _list(value or [], '"tags"')
    return tuple(tag.strip() for tag in (_text(item, "a tag") for item in items) if not is_blank(tag))
