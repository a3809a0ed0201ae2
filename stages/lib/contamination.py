"""Training rows that give away a question of the test split or of a benchmark.

A question is given away when one training row holds at least a given share of its words in runs of eight (the measure
of Tülu 3, arXiv:2411.15124; eight words after PaLM, arXiv:2204.02311). As in `dedupe`, only what a text says of its own
counts: words inside runs that stand in more than `MANY` rows are the task's instruction, and would condemn every row of
a task-shaped set. So are words with which more than `MANY` questions begin or end, however few they are: seven of them
and one that two rows happen to share would make a run. A question with fewer than eight words of its own must be asked
word for word: of "… Mammal or fish? Whale" each run but one stands in every other row. If each run of it reaches beyond
what it shares with others ("What is the …"), it may also stand whole inside other text.

A benchmark's question that more than `MANY` rows repeat would pass for an instruction, so there a row that holds the
whole of it is a leak, too. What so many rows hold of a question is else no leak: nothing tells it from an instruction.
Each such piece is told of.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.records import Record
from stages.lib.wording import Wording
from stages.lib.words import Hashes, Numbers, Words, among, distinct, hashed, hashed_plain, mix, ngrams, stand_in_many

RUN = 8  # words
LONG = 13  # words in a row (GPT-3, arXiv:2005.14165): told of, even where they are a small part of the question
# Words to `dedupe`, since 3 + 5 is not 3 * 5; but runs must be met within **bold** text and > quoted mail.
_SIGNS = hashed("*/>|#~+=<^&$%@").hashes
FEW = 2  # words of its own: so many must a question have that is found whole in other text
MANY = 10  # rows, of all splits, and questions of benchmarks


@dataclass(frozen=True)
class Leak:
    """A training row, a question that it gives away, and how much of it."""

    row: int
    question: int
    share: float  # of the question's own words
    longest: int  # words in a row that both hold


@dataclass(frozen=True)
class Common:
    """A piece of questions that more than `MANY` rows hold: of `LONG` words in a row, of a benchmark's of `RUN`."""

    question: int  # the first that has it
    questions: int  # how many have it
    rows: int  # training rows that hold it
    row: int  # the first of them
    longest: int  # words in a row that this one and the question have in common


@dataclass(frozen=True)
class Found:
    """What training rows hold of questions, by row: each with the question that it holds most of."""

    leaks: list[Leak]
    overlaps: list[Leak]  # no leaks, but with `LONG` words in a row
    common: list[Common]


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


def _by_itself(record: Record) -> list[str]:
    asked = [turn.plain for turn in record.messages if turn.role == "user"]
    return [turn.plain for turn in record.messages if turn.role == "system"] + (asked if len(asked) > 1 else [])


def find(
    rows: Wording, turns: Turns, training: Numbers, questions: Words, askers: Numbers | None, threshold: float
) -> Found:
    """The training rows that give away a question, or a long piece of one.

    Args:
        rows: what the rows of all splits say.
        turns: what of it they say by itself.
        training: which rows are trained on.
        askers: for each question the row that asks it; None if they are a benchmark's.
    """
    search = _Search.over(rows, turns, training, questions, askers)
    holders = _Holders.among(search)
    parts = list(_held_in_part(search))
    leaks = [
        *_asked_word_for_word(rows, turns, search.is_training, questions),
        *(part for part in parts if part.share >= threshold),
    ]
    if askers is None:
        leaks += _held_whole(search, holders)
    told = {leak.row for leak in leaks}
    long = [part for part in parts if part.longest >= LONG and part.row not in told]
    return Found(
        leaks=_worst_of_each(leaks, lambda leak: (leak.share, leak.longest)),
        overlaps=_worst_of_each(long, lambda part: part.longest),
        common=list(_held_by_many(search, holders.without(told), RUN if askers is None else LONG)),
    )


def _worst_of_each(found: Iterable[Leak], badness: Callable[[Leak], Any]) -> list[Leak]:
    """For each row, in order, the worst; the first of equals."""
    worst: dict[int, Leak] = {}
    for leak in found:
        if leak.row not in worst or badness(leak) > badness(worst[leak.row]):
            worst[leak.row] = leak
    return [worst[row] for row in sorted(worst)]


def _asked_word_for_word(
    rows: Wording, turns: Turns, is_training: NDArray[np.bool_], questions: Words
) -> Iterator[Leak]:
    names = questions.fingerprints()
    numbers = {name: number for number, name in reversed(list(enumerate(names.tolist())))}
    every_row = np.arange(len(is_training))
    for owners, texts in ((every_row, rows.questions), (turns.rows, turns.texts), (every_row, rows.inputs)):
        said = texts.fingerprints()
        is_asked = among(said, names) & (np.diff(texts.starts) > 0) & is_training[owners]
        for row, name in zip(owners[is_asked].tolist(), said[is_asked].tolist(), strict=True):
            number = numbers[name]
            yield Leak(row, number, 1.0, int(questions.starts[number + 1] - questions.starts[number]))


