"""Training rows that give away a question of the test split or of a benchmark.

A question is given away when one training row holds at least a given share of its words in runs of eight (the measure
of Tülu 3, arXiv:2411.15124; eight words after PaLM, arXiv:2204.02311). As in `dedupe`, only what a text says of its own
counts: words inside runs that stand in more than `MANY` rows are the task's instruction, and would condemn every row of
a task-shaped set. So are words with which more than `MANY` questions begin or end, however few they are: seven of them
and one that two rows happen to share would make a run. A question with fewer than eight words of its own must be asked
word for word: of "… Mammal or fish? Whale" each run but one stands in every other row.

A benchmark's question that more than `MANY` rows repeat would pass for an instruction, so there a row that holds the
whole of it is a leak, too. A mere part of it that so many rows hold is not seen.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.lib.records import Record
from stages.lib.words import Hashes, Words, hashed, mix, ngrams, words

Places = NDArray[np.int64]

RUN = 8  # words
MANY = 10  # rows, training rows and questions together


@dataclass(frozen=True)
class Leak:
    """A training row, a question that it gives away, and how much of it."""

    row: int
    question: int
    share: float


def asked(text: str, own: str | None) -> str:
    """What is looked for of a question: an alpaca row's own `input` where that is long enough, else all of it."""
    return own if own is not None and len(words(own)) >= RUN else text


def leaks(
    training: Sequence[Record], questions: Sequence[str], threshold: float, are_benchmarks: bool = False
) -> list[Leak]:
    """The training rows that give away a question, in order; each with the question that it gives away most of."""
    search = _Search.over(training, questions)
    found = [*_asked_word_for_word(training, questions), *_held_in_part(search, threshold)]
    if are_benchmarks:
        found += _held_whole(search)
    return worst_of_each(found)


def worst_of_each(found: Iterable[Leak]) -> list[Leak]:
    """For each row, in order, the question that it gives away most of; the first of equals."""
    worst: dict[int, Leak] = {}
    for leak in found:
        if leak.row not in worst or leak.share > worst[leak.row].share:
            worst[leak.row] = leak
    return [worst[row] for row in sorted(worst)]


def _asked_word_for_word(training: Sequence[Record], questions: Sequence[str]) -> Iterator[Leak]:
    numbers = {tuple(words(question)): number for number, question in reversed(list(enumerate(questions)))}
    for row, record in enumerate(training):
        texts = [message.content for message in record.messages if message.role == "user"]
        for text in [*texts, record.question, record.input or ""]:
            number = numbers.get(tuple(words(text)))
            if number is not None:
                yield Leak(row, number, 1.0)
                break


@dataclass(frozen=True)
class _Search:
    """Runs of words in questions, and where training rows hold them."""

    places: Places  # of each run of a question: where its first word stands, all questions end to end
    runs: Hashes
    questions: Places  # the question of each run
    is_own: NDArray[np.bool_]  # for each word of the questions: do few rows share the run, opening or ending it is in?
    own_words: Places  # for each question
    rows: Places  # of each run held by a training row, in the order of the rows: the row
    held: Hashes
    is_rare: NDArray[np.bool_]  # whether few rows share it

    @classmethod
    def over(cls, training: Sequence[Record], questions: Sequence[str]) -> "_Search":
        wanted = hashed(questions)
        places, runs = ngrams(wanted, wanted.hashes, RUN)
        owners = wanted.owners()
        rows, held = _runs_held(training, runs)
        asking = len(training) + owners[places]
        is_common = _stand_in_many(np.concatenate([rows, asking]), np.concatenate([held, runs]))
        is_own = ~_in_common_ends(training, questions)
        for place in places[is_common[len(rows) :]]:
            is_own[place : place + RUN] = False
        own_words = np.bincount(owners[is_own], minlength=len(questions))
        return cls(places, runs, owners[places], is_own, own_words, rows, held, ~is_common[: len(rows)])


def _in_common_ends(training: Sequence[Record], questions: Sequence[str]) -> NDArray[np.bool_]:
    """For each word of the questions: do more than `MANY` texts, training rows' and questions, begin or end so?"""
    asked_there = [record.question for record in training]
    inputs = [record.input for record in training if record.input is not None]
    texts = hashed([*asked_there, *inputs, *questions])
    backwards = Words(texts.starts[-1] - texts.starts[::-1], texts.hashes[::-1], texts.is_number[::-1])
    is_common = _in_common_openings(texts) | _in_common_openings(backwards)[::-1]
    return is_common[texts.starts[len(texts) - len(questions)] :]


def _in_common_openings(texts: Words) -> NDArray[np.bool_]:
    """For each word: do more than `MANY` texts begin with all that its text says up to it?"""
    begins = np.repeat(texts.starts[:-1], np.diff(texts.starts))
    places = (np.arange(len(begins)) - begins).astype(np.uint64)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mix(texts.hashes + mix(places)))])
    openings = sums[1:] - sums[begins]  # one number for each opening of each text: the sum of its words in their places
    _, kind, texts_with = np.unique(openings, return_inverse=True, return_counts=True)
    return (texts_with > MANY)[kind]


def _runs_held(training: Sequence[Record], runs: Hashes) -> tuple[Places, Hashes]:
    """The wanted runs that stand in training rows, questions and answers alike, with the row of each."""
    texts = hashed("\n".join(message.content for message in record.messages) for record in training)
    places, found = ngrams(texts, texts.hashes, RUN)
    is_wanted = np.isin(found, runs)
    return texts.owners()[places[is_wanted]], found[is_wanted]


def _stand_in_many(owners: Places, runs: Hashes) -> NDArray[np.bool_]:
    """For each run: does it stand in more than `MANY` of the owners?"""
    if not len(runs):
        return np.zeros(0, dtype=bool)
    _, kind = np.unique(runs, return_inverse=True)
    span = int(owners.max()) + 1
    once = np.unique(kind * span + owners) // span
    return (np.bincount(once) > MANY)[kind]


def _held_in_part(search: _Search, threshold: float) -> Iterator[Leak]:
    places = defaultdict(list)
    for number, run in enumerate(search.runs.tolist()):
        places[run].append(number)
    found: dict[tuple[int, int], set[int]] = defaultdict(set)
    for row, run in zip(search.rows[search.is_rare].tolist(), search.held[search.is_rare].tolist(), strict=True):
        for number in places[run]:
            first = int(search.places[number])
            found[row, int(search.questions[number])].update(range(first, first + RUN))
    for (row, question), held in found.items():
        own = int(search.own_words[question])
        if own >= RUN and (share := int(search.is_own[list(held)].sum()) / own) >= threshold:
            yield Leak(row, question, share)


def _held_whole(search: _Search) -> Iterator[Leak]:
    """Rows that hold every run of a question without a word of its own, if that is repeated as one piece.

    Of an instruction with an input that many rows begin with, the input's runs stand in far fewer rows than the others.
    """
    order = np.argsort(search.held, kind="stable")
    first, last = (np.searchsorted(search.held[order], search.runs, side=side) for side in ("left", "right"))
    held_by = last - first
    for question in np.unique(search.questions[search.own_words[search.questions] == 0]).tolist():
        its = np.nonzero(search.questions == question)[0]
        rarest = its[np.argmin(held_by[its])]
        if held_by[its].max() > 2 * held_by[rarest]:
            continue
        for row in np.unique(search.rows[order[first[rarest] : last[rarest]]]).tolist():
            begin, end = np.searchsorted(search.rows, [row, row + 1])
            if np.isin(search.runs[its], search.held[begin:end]).all():
                yield Leak(row, question, 1.0)
