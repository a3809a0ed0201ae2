"""Training rows that give away a question of the test split or of a benchmark.

A question is given away when one training row holds at least a given share of its words in runs of eight (the measure
of Tülu 3, arXiv:2411.15124; eight words after PaLM, arXiv:2204.02311). As in `dedupe`, only what a text says of its own
counts: words inside runs that stand in more than `MANY` rows are the task's instruction, and would condemn every row of
a task-shaped set. Where fewer than eight words are a question's own, all of them must be there; a question without a
run of eight, or without own words, must be asked word for word.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.lib.records import Record
from stages.lib.words import Hashes, hashed, ngrams, words

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


def leaks(training: Sequence[Record], questions: Sequence[str], threshold: float) -> list[Leak]:
    """The training rows that give away a question, in order; each with the question that it gives away most of."""
    worst: dict[int, Leak] = {}
    for leak in [*_asked_word_for_word(training, questions), *_held_in_runs(training, questions, threshold)]:
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


def _held_in_runs(training: Sequence[Record], questions: Sequence[str], threshold: float) -> Iterator[Leak]:
    wanted = hashed(questions)
    starts, runs = ngrams(wanted, wanted.hashes, RUN)
    owners = wanted.owners()
    rows, held = _runs_held(training, runs)
    is_common = _stand_in_many(np.concatenate([rows, len(training) + owners[starts]]), np.concatenate([held, runs]))
    is_own = np.ones(len(owners), dtype=bool)
    for start in starts[is_common[len(rows) :]]:
        is_own[start : start + RUN] = False
    total = np.bincount(owners[is_own], minlength=len(questions))

    places = defaultdict(list)
    for start, run in zip(starts.tolist(), runs.tolist(), strict=True):
        places[run].append(start)
    found: dict[tuple[int, int], set[int]] = defaultdict(set)
    rare = ~is_common[: len(rows)]
    for row, run in zip(rows[rare].tolist(), held[rare].tolist(), strict=True):
        for start in places[run]:
            found[row, int(owners[start])].update(range(start, start + RUN))
    for (row, question), positions in found.items():
        share = int(is_own[list(positions)].sum()) / max(1, int(total[question]))
        if share >= (threshold if total[question] >= RUN else 1):
            yield Leak(row, question, share)


def _runs_held(training: Sequence[Record], runs: Hashes) -> tuple[NDArray[np.int64], Hashes]:
    """The wanted runs that stand in training rows, questions and answers alike, with the row of each."""
    held = hashed("\n".join(message.content for message in record.messages) for record in training)
    starts, found = ngrams(held, held.hashes, RUN)
    is_wanted = np.isin(found, runs)
    return held.owners()[starts[is_wanted]], found[is_wanted]


def _stand_in_many(owners: NDArray[np.int64], runs: Hashes) -> NDArray[np.bool_]:
    """For each run: does it stand in more than `MANY` of the owners?"""
    if not len(runs):
        return np.zeros(0, dtype=bool)
    _, kind = np.unique(runs, return_inverse=True)
    span = int(owners.max()) + 1
    once = np.unique(kind * span + owners) // span
    return (np.bincount(once) > MANY)[kind]