@dataclass(frozen=True)
class _Search:
    """Runs of words in questions, and where rows hold them."""

    words: Numbers  # of each question: how many it has
    own_words: Numbers  # how many of them are its own
    is_own: NDArray[np.bool_]  # for each word of all questions, end to end: is it in no instruction?
    places: Numbers  # of each run of a question: where its first word stands
    runs: Hashes
    questions: Numbers  # the question of each run, in order
    is_common: NDArray[np.bool_]  # whether many rows share it
    rows: Numbers  # of each run held by a row, in the order of the rows: the row
    held: Hashes
    is_rare: NDArray[np.bool_]  # whether few rows share it
    is_training: NDArray[np.bool_]  # for each row

    @classmethod
    def over(
        cls, rows: Wording, turns: Turns, training: Numbers, questions: Words, askers: Numbers | None
    ) -> "_Search":
        rows = Wording(*(one.without(_SIGNS) for one in (rows.questions, rows.inputs, rows.answers)))
        turns, questions = Turns(turns.rows, turns.texts.without(_SIGNS)), questions.without(_SIGNS)
        places, runs = ngrams(questions, RUN)
        owners = questions.owners()
        holders, held = _runs_held(rows, turns, runs)
        asking = (len(rows.questions) + owners if askers is None else askers[owners])[places]
        many = MANY + (askers is None)  # a benchmark's question is no row
        are_common = stand_in_many(np.concatenate([holders, asking]), np.concatenate([held, runs]), many)
        is_common = are_common[len(held) :]
        is_own = ~_in_common_ends(rows, questions, are_rows=askers is not None)
        is_own[(places[is_common][:, None] + np.arange(RUN)).ravel()] = False
        is_training = np.zeros(len(rows.questions), dtype=bool)
        is_training[training] = True
        return cls(
            words=np.diff(questions.starts),
            own_words=np.bincount(owners[is_own], minlength=len(questions)),
            is_own=is_own,
            places=places,
            runs=runs,
            questions=owners[places],
            is_common=is_common,
            rows=holders,
            held=held,
            is_rare=~are_common[: len(held)],
            is_training=is_training,
        )

    def of(self, question: int) -> slice:
        """The runs of a question."""
        return slice(*np.searchsorted(self.questions, [question, question + 1]))

    def held_by(self, row: int) -> Hashes:
        """The runs that a row holds."""
        return self.held[slice(*np.searchsorted(self.rows, [row, row + 1]))]


@dataclass(frozen=True)
class _Holders:
    """Which of the rows that matter hold a run of words."""

    held: Hashes  # sorted
    rows: Numbers  # of each
    matters: NDArray[np.bool_]  # for each row
    known: dict[int, Numbers] = field(default_factory=dict)  # an instruction is asked for by each of its questions

    @classmethod
    def among(cls, search: _Search) -> "_Holders":
        """The training rows."""
        order = np.argsort(search.held, kind="stable")
        return cls(search.held[order], search.rows[order], search.is_training)

    def without(self, rows: Iterable[int]) -> "_Holders":
        """The same but for some rows."""
        matters = self.matters.copy()
        matters[list(rows)] = False
        return _Holders(self.held, self.rows, matters)

    def counts(self, runs: Hashes) -> Numbers:
        """How often any row holds each run."""
        return np.searchsorted(self.held, runs, side="right") - np.searchsorted(self.held, runs)

    def of(self, run: np.uint64) -> Numbers:
        """The rows that hold a run, in order."""
        first, last = (int(np.searchsorted(self.held, run, side=side)) for side in ("left", "right"))
        if first not in self.known:
            rows = distinct(self.rows[first:last])
            self.known[first] = rows[self.matters[rows]]
        return self.known[first]


def _in_common_ends(rows: Wording, questions: Words, are_rows: bool) -> NDArray[np.bool_]:
    """For each word of the questions: do more than `MANY` texts, rows' and questions, begin or end so?

    Up to `RUN` - 1 words: longer ones are runs that many rows share.
    """
    is_common = np.zeros(len(questions.hashes), dtype=bool)
    is_part = np.diff(rows.inputs.starts) < np.diff(rows.questions.starts)  # else it would count twice
    texts = [rows.questions, rows.inputs.take(np.flatnonzero(is_part)), *([] if are_rows else [questions])]
    for firsts, step in ((questions.starts[:-1], 1), (questions.starts[1:] - 1, -1)):
        others = zip(*(_ends(one, step) for one in texts), strict=True)
        for depth, (asked, codes) in enumerate(zip(_ends(questions, step), others, strict=True)):
            kinds, times = np.unique(np.concatenate(codes), return_counts=True)
            is_common[(firsts + step * depth)[(asked != 0) & np.isin(asked, kinds[times > MANY])]] = True
    return is_common


