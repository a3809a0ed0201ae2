"""Phrases that nobody should learn, out of a file that people edit.

A line is a phrase: its words in a row, whatever their case, width and spaces, and `*` at the end for any ending of the
last one. `[kind]` on a line of its own says of what kind the phrases below it are; `#` begins a comment. What people
write by habit around and between phrases (bullets, quotation marks, commas) would be part of a phrase that stands in no
text: it is an error instead.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ahocorasick_rs

from stages.lib.errors import UserError
from stages.lib.words import is_unspaced, same

_COMMENT = re.compile(r"(?:^|\s)#.*")
_KIND = re.compile(r"\[\s*([\w-]+)\s*\]")
_HABITS = tuple(
    (re.compile(pattern), advice)
    for pattern, advice in (
        (
            r"[\[【［〔]|.*[\]】］〕]$",
            "this kind is not understood. Write it as one word in square brackets, as in [self-harm].",
        ),
        (r"[-–—•·]\s", "the phrase begins with a bullet. Write the phrase alone."),
        (
            "[\"“”„«»「」『』＂]|.*[\"“”„«»「」『』＂]$|(['‘’]).*['‘’]$",
            "the phrase stands in quotation marks. Write it without them.",
        ),
        (".*[,，、]", "a comma stands in the phrase. Write each phrase on a line of its own, without commas."),
        (
            r".*([*＊].|\s[*＊]|＊)",
            "a * counts only at the end of a word, the last one. Write it there, or not at all.",
        ),
    )
)


@dataclass(frozen=True)
class Phrase:
    """One line of the file."""

    kind: str
    text: str  # as `words.same` writes it, apostrophes straight
    is_beginning: bool  # of a word, or of the last of several

    def stands_at(self, start: int, end: int, text: str) -> bool:
        """Whether the phrase, found in a text at these places, is no mere part of other words."""
        return not _joins(text[max(0, start - 1) : start], self.text[0]) and (
            self.is_beginning or not _joins(self.text[-1], text[end : end + 1])
        )


def _joins(one: str, other: str) -> bool:
    """Whether two neighbouring characters are of the same word."""
    return one.isalnum() and other.isalnum() and not is_unspaced(one) and not is_unspaced(other)


def _straight(text: str) -> str:
    """Word processors and telephones write `I’m`."""
    return text.replace("\u2019", "'")


@dataclass(frozen=True)
class Lexicon:
    """All phrases of a file, in its order."""

    phrases: tuple[Phrase, ...]

    def find(self, text: str) -> Iterator[Phrase]:
        """The phrases that stand in a text, which `words.same` has written, in the order of their ends."""
        text = _straight(text)
        for number, start, end in self._automaton.find_matches_as_indexes(text, overlapping=True):
            if self.phrases[number].stands_at(start, end, text):
                yield self.phrases[number]

    @cached_property
    def _automaton(self) -> ahocorasick_rs.AhoCorasick:
        texts = [phrase.text for phrase in self.phrases]
        return ahocorasick_rs.AhoCorasick(texts, implementation=ahocorasick_rs.Implementation.DFA)

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process go the phrases alone: the automaton cannot."""
        return Lexicon, (self.phrases,)


def read(path: Path, asked_by: str) -> Lexicon:
    """Read the file.

    Raises:
        UserError: the file cannot be read, or a line of it is no phrase; `asked_by` names the param.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}, which {asked_by} names, cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8. Save it as UTF-8.") from None
    return Lexicon(tuple(dict.fromkeys(_phrases(content, path))))


def _phrases(content: str, path: Path) -> Iterator[Phrase]:
    kind = None
    for number, written in enumerate(content.split("\n"), 1):
        line = _COMMENT.sub("", written).strip()
        if found := _KIND.fullmatch(line):
            kind = found[1]
        elif line:
            if problem := _problem(line, kind):
                raise UserError(f"{path}:{number}: {problem}")
            yield Phrase(str(kind), _text(line), line.endswith("*"))


def _text(line: str) -> str:
    return _straight(same(line.removesuffix("*")))


def _problem(line: str, kind: str | None) -> str | None:
    """Why a line is no phrase, and what to write instead."""
    for habit, advice in _HABITS:
        if habit.match(line):
            return advice
    if kind is None:
        return "this phrase is of no kind. Write one above it, as in [violence]."
    if not any(map(str.isalnum, _text(line))):
        return "the phrase has no letter. Write words, or remove the line."
    return None
