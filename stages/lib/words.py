"""What counts as the same text, as a word and as nothing to read, in every language that a row may be written in."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]

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
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")
_SIGNS_AROUND = re.compile(r"^\W+|\W+$")
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and braille that no font draws


def same(text: str) -> str:
    """The form in which two texts are equal when a reader calls them the same: case, width and spaces do not count."""
    if text.isascii():
        return " ".join(text.lower().split())  # the same, faster
    return " ".join(unicodedata.normalize("NFKC", _UNSEEN.sub("", text)).casefold().split())


def bare(plain: str) -> str:
    """A text from `same` without the signs around it: `nan` of `<nan>.`; a text of nothing but signs stays."""
    return _SIGNS_AROUND.sub("", plain) or plain


def is_blank(text: str) -> bool:
    """Whether a reader sees nothing: spaces of any width, zero-width and other invisible characters."""
    if text[:1].isascii() and text[:1].isalnum():
        return False
    return not any(_is_visible(character) for character in text)


def _is_visible(character: str) -> bool:
    if character.isascii():
        return character.isprintable() and character != " "
    return (
        not character.isspace()
        and unicodedata.category(character) not in ("Cf", "Cc", "Zs", "Zl", "Zp")
        and character not in _BLANK_LETTERS
        and not _UNSEEN.match(character)
    )


def is_unspaced(character: str) -> bool:
    """Whether the character is of a script written without spaces, and so a word by itself."""
    return bool(_IS_UNSPACED.match(character))


def words(text: str) -> list[str]:
    """The words of a text, at least one: a text of nothing but punctuation is one word, itself."""
    plain = same(text)
    return _WORD.findall(plain) or [plain]


@dataclass(frozen=True)
class Words:
    """Many texts as hashed words, end to end; text i is `starts[i]:starts[i + 1]`.

    The lowest bit of a hash tells whether the word holds a digit.
    """

    starts: Numbers  # one more than there are texts
    hashes: Hashes

    def __len__(self) -> int:
        return len(self.starts) - 1

    def owners(self) -> Numbers:
        """For each word, the text it stands in."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.starts))

    def hold_digits(self) -> NDArray[np.bool_]:
        """For each word, whether a digit is in it."""
        return (self.hashes & _ONE).astype(bool)

    def fingerprints(self) -> Hashes:
        """One hash for each text as a whole: equal where the words are the same ones in the same order."""
        factors = _factors(self.starts[:-1], len(self.hashes))
        sums = np.concatenate([[_ZERO], np.cumsum(self.hashes * factors)])[self.starts]
        return mix(sums[1:] - sums[:-1])

    def slices(self, size: int) -> Iterator[tuple[slice, "Words"]]:
        """So many texts at a time, without a copy, and which ones."""
        for first in range(0, len(self), size):
            starts = self.starts[first : first + size + 1]
            yield slice(first, first + len(starts) - 1), Words(starts - starts[0], self.hashes[starts[0] : starts[-1]])

    def take(self, texts: Numbers) -> "Words":
        """Some of the texts, in the order given."""
        lengths = np.diff(self.starts)[texts]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return Words(starts, self.hashes[np.arange(starts[-1]) + np.repeat(self.starts[texts] - starts[:-1], lengths)])

    def without(self, words: Hashes) -> "Words":
        """The texts without some words."""
        is_left = ~among(self.hashes, words)
        if is_left.all():
            return self
        return Words(np.concatenate([[0], np.cumsum(is_left)])[self.starts], self.hashes[is_left])

    @classmethod
    def end_to_end(cls, parts: Iterable["Words"]) -> "Words":
        """The texts of all, in order."""
        parts = list(parts)
        lengths = np.concatenate([np.empty(0, np.int64), *(np.diff(part.starts) for part in parts)])
        hashes = np.concatenate([np.empty(0, np.uint64), *(part.hashes for part in parts)])
        return cls(np.concatenate([[0], np.cumsum(lengths)]), hashes)

    def masked(self) -> "Words":
        """The same with one hash for all words that hold a digit."""
        return Words(self.starts, np.where(self.hold_digits(), _ONE, self.hashes))