def _ends(texts: Words, step: int) -> Iterator[Hashes]:
    """The first word of each text as a hash, then its first two, and so on; with step -1 its last ones; 0: no more."""
    firsts = texts.starts[:-1] if step == 1 else texts.starts[1:] - 1
    codes = np.zeros(len(texts), dtype=np.uint64)
    for depth in range(RUN - 1):
        reaches = np.diff(texts.starts) > depth
        codes = np.where(reaches, codes, 0)
        codes[reaches] = mix(codes[reaches] * np.uint64(31) + texts.hashes[firsts[reaches] + step * depth])
        yield codes


def _runs_held(rows: Wording, turns: Turns, runs: Hashes) -> tuple[Numbers, Hashes]:
    """The wanted runs that stand in rows, whoever speaks, with the row of each, rows in order."""
    holders, held = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    every_row = np.arange(len(rows.questions))
    for owners, texts in ((every_row, rows.questions), (every_row, rows.answers), (turns.rows, turns.texts)):
        places, found = ngrams(texts, RUN)
        is_wanted = among(found, runs)
        holders.append(owners[np.searchsorted(texts.starts, places[is_wanted], side="right") - 1])
        held.append(found[is_wanted])
    order = np.argsort(np.concatenate(holders), kind="stable")
    return np.concatenate(holders)[order], np.concatenate(held)[order]


def _held_in_part(search: _Search) -> Iterator[Leak]:
    """What each training row holds of each question, in runs that few rows share."""
    places = defaultdict(list)
    is_taught = search.is_rare & search.is_training[search.rows]
    for number in np.flatnonzero(among(search.runs, search.held[is_taught])).tolist():
        places[int(search.runs[number])].append(number)
    found: dict[tuple[int, int], set[int]] = defaultdict(set)
    for row, run in zip(search.rows[is_taught].tolist(), search.held[is_taught].tolist(), strict=True):
        for number in places[run]:
            first = int(search.places[number])
            found[row, int(search.questions[number])].update(range(first, first + RUN))
    for (row, question), held in found.items():
        own = int(search.own_words[question])
        share = int(search.is_own[list(held)].sum()) / own if own >= RUN else 0.0
        if len(held) == search.words[question] and own >= FEW:
            share = 1.0
        yield Leak(row, question, share, _longest(held))


def _longest(places: Iterable[int]) -> int:
    """The most places that follow one another."""
    longest = length = 0
    before = -1
    for place in sorted(places):
        length = length + 1 if place == before + 1 else 1
        longest, before = max(longest, length), place
    return longest


def _held_whole(search: _Search, holders: _Holders) -> Iterator[Leak]:
    """Rows that hold every run of a question without a word of its own, if that is repeated as one piece.

    Of an instruction with an input that many rows begin with, the input's runs stand in far fewer rows than the others.
    """
    for question in np.unique(search.questions[search.own_words[search.questions] == 0]).tolist():
        runs = search.runs[search.of(question)]
        counts = holders.counts(runs)
        if counts.max() > 2 * counts.min():
            continue
        for row in holders.of(runs[counts.argmin()]).tolist():
            if np.isin(runs, search.held_by(row)).all():
                yield Leak(row, question, 1.0, len(counts) + RUN - 1)


def _held_by_many(search: _Search, holders: _Holders, least: int) -> Iterator[Common]:
    """The longest piece of each question that many rows hold, if it has enough words; each piece once.

    The questions of a task have its instruction in common: they have one piece, known by the rarest run in it.
    """
    found: dict[int, Common] = {}
    for question in np.unique(search.questions[search.is_common]).tolist():
        its = search.of(question)
        runs, common = search.runs[its], np.flatnonzero(search.is_common[its])
        piece = runs[max(np.split(common, np.flatnonzero(np.diff(common) > 1) + 1), key=len)]
        if len(piece) + RUN - 1 < least:
            continue
        rarest = piece[holders.counts(piece).argmin()]
        if known := found.get(int(rarest)):
            found[int(rarest)] = replace(known, questions=known.questions + 1)
            continue
        rows = holders.of(rarest)
        for row in rows[:MANY].tolist():
            held = set(search.held_by(row).tolist())
            words = _longest(place for place, run in enumerate(runs.tolist()) if run in held) + RUN - 1
            if words >= least:
                found[int(rarest)] = Common(question, 1, len(rows), row, words)
                break
    yield from found.values()
