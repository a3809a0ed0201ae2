"""What counts as the same text, as a word and as nothing to read, in every language that a row may be written in."""

import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

# Scripts written without spaces, one character a word: kana, Han, Hangul, Thai, Lao, Myanmar, Khmer. Split at spaces,
# a Chinese sentence would be one word, and two that differ in one character would have nothing in common.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    r"\U00020000-\U0003ffff"
)
_PUNCTUATION = r"""!"'(),.:;?\[\\\]_`{}¡§«»¿‐-‧、。〈-】〔-〟・-"""
_WORD = re.compile(
    rf"[{_UNSPACED}]"
    rf"|[^\W_{_UNSPACED}]+"
    rf"|[^\w\s{_PUNCTUATION}]"  # signs that carry meaning: `3 + 5` is not `3 * 5`, and an emoji can be an answer
    r"|-(?=\d)"
)
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and braille that no font draws


def same(text: str) -> str:
    """The form in which two texts are equal when a reader calls them the same: case, width and spaces do not count."""
    return " ".join(unicodedata.normalize("NFKC", _UNSEEN.sub("", text)).casefold().split())


def is_blank(text: str) -> bool:
    """Whether a reader sees nothing: spaces of any width, zero-width and other invisible characters."""
    return not any(_is_visible(character) for character in text)


def _is_visible(character: str) -> bool:
    return (
        not character.isspace()
        and unicodedata.category(character) not in ("Cf", "Cc", "Zs", "Zl", "Zp")
        and character not in _BLANK_LETTERS
        and not _UNSEEN.match(character)
    )


def words(text: str) -> list[str]:
    """The words of a text, at least one: a text of nothing but punctuation is one word, itself."""
    plain = same(text)
    return _WORD.findall(plain) or [plain]


@dataclass(frozen=True)
class Words:
    """Many texts as hashed words, end to end; text i is `starts[i]:starts[i + 1]`."""

    starts: NDArray[np.int64]  # one more than there are texts
    hashes: Hashes
    is_number: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def owners(self) -> NDArray[np.int64]:
        """For each word, the text it stands in."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.starts))


def hashed(texts: Iterable[str]) -> Words:
    """Hash the words of each text."""
    known: defaultdict[str, int] = defaultdict()
    known.default_factory = known.__len__  # a new word gets the next number
    numbers = array("i")
    starts = array("q", [0])
    for text in texts:
        numbers.extend(map(known.__getitem__, words(text)))
        starts.append(len(numbers))
    index = np.frombuffer(numbers, dtype=np.int32) if numbers else np.empty(0, dtype=np.int32)
    hashes = np.array([xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass")) for word in known], np.uint64)
    is_number = np.array([word.isdigit() for word in known])
    return Words(np.array(starts, dtype=np.int64), hashes[index], is_number[index])


def mix(values: Hashes) -> Hashes:
    """Scramble 64-bit values (the finaliser of MurmurHash3)."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def ngrams(words: Words, hashes: Hashes, n: int) -> tuple[NDArray[np.int64], Hashes]:
    """Every run of `n` words that stand in one text: the position of its first word, and its hash.

    `hashes` are the words' own or a stand-in for them (numbers masked, say).
    """
    if len(hashes) < n:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint64)
    owners = words.owners()
    last = len(hashes) - n + 1
    positions = np.nonzero(owners[:last] == owners[n - 1 :])[0]
    runs = np.zeros(len(positions), dtype=np.uint64)
    for step in range(n):
        runs = mix(runs * np.uint64(31) + hashes[positions + step])
    return positions, runs
