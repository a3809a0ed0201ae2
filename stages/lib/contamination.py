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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.dedupe import Wording
from stages.lib.records import Record
from stages.lib.words import Hashes, Numbers, Words, among, hashed_plain, mix, ngrams, stand_in_many

RUN = 8  # words
LONG = 13  # words in a row (GPT-3, arXiv:2005.14165): told of, even where they are a small part of the question
MANY = 10  # rows, training rows and questions together


@dataclass(frozen=True)
class Leak:
    """A training row, a question that it gives away, and how much of it."""

    row: int
    question: int
    share: float  # of the question's own words
    longest: int  # words in a row that both hold


@dataclass(frozen=True)
class Found:
    """What training rows hold of questions, by row: each with the question that it holds most of."""

    leaks: list[Leak]
    overlaps: list[Leak]  # no leaks, but with `LONG` words in a row


def asked(wording: Wording) -> Words:
    """What is looked for of each question: an alpaca row's own `input` where that is long enough, else all of it."""
    has_long_input = np.diff(wording.inputs.starts) >= RUN
    rows = np.arange(len(wording.questions))
    both = Words.end_to_end([wording.questions, wording.inputs])
    return both.take(np.where(has_long_input, len(rows) + rows, rows))


@dataclass(frozen=True)
class Turns:
    """System texts, and the questions of conversations that ask more than one, each by itself, and the row of each."""

    rows: Numbers
    texts: Words

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Turns":
        """What the records say by itself."""
        found = [(row, text) for row, record in enumerate(records) for text in _by_itself(record)]
        return cls(np.array([row for row, _ in found], dtype=np.int64), hashed_plain(turn for _, turn in found))

    def moved(self, rows: int) -> "Turns":
        """The same, so many rows further down."""
        return Turns(self.rows + rows, self.texts)

    @classmethod
    def end_to_end(cls, parts: Iterable["Turns"]) -> "Turns":
        """The turns of all, in order."""
        parts = list(parts)
        rows = np.concatenate([np.empty(0, np.int64), *(part.rows for part in parts)])
        return cls(rows, Words.end_to_end(part.texts for part in parts))

    def take(self, rows: Numbers) -> "Turns":
        """The turns of some rows, in ascending order; the rows are numbered anew."""
        chosen = np.flatnonzero(np.isin(self.rows, rows))
        return Turns(np.searchsorted(rows, self.rows[chosen]), self.texts.take(chosen))


def _by_itself(record: Record) -> list[str]:
    asked = [turn.plain for turn in record.messages if turn.role == "user"]
    return [turn.plain for turn in record.messages if turn.role == "system"] + (asked if len(asked) > 1 else [])


def find(training: Wording, turns: Turns, questions: Words, threshold: float, are_benchmarks: bool = False) -> Found:
    """The training rows that give away a question, or a long piece of one."""
    search = _Search.over(training, turns, questions)
    parts = list(_held_in_part(search))
    leaks = [*_asked_word_for_word(training, turns, questions), *(part for part in parts if part.share >= threshold)]
    if are_benchmarks:
        leaks += _held_whole(search)
    told = {leak.row for leak in leaks}
    long = [part for part in parts if part.longest >= LONG and part.row not in told]
    return Found(
        _worst_of_each(leaks, lambda leak: (leak.share, leak.longest)), _worst_of_each(long, lambda part: part.longest)
    )


def _worst_of_each(found: Iterable[Leak], badness: Callable[[Leak], Any]) -> list[Leak]:
    """For each row, in order, the worst; the first of equals."""
    worst: dict[int, Leak] = {}
    for leak in found:
        if leak.row not in worst or badness(leak) > badness(worst[leak.row]):
            worst[leak.row] = leak
    return [worst[row] for row in sorted(worst)]


def _asked_word_for_word(training: Wording, turns: Turns, questions: Words) -> Iterator[Leak]:
    names = questions.fingerprints()
    numbers = {name: number for number, name in reversed(list(enumerate(names.tolist())))}
    every_row = np.arange(len(training.questions))
    for rows, texts in ((every_row, training.questions), (turns.rows, turns.texts), (every_row, training.inputs)):
        said = texts.fingerprints()
        is_asked = among(said, names) & (np.diff(texts.starts) > 0)
        for row, name in zip(rows[is_asked].tolist(), said[is_asked].tolist(), strict=True):
            number = numbers[name]
            yield Leak(row, number, 1.0, int(questions.starts[number + 1] - questions.starts[number]))