_AT_ONCE = 1 << 23  # hashes counted at once
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_CHUNK = 1 << 16  # characters hashed at once: few enough to stay in a processor's cache
# What a character is to a word; _MINUS is one only before a digit, and _DIGIT is added to the others.
_NOTHING, _INSIDE, _ALONE, _MINUS, _DIGIT, _UNKNOWN = 0, 1, 2, 3, 4, 255
_KINDS = np.full(0x110000, _UNKNOWN, dtype=np.uint8)  # by code point, filled as characters are met


def hashed(texts: Iterable[str]) -> Words:
    """Hash the words of each text: those that `words` finds, in less time."""
    return hashed_plain(map(same, texts))


def hashed_plain(plains: Iterable[str]) -> Words:
    """Hash the words of texts that went through `same` already."""
    parts, waiting, size = [], list[str](), 0
    for plain in plains:
        waiting.append(plain)
        size += len(plain) + 1
        if size >= _CHUNK:
            parts.append(_words_of(waiting))
            waiting, size = [], 0
    parts.append(_words_of(waiting))
    counts, hashes = map(np.concatenate, zip(*parts, strict=True))
    return Words(np.concatenate([[0], np.cumsum(counts)]), hashes)


def _words_of(plains: list[str]) -> tuple[Numbers, Hashes]:
    """The number of words of each text, and the hashes of all."""
    codes = np.frombuffer(" ".join([*plains, ""]).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kinds = _kinds(codes)
    is_digit = kinds >= _DIGIT
    kinds &= 3
    kinds[(kinds == _MINUS) & ~np.append(is_digit[1:], False)] = _NOTHING
    is_inside = kinds == _INSIDE
    is_first = kinds > _INSIDE
    is_first[:1] |= is_inside[:1]
    is_first[1:] |= is_inside[1:] & ~is_inside[:-1]
    kept = np.flatnonzero(kinds)
    firsts = np.flatnonzero(is_first[kept])
    hashes = _hashes(codes[kept], is_digit[kept], firsts)
    ends = np.cumsum([len(plain) + 1 for plain in plains], dtype=np.int64)
    counts = np.diff(np.searchsorted(kept[firsts], ends), prepend=0)
    return _with_one_each(plains, counts, hashes)


def _kinds(codes: NDArray[np.uint32]) -> NDArray[np.uint8]:
    kinds = _KINDS[codes]
    if (kinds == _UNKNOWN).any():
        for code in np.unique(codes[kinds == _UNKNOWN]).tolist():
            _KINDS[code] = _kind(chr(code))
        kinds = _KINDS[codes]
    return kinds


def _kind(character: str) -> int:
    if character == "-":
        return _MINUS
    if not _WORD.match(character):
        return _NOTHING
    is_alone = is_unspaced(character) or re.match(r"\W", character)
    return (_ALONE if is_alone else _INSIDE) + (_DIGIT if character.isdecimal() else 0)


def _hashes(codes: NDArray[np.uint32], is_digit: NDArray[np.bool_], firsts: Numbers) -> Hashes:
    """One hash a word, words end to end: the scrambled sum of its characters, each times a number of its place."""
    if not len(firsts):
        return np.empty(0, dtype=np.uint64)
    hashes = mix(np.add.reduceat((codes + _ONE) * _factors(firsts, len(codes)), firsts)) & ~_ONE
    return hashes | np.maximum.reduceat(is_digit, firsts) if is_digit.any() else hashes


def _factors(firsts: Numbers, count: int) -> Hashes:
    """An odd number for each place in a word or text: the same wherever that begins."""
    lengths = np.diff(firsts, append=count)
    table = mix(np.arange(1, lengths.max(initial=0) + 1, dtype=np.uint64)) | _ONE
    return table[np.arange(count) - np.repeat(firsts, lengths)]


def _with_one_each(plains: list[str], counts: Numbers, hashes: Hashes) -> tuple[Numbers, Hashes]:
    """A text without a word becomes one, as a whole."""
    without = np.flatnonzero(counts == 0)
    if not len(without):
        return counts, hashes
    wholes = [xxhash.xxh3_64_intdigest(plains[text].encode("utf-8", "surrogatepass")) & ~1 for text in without]
    hashes = np.insert(hashes, np.cumsum(counts)[without], np.array(wholes, dtype=np.uint64))
    counts[without] = 1
    return counts, hashes


def hashed_or_none(texts: Iterable[str | None]) -> Words:
    """Hash the words of each text; where there is no text, there is no word."""
    given = list(texts)
    found = hashed(text for text in given if text is not None)
    counts = np.zeros(len(given), dtype=np.int64)
    counts[[text is not None for text in given]] = np.diff(found.starts)
    return Words(np.concatenate([[0], np.cumsum(counts)]), found.hashes)


def crowded(hashes: Hashes, many: int) -> Numbers:
    """The places of hashes whose first bits stand there more than `many` times: no other can be so frequent itself."""
    bits = min(24, max(8, len(hashes).bit_length() - 2))
    counts = np.zeros(1 << bits, dtype=np.int32)
    buckets = [
        (hashes[first : first + _AT_ONCE] >> np.uint64(64 - bits)).astype(np.int32)
        for first in range(0, len(hashes), _AT_ONCE)
    ]
    for part in buckets:
        counts += np.bincount(part, minlength=1 << bits).astype(np.int32)
    return np.flatnonzero(np.concatenate([np.empty(0, np.bool_), *(counts[part] > many for part in buckets)]))


def stand_in_many(owners: Numbers, hashes: Hashes, many: int) -> NDArray[np.bool_]:
    """For each hash: does it stand in more than `many` of the owners?"""
    if not len(hashes):
        return np.zeros(0, dtype=bool)
    _, kind = np.unique(hashes, return_inverse=True)
    span = int(owners.max()) + 1
    once = distinct(kind * span + owners) // span
    return (np.bincount(once) > many)[kind]


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """The values, each once and sorted: `np.unique`, which hashes them, takes several times as long for millions."""
    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values


def among(hashes: Hashes, wanted: Hashes) -> NDArray[np.bool_]:
    """For each hash: is it one of those wanted? As `np.isin`, faster where few are."""
    wanted = distinct(wanted)
    bits = min(24, max(8, len(wanted).bit_length() + 4))
    shift = np.uint64(64 - bits)
    is_met = np.zeros(1 << bits, dtype=bool)
    is_met[wanted >> shift] = True
    is_wanted = is_met[hashes >> shift]
    maybe = hashes[is_wanted]
    is_wanted[is_wanted] = wanted[np.minimum(np.searchsorted(wanted, maybe), len(wanted) - 1)] == maybe
    return is_wanted


def mix(values: Hashes) -> Hashes:
    """Scramble 64-bit values (the finaliser of MurmurHash3)."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def ngrams(words: Words, n: int) -> tuple[Numbers, Hashes]:
    """Every run of `n` words that stand in one text: the position of its first word, and its hash."""
    last = len(words.hashes) - n + 1
    if last < 1:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint64)
    runs = np.zeros(last, dtype=np.uint64)
    for step, factor in enumerate(mix(np.arange(1, n + 1, dtype=np.uint64)) | _ONE):
        runs += words.hashes[step : last + step] * factor
    runs = mix(runs)
    is_within = np.ones(last, dtype=bool)
    for back in range(1, n):  # runs that begin in one text and end in another
        places = words.starts[1:-1] - back
        is_within[places[(places >= 0) & (places < last)]] = False
    positions = np.flatnonzero(is_within)
    return positions, runs[positions]
