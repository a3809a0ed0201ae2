"""Rows that repeat one another: exact and near duplicates, and the groups that must not be torn apart by a split.

Two texts are compared by the pieces (runs of three words, CJK one character a word) that they share: Jaccard
similarity, found with MinHash (Broder 1997) banded for recall, then verified exactly, so that no figure is an estimate.

Three things make it fit for task-shaped data, where one instruction stands over thousands of rows:

* A piece that belongs to a long passage which many rows share says what the task is, not what the row says of its own.
  It does not count; a text left with no other piece is compared as a whole. Only passages count as shared, not single
  common pieces: without "how many … does" two questions of GSM8K would seem less alike than they are.
* Numbers are compared exactly, words by their likeness: two rows that differ in one order number are different rows,
  however alike. For grouping, numbers are masked instead: such rows belong together.
* A near-duplicate needs a like question (and a like `input`, where both rows have one) and a like answer. Two questions
  that differ in one place, and there have hardly a word in common, are an instruction with two inputs.

Where more than ten rows are alike, question and answer, but for single words, as letters to many names, nothing in them
tells copies from a task. They are not deleted, but told of, and kept together.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.lib.minhash import Pairs, Shares, candidates, jaccard
from stages.lib.wording import Wording
from stages.lib.words import Hashes, Numbers, Words, crowded, ngrams, stand_in_many

PIECE = 3  # words
# Deleting is careful: a passage of 6 pieces (8 words) that 11 rows share counts for nothing. Among the questions of
# GSM8K this keeps .987 of the planted pairs that plain Jaccard finds at .7; from 4 rows on .957, and with single pieces
# for passages .963.
MANY_TO_DELETE = 10
# Grouping is careful the other way: too large a group costs little, a missed twin leaks into the test split.
MANY_TO_GROUP = 50
PASSAGE = 6  # pieces
SHORT = 20  # words
# An input: so many words where two questions differ, and at most a third of them in common; fewer at an end (but for
# three words, such as "Answer:"). Many rows have a short answer in common; where they have a long one, it takes more.
# Of planted pairs of 55 words, single ones exchanged, .007 look so, too, and stay; with long answers .001.
INPUT, INPUT_AT_END = (5, 8), (2, 4)  # if the answers are short, if they are long
INPUT_SHARE, AT_END = 1 / 3, 3
COPIES = 0.75  # similarity at which rows of one template may be copies; inputs of 10 words to a task of 60 have .7
# Bands × rows.
TO_DELETE = (25, 5)  # .990 at .7
TO_GROUP = (42, 3)  # .996 at .5
_TEXTS = 2048  # cut into pieces at once
_AT_ONCE = 1 << 16  # pairs whose words are laid side by side at once: there may be twenty for each row


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


@dataclass(frozen=True)
class Repeats:
    """Pairs of rows that ask nearly the same, and how alike their answers are; and pairs that may be copies."""

    pairs: Pairs
    questions: Shares
    answers: Shares
    is_input: NDArray[np.bool_]  # they differ in one place, which is the input to one instruction: not the same row
    copies: Pairs  # rows that are alike as a whole, question and answer, with little of their own
    copied: Shares  # how alike they are

    def in_order(self) -> Iterator[tuple[int, int, float, float, bool]]:
        """The pairs by their later row, with all figures; of one row's, the most alike first."""
        order = np.lexsort((self.pairs[:, 0], -np.minimum(self.questions, self.answers), self.pairs[:, 1]))
        for place in order.tolist():
            earlier, later = self.pairs[place].tolist()
            yield earlier, later, float(self.questions[place]), float(self.answers[place]), bool(self.is_input[place])

    def same_rows(self, threshold: float) -> Pairs:
        """The pairs that are near-duplicates."""
        return self.pairs[(self.answers >= threshold) & ~self.is_input]


def near_repeats(wording: Wording, threshold: float, bands_and_rows: tuple[int, int] = TO_DELETE) -> Repeats:
    """Find the pairs whose questions are alike at `threshold`; they are near-duplicates where the answers are, too."""
    questions = prepare(wording.questions, MANY_TO_DELETE)
    copies, copied = _copies(wording, questions, max(threshold, COPIES))
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
    is_input = _have_other_inputs(wording, pairs)
    if not len(pairs):
        return Repeats(pairs, likeness, np.empty(0), is_input, copies, copied)
    answers = _likeness(prepare(wording.answers, MANY_TO_DELETE), pairs)
    return Repeats(pairs, likeness, answers * _have_same_numbers(wording.answers, pairs), is_input, copies, copied)


