"""Segments to token ids, the same for training and for asking the model.

Only the `tokenizers` library is needed: transformers takes seconds to import, and its fast tokenizers are this one.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tokenizers import Tokenizer

from stages.lib.labels import IGNORED
from stages.lib.pinned import BASE
from stages.lib.prompts import Segment, answer_start

# What puts a word mark before a text, or takes it off on decoding, by place and type in tokenizer.json: a part that is
# None here is left out, of the others the settings are changed.
WORD_MARK: dict[str, dict[str, dict[str, Any] | None]] = {
    "normalizer": {"Prepend": None},
    "pre_tokenizer": {"Metaspace": {"prepend_scheme": "never"}, "ByteLevel": {"add_prefix_space": False}},
    "decoder": {"Metaspace": {"prepend_scheme": "never"}, "Strip": None},
}

Reader = Literal["whole", "bare", "literal"]


@dataclass(frozen=True)
class Example:
    """One conversation as tokens."""

    ids: list[int]
    labels: list[int]  # the token where it is trained, else IGNORED; not shifted
    answer_start: int  # where the last answer starts in `ids`

    @property
    def prompt(self) -> list[int]:
        """What is sent to get the last answer."""
        return self.ids[: self.answer_start]

    @property
    def completion(self) -> list[int]:
        """The last answer and the tokens that end it."""
        return self.ids[self.answer_start :]


class _Piece(NamedTuple):
    segment: int
    reader: Reader
    text: str
    skip: int = 0  # leading tokens of the result that are left out


class SegmentTokenizer:
    """A `tokenizer.json` that reads segments.

    A tokenizer with a word mark (Llama 2: "▁") puts one before the first word of whatever it is given. In the middle
    of a conversation that would be a space that nobody wrote, so what goes on from earlier text is read without it.
    """

    def __init__(self, tokenizer_json: str) -> None:
        self._whole = Tokenizer.from_str(tokenizer_json)
        self._whole.no_truncation()
        self._whole.no_padding()
        added = self._whole.get_added_tokens_decoder()
        control = {index: token.content for index, token in added.items() if token.special}
        self.added_ids = {token.content: index for index, token in added.items()}
        self.added = _pattern(self.added_ids)  # every token that is never taken apart
        self.control = _pattern(control.values())
        self._control_ids = control.keys()
        self._control_at_end = re.compile(rf"(?:{self.control.pattern})\Z")

    def token_id(self, text: str | None) -> int | None:
        """The id of one token; None if there is none."""
        return None if text is None else self._whole.token_to_id(text)

    def encode(self, rows: Sequence[Sequence[Segment]]) -> list[Example]:
        """The tokens of many conversations."""
        pieces = [list(self._pieces(segments)) for segments in rows]
        read = self._read([piece for row in pieces for piece in row])
        return [
            _example(segments, [(piece.segment, next(read)) for piece in row])
            for segments, row in zip(rows, pieces, strict=True)
        ]

    def decode(self, ids: Sequence[int], control: bool = False) -> str:
        """The text that `ids` add to the text before them, with the control tokens among them or without."""
        return self._bare.decode(ids, skip_special_tokens=not control)

    @cached_property
    def _bare(self) -> Tokenizer:
        """The tokenizer without its word mark."""
        document = json.loads(self._whole.to_str())
        changed = document | {place: _edited(document[place], edits) for place, edits in WORD_MARK.items()}
        return self._whole if changed == document else Tokenizer.from_str(json.dumps(changed))

    @cached_property
    def _literal(self) -> Tokenizer:
        """The tokenizer without its word mark, to which control tokens are text."""
        tokenizer = Tokenizer.from_str(self._bare.to_str())
        tokenizer.encode_special_tokens = True
        return tokenizer

    def _pieces(self, segments: Sequence[Segment]) -> Iterator[_Piece]:
        """How each segment is read.

        A prompt yields the tokens that a server makes of its whole text. An answer is read for itself, whatever the
        prompt ends with: that is how a model writes it.
        """
        before = ""
        for index, (text, trained, literal) in enumerate(segments):
            control_before = None if trained else self._control_at_end.search(before)
            if literal:
                yield _Piece(index, "literal", text)
            elif index == 0:
                yield _Piece(index, "whole", text)
            elif control_before:  # it may swallow the blanks after it (Phi 3) or call for a word mark (Llama 2)
                yield _Piece(index, "whole", control_before[0] + text, skip=1)
            else:
                control = self.control.search(text)
                end = control.start() if control else len(text)
                yield _Piece(index, "bare", text[:end])
                yield _Piece(index, "whole", text[end:])
            before = "" if literal else text

    def _read(self, pieces: Sequence[_Piece]) -> Iterator[list[int]]:
        """The ids of each piece. One batch a reader, because tokenizers spreads a batch over all cores."""
        ids: list[list[int]] = [[] for _ in pieces]
        readers: dict[Reader, Tokenizer] = {"whole": self._whole, "bare": self._bare}
        if any(piece.reader == "literal" for piece in pieces):
            readers["literal"] = self._literal
        for reader, tokenizer in readers.items():
            places = [place for place, piece in enumerate(pieces) if piece.reader == reader]
            texts = [pieces[place].text for place in places]
            for place, found in zip(places, tokenizer.encode_batch_fast(texts, add_special_tokens=False), strict=True):
                ids[place] = found.ids[pieces[place].skip :]
                if reader == "literal" and not self._control_ids.isdisjoint(found.ids):
                    ids[place] = self._letters(pieces[place].text)
        return iter(ids)

    def _letters(self, text: str) -> list[int]:
        """Read letter by letter: some models (Unigram) have the control token among their words and would find it."""
        return [token for letter in text for token in self._literal.encode(letter, add_special_tokens=False).ids]


def load_tokenizer(base: Path = BASE) -> SegmentTokenizer:
    """The tokenizer of the pinned base."""
    return SegmentTokenizer((base / "tokenizer.json").read_text(encoding="utf-8"))


def _example(segments: Sequence[Segment], read: Iterable[tuple[int, list[int]]]) -> Example:
    """Put the ids of a conversation's pieces together."""
    first = answer_start(segments)
    ids: list[int] = []
    labels: list[int] = []
    start = 0
    for segment, new in read:
        ids += new
        labels += new if segments[segment].trained else [IGNORED] * len(new)
        if segment < first:
            start = len(ids)
    return Example(ids, labels, start)


def _edited(part: dict[str, Any] | None, edits: dict[str, dict[str, Any] | None]) -> dict[str, Any] | None:
    """A part of tokenizer.json with `edits` made to it, or to each member if it is a sequence."""
    if part is None:
        return None
    if part["type"] == "Sequence":
        name = next(key for key in part if key != "type")
        members = (_edited(member, edits) for member in part[name])
        return part | {name: [member for member in members if member is not None]}
    change = edits.get(part["type"], {})
    return None if change is None else part | change


def _pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """Match any of `tokens`, the longest first, as the tokenizer does."""
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) never matches