@dataclass(frozen=True)
class _Search:
    """Runs of words in questions, and where training rows hold them."""

    places: Numbers  # of each run of a question: where its first word stands, all questions end to end
    runs: Hashes
    questions: Numbers  # the question of each run
    is_own: NDArray[np.bool_]  # for each word of the questions: do few rows share the run, opening or ending it is in?
    own_words: Numbers  # for each question
    rows: Numbers  # of each run held by a training row, in the order of the rows: the row
    held: Hashes
    is_rare: NDArray[np.bool_]  # whether few rows share it

    @classmethod
    def over(cls, training: Wording, turns: Turns, questions: Words) -> "_Search":
        places, runs = ngrams(questions, RUN)
        owners = questions.owners()
        rows, held = _runs_held(training, turns, runs)
        asking = len(training.questions) + owners[places]
        is_common = stand_in_many(np.concatenate([rows, asking]), np.concatenate([held, runs]), MANY)
        is_own = ~_in_common_ends(training, questions)
        for place in places[is_common[len(rows) :]]:
            is_own[place : place + RUN] = False
        own_words = np.bincount(owners[is_own], minlength=len(questions))
        return cls(places, runs, owners[places], is_own, own_words, rows, held, ~is_common[: len(rows)])


def _in_common_ends(training: Wording, questions: Words) -> NDArray[np.bool_]:
    """For each word of the questions: do more than `MANY` texts, training rows' and questions, begin or end so?

    Up to `RUN` - 1 words: longer ones are runs that many rows share.
    """
    is_common = np.zeros(len(questions.hashes), dtype=bool)
    is_part = np.diff(training.inputs.starts) < np.diff(training.questions.starts)  # else it would count twice
    texts = (training.questions, training.inputs.take(np.flatnonzero(is_part)), questions)
    for firsts, step in (([one.starts[:-1] for one in texts], 1), ([one.starts[1:] - 1 for one in texts], -1)):
        codes = [np.zeros(len(one), dtype=np.uint64) for one in texts]
        for depth in range(RUN - 1):
            for one, first, code in zip(texts, firsts, codes, strict=True):
                reaches = np.diff(one.starts) > depth
                code[reaches] = mix(code[reaches] * np.uint64(31) + one.hashes[first[reaches] + step * depth])
                code[~reaches] = 0
            kinds, times = np.unique(np.concatenate(codes), return_counts=True)
            is_common[(firsts[-1] + step * depth)[(codes[-1] != 0) & np.isin(codes[-1], kinds[times > MANY])]] = True
    return is_common


def _runs_held(training: Wording, turns: Turns, runs: Hashes) -> tuple[Numbers, Hashes]:
    """The wanted runs that stand in training rows, whoever speaks, with the row of each, rows in order."""
    rows, held = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    every_row = np.arange(len(training.questions))
    for owners, texts in ((every_row, training.questions), (every_row, training.answers), (turns.rows, turns.texts)):
        places, found = ngrams(texts, RUN)
        is_wanted = among(found, runs)
        rows.append(owners[np.searchsorted(texts.starts, places[is_wanted], side="right") - 1])
        held.append(found[is_wanted])
    order = np.argsort(np.concatenate(rows), kind="stable")
    return np.concatenate(rows)[order], np.concatenate(held)[order]


def _held_in_part(search: _Search) -> Iterator[Leak]:
    """What each row holds of each question, in runs that few rows share."""
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
        share = int(search.is_own[list(held)].sum()) / own if own >= RUN else 0.0
        yield Leak(row, question, share, _longest(held))


def _longest(places: Iterable[int]) -> int:
    """The most places that follow one another."""
    longest = length = 0
    before = -1
    for place in sorted(places):
        length = length + 1 if place == before + 1 else 1
        longest, before = max(longest, length), place
    return longest


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
                yield Leak(row, question, 1.0, len(its) + RUN - 1)
