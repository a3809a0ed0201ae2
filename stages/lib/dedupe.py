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

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray
from tqdm import tqdm

from stages.lib.records import Record
from stages.lib.words import (
    Hashes,
    Numbers,
    Words,
    crowded,
    distinct,
    hashed_or_none,
    hashed_plain,
    mix,
    ngrams,
    stand_in_many,
)

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
_REACH = 20  # rows of one bucket are paired with the first of it and the 20 before; all pairs would be quadratic
_TEXTS = 2048  # cut into pieces at once
_CELLS = 1 << 16  # hashes under way at once in `_signatures`: few enough to stay in a processor's cache
_PAIRS = 14  # bits: so many pairs are verified at once, the other bits of a key are the piece's


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


@dataclass(frozen=True)
class Texts:
    """Many texts, ready to be compared, as words and as pieces, hashed alike; no text is ever without one."""

    words: Words
    whole: Words
    own: Words  # without the passages that many of the texts share


def prepare(words: Words, many: int) -> Texts:
    """Cut texts into pieces; a passage that stands in more than `many` of them is nobody's own.

    A text without a piece, because it is shorter than one or all of it is shared, gets one: the whole text.
    """
    lengths = np.diff(words.starts)
    starts = _starts(np.maximum(lengths - PIECE + 1, 1))
    masked, hashes = np.empty_like(words.hashes), np.empty(starts[-1], dtype=np.uint64)
    as_one = np.empty(len(words), dtype=np.uint64)
    for texts, part in words.slices(_TEXTS):
        plain = part.masked()
        masked[words.starts[texts.start] : words.starts[texts.stop]] = plain.hashes
        as_one[texts] = plain.fingerprints()
        hashes[starts[texts.start] : starts[texts.stop]] = _pieces(plain, as_one[texts])
    whole = Words(starts, hashes)
    return Texts(words=Words(words.starts, masked), whole=whole, own=_own(whole, as_one, many))


def _pieces(words: Words, as_one: Hashes) -> Hashes:
    """The pieces of texts, end to end."""
    lengths = np.diff(words.starts)
    is_short = lengths < PIECE
    if not is_short.any():
        return ngrams(words, PIECE)[1]
    starts = _starts(np.where(is_short, 1, lengths - PIECE + 1))
    hashes = np.empty(starts[-1], dtype=np.uint64)
    is_one = np.zeros(len(hashes), dtype=bool)
    is_one[starts[:-1][is_short]] = True
    hashes[is_one] = as_one[is_short]
    hashes[~is_one] = ngrams(words, PIECE)[1]
    return hashes


def _own(whole: Words, as_one: Hashes, many: int) -> Words:
    """The pieces that stand in no passage all of whose pieces occur in many texts."""
    maybe = crowded(whole.hashes, many)
    owners = np.searchsorted(whole.starts, maybe, side="right") - 1
    is_common = np.zeros(len(whole.hashes), dtype=bool)
    is_common[maybe] = stand_in_many(owners, whole.hashes[maybe], many)
    if not is_common.any():
        return whole
    is_own = ~is_common
    for texts, part in whole.slices(_TEXTS):
        place = slice(whole.starts[texts.start], whole.starts[texts.stop])
        is_own[place] |= ~_in_passages(part.owners(), is_common[place])
    kept = np.add.reduceat(is_own, whole.starts[:-1], dtype=np.int64)
    without = whole.starts[:-1][kept == 0]
    is_own[without] = True
    hashes = whole.hashes[is_own]
    starts = _starts(np.maximum(kept, 1))
    hashes[starts[:-1][kept == 0]] = as_one[kept == 0]
    return Words(starts, hashes)


