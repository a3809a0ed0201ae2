"""Rows that repeat one another: exact and near duplicates, and the groups that must not be torn apart by a split.

Two texts are compared by the pieces (runs of three words, CJK one character a word) that they share: Jaccard
similarity, found with MinHash (Broder 1997) banded for recall, then verified exactly, so that no figure is an estimate.

Three things make it fit for task-shaped data, where one instruction stands over thousands of rows:

* A piece that belongs to a long passage which many rows share says what the task is, not what the row says of its own.
  It does not count; a text left with no other piece is compared as a whole. Only passages count as shared, not single
  common pieces: without "how many … does" two questions of GSM8K would seem less alike than they are.
* Numbers are compared exactly, words by their likeness: two rows that differ in one order number are different rows,
  however alike. For grouping, numbers are masked instead: such rows belong together.
* A near-duplicate needs a like question (and a like `input`, where both rows have one) and a like answer.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray
from tqdm import tqdm

from stages.lib.records import Record
from stages.lib.words import Hashes, Words, hashed, mix, ngrams, same

Rows = NDArray[np.int64]
Pairs = NDArray[np.int64]  # [n, 2]: row numbers, the earlier first
Shares = NDArray[np.float64]

PIECE = 3  # words
# Deleting is careful: a passage of 6 pieces (8 words) that 11 rows share counts for nothing. Among the questions of
# GSM8K this keeps .987 of the planted pairs that plain Jaccard finds at .7; from 4 rows on .957, and with single pieces
# for passages .963. Ten or fewer rows with one long instruction, short inputs and one answer do still look alike.
MANY_TO_DELETE = 10
# Grouping is careful the other way: too large a group costs little, a missed twin leaks into the test split.
MANY_TO_GROUP = 50
PASSAGE = 6  # pieces
SHORT = 20  # words
# Bands × rows: the chance that two rows of true similarity s become candidates is 1 - (1 - s^rows)^bands.
TO_DELETE = (25, 5)  # .990 at .7
TO_GROUP = (42, 3)  # .996 at .5
_SLACK = 0.2  # five standard deviations of an estimate from 125 hashes: candidates further below are not verified
_REACH = 20  # rows of one bucket are paired with the first of it and the 20 before; all pairs would be quadratic
_CHUNK = 20_000  # pairs verified at once
_NUMBER = np.uint64(1)  # stands for every number where numbers are masked


@dataclass(frozen=True)
class Pieces:
    """The pieces of each text, each once; text i holds `hashes[starts[i]:starts[i + 1]]`."""

    starts: Rows
    hashes: Hashes

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True)
class Texts:
    """Many texts, ready to be compared; none of the three is ever empty."""

    words: Pieces
    whole: Pieces
    own: Pieces  # without the passages that many of the texts share


def prepare(texts: Iterable[str], many: int) -> Texts:
    """Cut texts into pieces; a passage that stands in more than `many` of them is nobody's own.

    A text without a piece, because it is shorter than one or all of it is shared, gets one: the whole text.
    """
    words = hashed(texts)
    masked = np.where(words.is_number, _NUMBER, words.hashes)
    positions, hashes = ngrams(words, masked, PIECE)
    owners = words.owners()[positions]
    is_own = ~_in_shared_passages(owners, hashes, many)
    texts_as_one = _fingerprints(words, masked)
    return Texts(
        words=_pieces(words.owners(), masked, texts_as_one),
        whole=_pieces(owners, hashes, texts_as_one),
        own=_pieces(owners[is_own], hashes[is_own], texts_as_one),
    )


def _pieces(owners: Rows, hashes: Hashes, texts_as_one: Hashes) -> Pieces:
    """Each piece of a text once, texts in order."""
    without = np.setdiff1d(np.arange(len(texts_as_one)), owners)
    owners = np.concatenate([owners, without])
    hashes = np.concatenate([hashes, texts_as_one[without]])
    first = np.unique(_key(owners, hashes), return_index=True)[1]
    first = first[np.argsort(owners[first], kind="stable")]
    starts = np.searchsorted(owners[first], np.arange(len(texts_as_one) + 1))
    return Pieces(starts, hashes[first])


def _key(owners: Rows, hashes: Hashes) -> Hashes:
    """One number for a piece of one owner."""
    return mix(hashes + mix(owners.astype(np.uint64)))


def _in_shared_passages(owners: Rows, hashes: Hashes, many: int) -> NDArray[np.bool_]:
    """For each piece, in the order of the text: does it stand in a passage whose pieces all occur in many texts?"""
    if not len(hashes):
        return np.zeros(0, dtype=bool)
    _, kind = np.unique(hashes, return_inverse=True)
    first = np.unique(_key(owners, hashes), return_index=True)[1]
    is_common = np.bincount(kind[first])[kind] > many
    breaks = (owners[1:] != owners[:-1]) | (is_common[1:] != is_common[:-1])
    run = np.concatenate([[0], np.cumsum(breaks)])
    return is_common & (np.bincount(run)[run] >= PASSAGE)


def _fingerprints(words: Words, hashes: Hashes) -> Hashes:
    """One hash for each text as a whole."""
    places = np.arange(len(hashes)) - np.repeat(words.starts[:-1], np.diff(words.starts))
    return mix(np.add.reduceat(mix(hashes + mix(places.astype(np.uint64))), words.starts[:-1]))


def candidates(pieces: Pieces, bands: int, rows: int, floor: float) -> Pairs:
    """Pairs of texts that may have a similarity of `floor` or more."""
    if len(pieces) < 2:
        return np.empty((0, 2), dtype=np.int64)
    signatures = _signatures(pieces, bands * rows)
    codes = [np.empty(0, dtype=np.int64)]
    for band in range(bands):
        for earlier, later in _within_buckets(signatures[band * rows : (band + 1) * rows]):
            codes.append(earlier * len(pieces) + later)
    pairs = np.stack(np.divmod(np.unique(np.concatenate(codes)), len(pieces)), axis=1)
    agreement = np.zeros(len(pairs))
    for row in signatures:
        agreement += row[pairs[:, 0]] == row[pairs[:, 1]]
    return pairs[agreement >= (floor - _SLACK) * len(signatures)]


def _signatures(pieces: Pieces, count: int) -> NDArray[np.uint32]:
    """MinHash: [count, texts], for each hash function the smallest value among a text's pieces (multiply-shift)."""
    signatures = np.empty((count, len(pieces)), dtype=np.uint32)
    for number in tqdm(range(count), desc="compare", disable=None, leave=False):
        factor = np.uint64(xxhash.xxh3_64_intdigest(f"factor {number}".encode()) | 1)
        shift = np.uint64(xxhash.xxh3_64_intdigest(f"shift {number}".encode()))
        values = ((pieces.hashes * factor + shift) >> np.uint64(32)).astype(np.uint32)
        signatures[number] = np.minimum.reduceat(values, pieces.starts[:-1])
    return signatures


