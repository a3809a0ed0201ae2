"""What rows ask and answer, as hashed words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stages.lib.records import Record
from stages.lib.words import Numbers, Words, hashed_or_none, hashed_plain


@dataclass(frozen=True)
class Wording:
    """What rows ask and answer, as hashed words."""

    questions: Words
    inputs: Words  # of rows with an `input`; the others have no word here
    answers: Words

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Wording":
        """The wording of records."""
        records = list(records)
        return cls(
            questions=hashed_plain(record.plain_question for record in records),
            inputs=hashed_or_none(record.input for record in records),
            answers=hashed_plain(record.messages[-1].plain for record in records),
        )

    def take(self, rows: Numbers) -> "Wording":
        """The wording of some rows."""
        return Wording(self.questions.take(rows), self.inputs.take(rows), self.answers.take(rows))

    @classmethod
    def end_to_end(cls, parts: Sequence["Wording"]) -> "Wording":
        """The wording of the rows of all, in order."""
        names = ("questions", "inputs", "answers")
        return cls(*(Words.end_to_end(getattr(part, name) for part in parts) for name in names))