def _in_passages(owners: Numbers, is_common: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a piece stands in a run of `PASSAGE` common ones."""
    breaks = (owners[1:] != owners[:-1]) | (is_common[1:] != is_common[:-1])
    run = np.concatenate([[0], np.cumsum(breaks)])
    return is_common & (np.bincount(run)[run] >= PASSAGE)


def _starts(lengths: Numbers) -> Numbers:
    return np.concatenate([[0], np.cumsum(lengths)])


def candidates(pieces: Words, bands: int, rows: int) -> Pairs:
    """Pairs of texts that are likely to be alike: in some band, all `rows` of their MinHash values are the same."""
    if len(pieces) < 2:
        return np.empty((0, 2), dtype=np.int64)
    signatures = _signatures(pieces, bands * rows)
    codes = [np.empty(0, dtype=np.int64)]
    for band in range(bands):
        for earlier, later in _within_buckets(signatures[band * rows : (band + 1) * rows]):
            codes.append(earlier * len(pieces) + later)
    return np.stack(np.divmod(distinct(np.concatenate(codes)), len(pieces)), axis=1)


def _signatures(pieces: Words, count: int) -> NDArray[np.uint32]:
    """MinHash: [count, texts], for each hash function the smallest value among a text's pieces (multiply-shift).

    Texts of about one length are laid side by side, the shorter ones filled up with their last piece.
    """
    hashes = (pieces.hashes >> np.uint64(32)).astype(np.uint32)
    lengths = np.diff(pieces.starts)
    factors, shifts = (
        np.array([xxhash.xxh3_64_intdigest(f"{name} {n}".encode()) & 0xFFFFFFFF for n in range(count)], np.uint32)
        for name in ("factor", "shift")
    )
    signatures = np.empty((count, len(pieces)), dtype=np.uint32)
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    with tqdm(total=len(order), desc="compare", unit=" rows", disable=None, leave=False) as bar:
        while begin < len(order):
            longest = int(lengths[order[begin]])
            texts = order[begin : begin + max(1, _CELLS // longest)]
            places = np.minimum(np.arange(longest)[:, None], lengths[texts] - 1) + pieces.starts[texts]
            block = hashes[places]
            values = np.empty_like(block)
            for number in range(count):
                np.multiply(block, factors[number] | np.uint32(1), out=values)
                values += shifts[number]
                signatures[number, texts] = values.min(axis=0)
            begin += len(texts)
            bar.update(len(texts))
    return signatures


def _within_buckets(band: NDArray[np.uint32]) -> Iterator[tuple[Numbers, Numbers]]:
    """Texts that agree in every row of a band, as earlier and later ones."""
    bucket = np.zeros(band.shape[1], dtype=np.uint64)
    for row in band:
        bucket = mix(bucket * np.uint64(31) + row)
    # Sorted by bucket, and within one by text. Half of the bucket's bits are enough: every pair is verified.
    keys = np.sort((bucket >> np.uint64(32) << np.uint64(32)) | np.arange(len(bucket), dtype=np.uint64))
    bucket, texts = keys >> np.uint64(32), (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    is_same = bucket[1:] == bucket[:-1]
    is_shared = np.append(is_same, False) | np.append(False, is_same)
    bucket, texts = bucket[is_shared], texts[is_shared]
    if not len(texts):
        return
    opens = np.append(True, bucket[1:] != bucket[:-1])
    first = np.maximum.accumulate(np.where(opens, np.arange(len(texts)), 0))
    yield texts[first[~opens]], texts[~opens]
    for reach in range(1, _REACH + 1):
        both = np.flatnonzero(bucket[reach:] == bucket[:-reach])
        yield texts[both], texts[both + reach]


def jaccard(pieces: Words, pairs: Pairs) -> Shares:
    """For each pair: the pieces that both texts hold, as a share of those that either holds."""
    at_once = 1 << _PAIRS
    shares = [
        _jaccard(pieces, chunk)
        for start in range(0, len(pairs), at_once)
        if len(chunk := pairs[start : start + at_once])
    ]
    return np.concatenate([np.empty(0), *shares])


def _jaccard(pieces: Words, pairs: Pairs) -> Shares:
    earlier, later = (_distinct(pieces, texts) for texts in pairs.T)
    both = np.sort(np.concatenate([earlier, later]))
    shared = both[1:][both[1:] == both[:-1]]
    counts = [
        np.bincount((keys >> np.uint64(64 - _PAIRS)).astype(np.int64), minlength=len(pairs)) for keys in (both, shared)
    ]
    return counts[1] / (counts[0] - counts[1])


def _distinct(pieces: Words, texts: Numbers) -> Hashes:
    """The pieces of the texts, each once: the place in `texts` in the upper bits, sorted."""
    taken = pieces.take(texts)
    owners = taken.owners().astype(np.uint64)
    return distinct((owners << np.uint64(64 - _PAIRS)) | (taken.hashes >> np.uint64(_PAIRS)))


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


def near_repeats(wording: Wording, threshold: float, bands_and_rows: tuple[int, int] = TO_DELETE) -> Repeats:
    """Find the pairs whose questions are alike at `threshold`; they are near-duplicates where the answers are, too."""
    questions = prepare(wording.questions, MANY_TO_DELETE)
    pairs = candidates(questions.own, *bands_and_rows)
    pairs = pairs[_have_same_numbers(wording.questions, pairs)]
    likeness = _likeness(questions, pairs)
    pairs, likeness = pairs[likeness >= threshold], likeness[likeness >= threshold]
    has_input = np.diff(wording.inputs.starts) > 0
    both = has_input[pairs].all(axis=1)
    if both.any():
        inputs = prepare(wording.inputs, MANY_TO_DELETE)
        likeness[both] = np.minimum(likeness[both], _likeness(inputs, pairs[both]))
        pairs, likeness = pairs[likeness >= threshold], likeness[likeness >= threshold]
    if not len(pairs):
        return Repeats(pairs, likeness, np.empty(0))
    answers = _likeness(prepare(wording.answers, MANY_TO_DELETE), pairs)
    return Repeats(pairs, likeness, answers * _have_same_numbers(wording.answers, pairs))


def like_questions(wording: Wording, threshold: float) -> tuple[Pairs, Shares]:
    """Pairs of rows whose questions are alike at `threshold`, whatever their numbers and answers, and how alike."""
    questions = prepare(wording.questions, MANY_TO_GROUP)
    pairs = candidates(questions.own, *TO_GROUP)
    likeness = jaccard(questions.own, pairs)
    return pairs[likeness >= threshold], likeness[likeness >= threshold]


def _likeness(texts: Texts, pairs: Pairs) -> Shares:
    """Alike as a whole *and* in what they say of their own: two tasks over one passage are not the same row.

    The last word of a text stands in one piece, one in the middle in three. So that a short task whose own word comes
    last is not taken for the next one, the words of short texts must be alike, too, at half the distance.
    """
    likeness = jaccard(texts.whole, pairs)
    if texts.own is not texts.whole:
        likeness = np.minimum(likeness, jaccard(texts.own, pairs))
    is_short = np.diff(texts.words.starts)[pairs].min(axis=1, initial=SHORT) < SHORT
    likeness[is_short] = np.minimum(likeness[is_short], 2 * jaccard(texts.words, pairs[is_short]) - 1)
    return likeness


def _have_same_numbers(words: Words, pairs: Pairs) -> NDArray[np.bool_]:
    """Whether the words that hold a digit are the same ones in the same order."""
    holds = words.hold_digits()
    starts = np.concatenate([[0], np.cumsum(holds)])[words.starts]
    numbers = Words(starts, words.hashes[holds]).fingerprints()
    return numbers[pairs[:, 0]] == numbers[pairs[:, 1]]


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
