"""The record: one conversation that is kept, and the table that holds them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import pyarrow as pa
import xxhash

from stages.lib.words import same

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string()), ("weight", pa.int8())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("line", pa.int64()),
        ("messages", pa.list_(MESSAGE)),
        ("input", pa.string()),
        ("category", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("weight", pa.float64()),
        ("constraints", pa.string()),
    ]
)
UNCATEGORISED = "uncategorised"


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: str  # system (only first), user or assistant
    content: str
    weight: int | None = None  # 0: an answer that is only read, never trained, and never the last one

    @cached_property
    def plain(self) -> str:
        """What is said, blind to case, width and spaces."""
        return same(self.content)


@dataclass(frozen=True)
class Record:
    """One conversation: an optional system text, then user and assistant in turns, the assistant last."""

    source: str
    line: int
    messages: tuple[Message, ...]
    input: str | None = None  # an alpaca row's `input`, which is also the end of the last question
    category: str = UNCATEGORISED
    tags: tuple[str, ...] = ()
    weight: float = 1.0  # how much a token of its answers counts in the loss, beside the tokens of other rows
    constraints: str | None = None  # what the last answer has to keep to, as `constraints.canonical` writes it

    @cached_property
    def id(self) -> str:
        """A hash of what is said, blind to case, width and spaces: equal ids are exact duplicates."""
        return _hash(self.messages)

    @cached_property
    def question_id(self) -> str:
        """A hash of all that comes before the last answer, the system text included."""
        return _hash(self.messages[:-1])

    @property
    def question(self) -> str:
        """All that comes before the last answer, but for the system text, which is the same in thousands of rows."""
        return "\n\n".join(message.content for message in self.messages[:-1] if message.role != "system")

    @property
    def answer(self) -> str:
        """The last answer."""
        return self.messages[-1].content

    @property
    def place(self) -> str:
        """`tickets.json:214`."""
        return f"{self.source}:{self.line}"

    @property
    def plain_question(self) -> str:
        """The question, blind to case, width and spaces."""
        return " ".join(message.plain for message in self.messages[:-1] if message.role != "system")

    def tagged(self, tags: Iterable[str]) -> "Record":
        """The same with more tags, each once."""
        return replace(self, tags=tuple(dict.fromkeys([*self.tags, *tags])))


def _hash(messages: Iterable[Message]) -> str:
    said = "\0".join([part for message in messages for part in (message.role, message.plain)])
    return xxhash.xxh3_128_hexdigest(said.encode("utf-8", "surrogatepass"))


def to_table(records: Iterable[Record]) -> pa.Table:
    """The table of `records.parquet`."""
    records = list(records)
    turns = [message for record in records for message in record.messages]
    parts = [
        pa.array([turn.role for turn in turns], pa.string()),
        pa.array([turn.content for turn in turns], pa.string()),
        pa.array([turn.weight for turn in turns], pa.int8()),
    ]
    columns = {
        "id": pa.array([record.id for record in records], pa.string()),
        "source": pa.array([record.source for record in records], pa.string()),
        "line": pa.array([record.line for record in records], pa.int64()),
        "messages": pa.ListArray.from_arrays(
            _offsets(len(record.messages) for record in records),
            pa.StructArray.from_arrays(parts, fields=list(MESSAGE)),
        ),
        "input": pa.array([record.input for record in records], pa.string()),
        "category": pa.array([record.category for record in records], pa.string()),
        "tags": pa.array([record.tags for record in records], pa.list_(pa.string())),
        "weight": pa.array([record.weight for record in records], pa.float64()),
        "constraints": pa.array([record.constraints for record in records], pa.string()),
    }
    return pa.table(columns, schema=SCHEMA)


def _offsets(lengths: Iterable[int]) -> pa.Array:
    return pa.array([0, *accumulate(lengths)], pa.int32())


def from_table(table: pa.Table) -> list[Record]:
    """The records of a table with the columns of `SCHEMA`, or more."""
    return [
        Record(
            source=row["source"],
            line=row["line"],
            messages=tuple(Message(**message) for message in row["messages"]),
            input=row["input"],
            category=row["category"],
            tags=tuple(row["tags"]),
            weight=row["weight"],
            constraints=row["constraints"],
        )
        for row in table.select(SCHEMA.names).to_pylist()
    ]