def _copies(wording: Wording, questions: Texts, threshold: float) -> tuple[Pairs, Shares]:
    """Pairs of rows with long answers that are alike as a whole, but hardly in what is their own; and how alike."""
    own = np.diff(questions.own.starts) / np.diff(questions.whole.starts)
    rows = np.flatnonzero((own <= 1 - threshold) & (np.diff(wording.answers.starts) >= SHORT))
    if len(rows) <= MANY_TO_DELETE:
        return np.empty((0, 2), dtype=np.int64), np.empty(0)
    answers = prepare(wording.answers.take(rows), len(rows)).whole
    found = candidates(answers, *TO_DELETE)
    # What can be told without counting pieces comes first: thousands of rows of a task may have one canned answer.
    for words in (wording.questions, wording.answers):
        found = found[_have_same_numbers(words, rows[found])]
    found = found[~_have_other_inputs(wording, rows[found])]
    likeness = np.minimum(jaccard(questions.whole, rows[found]), jaccard(answers, found))
    return rows[found[likeness >= threshold]], likeness[likeness >= threshold]


def like_questions(wording: Wording, threshold: float) -> tuple[Pairs, Shares, Words]:
    """Pairs of rows whose questions are alike at `threshold`, whatever their numbers and answers, and how alike.

    Of many rows that are all alike not all pairs are found, but enough to hold them together. The pieces that were
    compared are given, too.
    """
    questions = prepare(wording.questions, MANY_TO_GROUP)
    pairs = candidates(questions.own, *TO_GROUP)
    likeness = jaccard(questions.own, pairs)
    return pairs[likeness >= threshold], likeness[likeness >= threshold], questions.own


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


def _have_other_inputs(wording: Wording, pairs: Pairs) -> NDArray[np.bool_]:
    """Whether two questions are the same up to some place and from another on, and between hardly share a word."""
    chunks = [_other_inputs(wording, pairs[start : start + _AT_ONCE]) for start in range(0, len(pairs), _AT_ONCE)]
    return np.concatenate([np.empty(0, dtype=bool), *chunks])


def _other_inputs(wording: Wording, pairs: Pairs) -> NDArray[np.bool_]:
    words = wording.questions
    lengths = np.diff(words.starts)[pairs]
    fronts = _common(words.hashes, words.starts[pairs], lengths.min(axis=1), 1)
    backs = _common(words.hashes, words.starts[pairs + 1] - 1, lengths.min(axis=1) - fronts, -1)
    rests = lengths - (fronts + backs)[:, None]
    are_long = (np.diff(wording.answers.starts)[pairs].min(axis=1) >= SHORT).astype(int)
    needed = np.where(np.minimum(fronts, backs) <= AT_END, np.take(INPUT_AT_END, are_long), np.take(INPUT, are_long))
    may_be = (rests.min(axis=1) > 0) & (rests.max(axis=1) >= needed)
    chosen, first = rests[may_be].ravel(), (words.starts[pairs] + fronts[:, None])[may_be].ravel()
    starts = _starts(chosen)
    places = np.arange(starts[-1]) + np.repeat(first - starts[:-1], chosen)
    couples = np.arange(len(chosen)).reshape(-1, 2)
    may_be[may_be] = jaccard(Words(starts, words.hashes[places]), couples) <= INPUT_SHARE
    return may_be


def _common(hashes: Hashes, firsts: Numbers, most: Numbers, step: int) -> Numbers:
    """For pairs of places: how many words, at most so many, are the same in both from there on, or back (step -1)."""
    starts = _starts(most)
    along = step * (np.arange(starts[-1]) - np.repeat(starts[:-1], most))
    one, other = (hashes[np.repeat(first, most) + along] for first in firsts.T)
    differ = np.flatnonzero(np.append(one != other, True))
    return np.minimum(differ[np.searchsorted(differ, starts[:-1])] - starts[:-1], most)


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