def _within_buckets(band: NDArray[np.uint32]) -> Iterator[tuple[Rows, Rows]]:
    """Texts that agree in every row of a band, as earlier and later ones."""
    bucket = np.zeros(band.shape[1], dtype=np.uint64)
    for row in band:
        bucket = mix(bucket * np.uint64(31) + row)
    order = np.argsort(bucket, kind="stable")  # stable: within a bucket the earlier text comes first
    bucket = bucket[order]
    opens = np.concatenate([[True], bucket[1:] != bucket[:-1]])
    first = np.maximum.accumulate(np.where(opens, np.arange(len(order)), 0))
    yield order[first[~opens]], order[~opens]
    for reach in range(1, _REACH + 1):
        both = np.nonzero(bucket[reach:] == bucket[:-reach])[0]
        yield order[both], order[both + reach]


def jaccard(pieces: Pieces, pairs: Pairs) -> Shares:
    """For each pair: the pieces that both texts hold, as a share of those that either holds."""
    shares = np.empty(len(pairs))
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        earlier, left = _gather(pieces, chunk[:, 0])
        later, right = _gather(pieces, chunk[:, 1])
        is_shared = np.isin(_key(earlier, left), _key(later, right))
        shared = np.bincount(earlier[is_shared], minlength=len(chunk))
        either = np.bincount(earlier, minlength=len(chunk)) + np.bincount(later, minlength=len(chunk)) - shared
        shares[start : start + len(chunk)] = shared / either
    return shares


