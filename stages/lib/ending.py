"""How an answer of this base and template starts and ends, read the same way wherever a model is asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.lib import artifacts
from stages.lib.pinned import Pinned
from stages.lib.tokens import SegmentTokenizer


@dataclass(frozen=True)
class Stops:
    """What ends an answer."""

    ids: tuple[int, ...]
    texts: tuple[str, ...] = ()  # terminators that the tokenizer does not know as one token


@dataclass(frozen=True)
class Ending:
    """What ends an answer, and what stands around it."""

    stops: Stops
    lead: str  # what the template writes before every answer, e.g. an empty <think> block
    decode: Callable[[Sequence[int]], str]

    def without_lead(self, text: str) -> str:
        """The answer proper."""
        return text.removeprefix(self.lead)

    def without_end(self, ids: Sequence[int]) -> list[int]:
        """A completion without the tokens that end it."""
        kept = list(ids)
        while kept and kept[-1] in self.stops.ids:
            kept.pop()
        return kept


def read_ending(template: Path, pinned: Pinned, tokenizer: SegmentTokenizer) -> Ending:
    """Combine the base's end of text with the terminators in the template.json that `format` wrote."""
    written = artifacts.read_json(template, made_by="format")
    ids = {text: tokenizer.added_ids.get(text) for text in written["stop"]}
    known = {index for index in (*ids.values(), tokenizer.token_id(pinned.eos)) if index is not None}
    texts = tuple(text for text, index in ids.items() if index is None)
    return Ending(Stops(tuple(sorted(known)), texts), written["lead"], tokenizer.decode)
