"""Both models' answers to a test row as a blind pair: which one is A, which pairs are drawn, what a rating is of."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import xxhash

from stages.lib import artifacts
from stages.lib.draw import turn_by_turn

PREDICTIONS = Path("data/predictions/predictions.parquet")


@dataclass(frozen=True)
class Pair:
    """A test row with what both models answered: columns of predictions.parquet."""

    id: str
    category: str
    group: str
    question: str  # what is asked, for people
    prompt: str  # what was sent
    reference: str
    base_answer: str
    tuned_answer: str

    @property
    def is_choice(self) -> bool:
        """Whether a reader can tell the answers apart; blanks around them cannot be seen."""
        return self.base_answer.strip() != self.tuned_answer.strip()

    def shown(self, tuned_is_a: bool) -> tuple[str, str]:
        """Answers A and B."""
        return (self.tuned_answer, self.base_answer) if tuned_is_a else (self.base_answer, self.tuned_answer)

    def item(self, tuned_is_a: bool) -> str:
        """Names what a rating is of: this question, and these two texts in this order.

        So a rating of other texts, or of another order, has another name, and no key or seed is needed to read one. A
        letter stands in front: a spreadsheet would make a number of `12345678` or `1e234567`.
        """
        shown = json.dumps([self.id, self.prompt, *self.shown(tuned_is_a)])
        return f"i{xxhash.xxh3_64_hexdigest(shown.encode())}"


def read(path: Path = PREDICTIONS) -> list[Pair]:
    """Every test row that both models answered."""
    names = [field.name for field in fields(Pair)]
    table = artifacts.read_parquet(path, made_by="evaluate", columns=names)
    return [Pair(**row) for row in table.to_pylist()]


def drawn(pairs: Iterable[Pair], rows: int, seed: int) -> list[Pair]:
    """Pairs to rate: turn by turn from every category, in each by a hash, so that nobody picks the good ones.

    They stay in the order of the turns: whoever stops early has rated every category, and a shorter sheet is the
    beginning of a longer one.
    """
    return turn_by_turn(pairs, lambda pair: pair.category, lambda pair: _chance(seed, "draw", pair.id), rows)


def tuned_is_a(pair: Pair, seed: int) -> bool:
    """Whether the tuned model's answer is shown as A: about every other time, and nobody can guess when."""
    return bool(_chance(seed, "order", pair.id) & 1)


def _chance(seed: int, use: str, row: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{seed}:{use}:{row}".encode())