def _gather(pieces: Pieces, texts: Rows) -> tuple[Rows, Hashes]:
    """The pieces of the texts end to end, and for each piece the place of its text in `texts`."""
    lengths = pieces.starts[texts + 1] - pieces.starts[texts]
    owners = np.repeat(np.arange(len(texts)), lengths)
    within = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return owners, pieces.hashes[pieces.starts[texts][owners] + within]


@dataclass(frozen=True)
class Repeats:
    """Pairs of rows that ask nearly the same, and how alike their answers are."""

    pairs: Pairs
    questions: Shares
    answers: Shares

    def in_order(self) -> Iterator[tuple[int, int, float, float]]:
        """The pairs by their later row; of one row's, the most alike first."""
        order = np.lexsort((self.pairs[:, 0], -np.minimum(self.questions, self.answers), self.pairs[:, 1]))
        for place in order.tolist():
            earlier, later = self.pairs[place].tolist()
            yield earlier, later, float(self.questions[place]), float(self.answers[place])


def near_repeats(records: Sequence[Record], threshold: float, bands_and_rows: tuple[int, int] = TO_DELETE) -> Repeats:
    """Find the pairs whose questions are alike at `threshold`; they are near-duplicates where the answers are, too."""
    questions = prepare([record.question for record in records], MANY_TO_DELETE)
    pairs = candidates(questions.own, *bands_and_rows, threshold)
    pairs = pairs[_same_numbers([record.question for record in records], pairs)]
    likeness = _likeness(questions, pairs)
    has_input = np.array([record.input is not None for record in records])
    both = has_input[pairs].all(axis=1)
    if both.any():
        inputs = prepare([record.input or "" for record in records], MANY_TO_DELETE)
        likeness[both] = np.minimum(likeness[both], _likeness(inputs, pairs[both]))
    pairs, likeness = pairs[likeness >= threshold], likeness[likeness >= threshold]
    answers = [record.answer for record in records]
    same_numbers = _same_numbers(answers, pairs)
    return Repeats(pairs, likeness, _likeness(prepare(answers, MANY_TO_DELETE), pairs) * same_numbers)


def like_questions(records: Sequence[Record], threshold: float) -> tuple[Pairs, Shares]:
    """Pairs of rows whose questions are alike at `threshold`, whatever their numbers and answers, and how alike."""
    questions = prepare([record.question for record in records], MANY_TO_GROUP)
    pairs = candidates(questions.own, *TO_GROUP, threshold)
    likeness = jaccard(questions.own, pairs)
    return pairs[likeness >= threshold], likeness[likeness >= threshold]


def _likeness(texts: Texts, pairs: Pairs) -> Shares:
    """Alike as a whole *and* in what they say of their own: two tasks over one passage are not the same row.

    The last word of a text stands in one piece, one in the middle in three. So that a short task whose own word comes
    last is not taken for the next one, the words of short texts must be alike, too, at half the distance.
    """
    likeness = np.minimum(jaccard(texts.whole, pairs), jaccard(texts.own, pairs))
    is_short = np.diff(texts.words.starts)[pairs].min(axis=1, initial=SHORT) < SHORT
    likeness[is_short] = np.minimum(likeness[is_short], 2 * jaccard(texts.words, pairs[is_short]) - 1)
    return likeness


def _same_numbers(texts: Sequence[str], pairs: Pairs) -> NDArray[np.bool_]:
    involved = {int(row) for row in np.unique(pairs)}
    numbers = {row: re.findall(r"\d+", same(texts[row])) for row in involved}
    return np.array([numbers[earlier] == numbers[later] for earlier, later in pairs.tolist()], dtype=bool)


def components(count: int, pairs: Pairs) -> list[int]:
    """The connected components of `count` rows: for each row, the first row that it hangs together with."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for earlier, later in pairs.tolist():
        one, other = root(earlier), root(later)
        parent[max(one, other)] = min(one, other)
    return [root(row) for row in range(count)]
