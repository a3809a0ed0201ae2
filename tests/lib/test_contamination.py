"""Training rows that give away a held-out question."""

import random

import numpy as np
import pytest

from stages.lib import contamination
from stages.lib.contamination import MANY, RUN, Turns, asked
from stages.lib.records import Message, Record
from stages.lib.wording import Wording
from stages.lib.words import hashed
from tests.lib.test_dedupe import text


def record(question, answer="fine", own=None):
    return Record("a.json", 1, (Message("user", question), Message("assistant", answer)), input=own)


def leaks(training, questions, threshold, **kind):
    return find(training, questions, threshold, **kind).leaks


def find(training, questions, threshold, are_benchmarks=False, validation=()):
    """Benchmarks come from elsewhere; else each question is a row's of the test split."""
    rows = [*training, *validation, *([] if are_benchmarks else map(record, questions))]
    askers = None if are_benchmarks else np.arange(len(rows) - len(questions), len(rows))
    every = Wording.of(rows), Turns.of(rows), np.arange(len(training))
    return contamination.find(*every, hashed(questions), askers, threshold)


def caught(training, questions, threshold=0.5, **kind):
    return [(leak.row, leak.question) for leak in leaks(training, questions, threshold, **kind)]


def conversation(*said):
    """Turns of user and assistant."""
    turns = (Message(("user", "assistant")[turn % 2], text) for turn, text in enumerate(said))
    return Record("a.json", 1, tuple(turns))


def reworded(question):
    """Other case, width, punctuation and blanks; the words are the same."""
    return "“" + question.upper().replace(" ", ", ").replace("A", "Ａ").replace("灯", "灯， ") + "”！"


def instructed(system, question, answer):
    return Record("a.json", 1, (Message("system", system), Message("user", question), Message("assistant", answer)))


# How a row can hold a question; `some` gives other text.
HIDDEN = {
    "as its question": lambda question, some: record(question, some(20)),
    "reworded": lambda question, some: record(reworded(question), some(20)),
    "in a longer question": lambda question, some: record(f"{some(20)} {question} {some(20)}", some(20)),
    "in its input": lambda question, some: record(f"{some(20)}\n\n{question}", some(20), own=question),
    "in its answer": lambda question, some: record(some(30), f"{some(10)} {question} {some(10)}"),
    "in a turn": lambda question, some: conversation(some(9), some(9), question, some(9), some(9), some(9)),
    "in its system text": lambda question, some: instructed(f"{some(9)} {question} {some(9)}", some(20), some(9)),
    "as its system text": lambda question, some: instructed(question, some(20), some(9)),
    "in an earlier answer": lambda question, some: conversation(some(9), f"{some(9)} {question}", some(9), some(9)),
}


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
def test_every_planted_question_is_found_and_no_clean_row_is(hide, language):
    rng = random.Random(1)
    questions = [text(rng, rng.randint(12, 30), language) for _ in range(20)]
    training = [record(text(rng, 60, language), text(rng, 20, language)) for _ in range(1000)]
    places = rng.sample(range(1000), 20)
    for place, question in zip(places, questions, strict=True):
        training[place] = hide(question, lambda words: text(rng, words, language))
    planted = sorted(zip(places, range(20), strict=True))
    assert caught(training, questions) == planted
    assert caught(training, questions, are_benchmarks=True) == planted


@pytest.mark.parametrize(("share", "is_caught"), [(0.9, True), (0.6, True), (0.3, False)])
def test_the_share_held_by_one_row_decides(share, is_caught):
    rng = random.Random(3)
    question = text(rng, 40).split()
    part = question[: int(40 * share)]
    assert bool(caught([record(" ".join([*part, text(rng, 30)]))], [" ".join(question)])) == is_caught


def test_shares_of_two_rows_are_not_added_up():
    rng = random.Random(4)
    question = text(rng, 40).split()
    training = [record(" ".join(question[:16])), record(" ".join(question[24:]))]
    assert caught(training, [" ".join(question)]) == []


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("words", [1, 3, 10, 20])
def test_a_shared_instruction_condemns_no_row(language, words):
    rng = random.Random(words)
    instruction = text(rng, 60, language)
    rows = list(dict.fromkeys(f"{instruction}\n\n{text(rng, words, language)}" for _ in range(1000)))
    cut = len(rows) * 4 // 5
    assert caught([record(row) for row in rows[:cut]], rows[cut:]) == []


@pytest.mark.parametrize("layout", ["{task} {said}", "{said} {task}"])
def test_a_short_instruction_beside_one_common_word_condemns_no_row(layout):
    rng = random.Random(9)
    task, shared = text(rng, 7), text(rng, 1)
    said = [f"{shared} {text(rng, 9)} {shared}" if row % 10 == 0 else text(rng, 11) for row in range(100)]
    rows = [layout.format(task=task, said=one) for one in said]
    assert caught([record(row) for row in rows[:80]], rows[80:]) == []
    copy = record(f"My notes: {rows[90]} And so on.")
    assert caught([*map(record, rows[:80]), copy], rows[80:]) == [(80, 10)]


@pytest.mark.parametrize("words", [7, 60])
def test_a_leak_among_rows_that_share_an_instruction_is_found(words):
    rng = random.Random(5)
    instruction = text(rng, words)
    rows = [f"{instruction}\n\n{text(rng, 10)}" for _ in range(1000)]
    training = [record(row) for row in rows[:800]] + [record(f"Another task: {rows[900].split(chr(10))[-1]}")]
    assert caught(training, rows[800:]) == [(800, 100)]


def test_templates_filled_with_other_numbers_are_not_leaks():
    ask = "Read the order number: my parcel ORD-{} has not come, and I have been waiting for three weeks now."
    rows = [ask.format(number) for number in range(1000)]
    assert caught([record(row) for row in rows[:800]], rows[800:]) == []
    assert caught([record(row) for row in rows[:800]], [rows[3]]) == [(3, 0)]


@pytest.mark.parametrize("question", ["What is 2 + 2?", "二加二等于几？", "Hi"])
def test_a_short_question_must_be_asked_word_for_word(question):
    training = [
        record(f"Tell me: {question}"),
        record(question.upper()),
        record(f"Answer the question.\n\n{question}", own=question),
        record("Say something.", question),
    ]
    assert caught(training, [question]) == [(1, 0), (2, 0)]


def test_a_benchmark_question_that_many_rows_hold_is_no_instruction():
    rng = random.Random(7)
    question = text(rng, 30)
    training = [record(f"{text(rng, 10)} {question} {text(rng, 10)}") for _ in range(40)] + [record(text(rng, 60))]
    assert caught(training, [question], are_benchmarks=True) == [(row, 0) for row in range(40)]


def test_a_benchmark_that_shares_our_instruction_condemns_no_row():
    rng = random.Random(8)
    instruction = text(rng, 60)
    rows = list(dict.fromkeys(f"{instruction} {text(rng, words)}" for words in (1, 3, 10) for _ in range(100)))
    assert caught([record(row) for row in rows[5:]], rows[:5], are_benchmarks=True) == []


def test_of_several_questions_the_most_given_away_is_named():
    rng = random.Random(6)
    one, other = text(rng, 20).split(), text(rng, 20)
    (leak,) = leaks([record(" ".join(one[:14]) + " " + other)], [" ".join(one), other], 0.5)
    assert (leak.question, leak.share) == (1, 1.0)


def test_a_long_input_is_looked_for_without_its_instruction():
    rows = [
        record("Route this:\n\na b c d e f g h", own="a b c d e f g h"),
        record("Route this:\n\na b c", own="a b c"),
        record("Route this"),
    ]
    expected = hashed(["a b c d e f g h", "Route this:\n\na b c", "Route this"])
    found = asked(Wording.of(rows))
    assert (found.starts.tolist(), found.hashes.tolist()) == (expected.starts.tolist(), expected.hashes.tolist())


def test_a_question_in_the_midst_of_a_conversation_is_given_away_too():
    turns = [Message("user", "Hello"), Message("assistant", "Hi!"), Message("user", "What is 2 + 2?")]
    conversation = Record("a.json", 1, (*turns, Message("assistant", "4")))
    assert caught([record("Hello"), conversation], ["What is 2 + 2?"]) == [(1, 0)]


@pytest.mark.parametrize(("training", "questions"), [([], []), ([record("x")], []), ([], ["x y z"])])
def test_nothing_leaks_where_there_is_nothing(training, questions):
    assert caught(training, questions) == []
    assert caught(training, questions, are_benchmarks=True) == []


def test_thirteen_words_in_a_row_are_told_of_though_they_are_no_leak():
    rng = random.Random(10)
    question, other = text(rng, 80).split(), text(rng, 80)
    training = [
        record(" ".join([text(rng, 20), *question[10 : 10 + words], text(rng, 20)])) for words in (12, 13, 30, 60)
    ]
    found = find(training, [other, " ".join(question)], 0.5)
    assert [(one.row, one.question, one.longest) for one in found.overlaps] == [(1, 1, 13), (2, 1, 30)]
    assert [(one.row, one.question, one.longest) for one in found.leaks] == [(3, 1, 60)]


HEADS = ["What is the capital of", "How many people live in", "Who wrote the book", "What is the name of the"]


@pytest.mark.parametrize("are_benchmarks", [True, False])
def test_a_short_question_that_begins_as_others_do_is_found_within_other_text(are_benchmarks):
    rng = random.Random(11)
    questions = list(dict.fromkeys(f"{rng.choice(HEADS)} {text(rng, 4)}" for _ in range(60)))
    training = [record(f"{text(rng, 20)} {question} {text(rng, 20)}") for question in questions]
    clean = [record(f"{rng.choice(HEADS)} {text(rng, 4)} {text(rng, 20)}") for _ in range(200)]
    found = caught([*training, *clean], questions, are_benchmarks=are_benchmarks)
    assert found == [(number, number) for number in range(len(questions))]


@pytest.mark.parametrize("rows", [11, 13])
def test_an_instruction_is_one_wherever_its_rows_stand(rows):
    """Of eleven rows eight are for training, one for validation and two for test: together they are many."""
    rng = random.Random(12)
    instruction = text(rng, 60)
    said = [record(f"{instruction} {text(rng, 10)}") for _ in range(rows)]
    assert caught(said[:-3], [one.question for one in said[-2:]], validation=said[-3:-2]) == []


@pytest.mark.parametrize("are_benchmarks", [True, False])
def test_what_many_rows_hold_of_a_question_is_told_of(are_benchmarks):
    rng = random.Random(13)
    question = text(rng, 40).split()
    part = " ".join(question[5:25])
    training = [record(text(rng, 30)), *(record(f"{text(rng, 9)} {part} {text(rng, 9)}") for _ in range(30))]
    found = find(training, [text(rng, 20), " ".join(question)], 0.5, are_benchmarks=are_benchmarks)
    assert (found.leaks, found.overlaps) == ([], [])
    assert found.common == [contamination.Common(question=1, questions=1, rows=30, row=1, longest=20)]
    short = [record(f"{text(rng, 9)} {' '.join(question[5:16])} {text(rng, 9)}") for _ in range(30)]
    told = find(short, [" ".join(question)], 0.5, are_benchmarks=are_benchmarks).common
    assert [one.longest for one in told] == [11] * are_benchmarks  # a benchmark is no task of ours, so all is told


@pytest.mark.parametrize("rows", [10, 11])
def test_ten_rows_that_hold_most_of_a_benchmark_question_are_not_many(rows):
    rng = random.Random(14)
    question = text(rng, 20).split()
    training = [record(f"{text(rng, 9)} {' '.join(question[4:16])} {text(rng, 9)}") for _ in range(rows)]
    found = find(training, [" ".join(question)], 0.5, are_benchmarks=True)
    assert len(found.leaks) == (10 if rows == 10 else 0)
    assert [one.rows for one in found.common] == ([] if rows == 10 else [11])


def test_what_many_rows_share_is_not_told_of_rows_that_are_left_out():
    rng = random.Random(15)
    question = text(rng, 30)
    training = [record(f"{text(rng, 10)} {question} {text(rng, 10)}") for _ in range(40)]
    found = find(training, [question], 0.5, are_benchmarks=True)
    assert (len(found.leaks), found.common) == (40, [])


@pytest.mark.parametrize("sign", ["\n> ", " / ", " ** "])
def test_signs_between_the_words_hide_no_question(sign):
    rng = random.Random(16)
    words = text(rng, 25).split()
    hidden = sign.join(" ".join(words[first : first + 5]) for first in range(0, 25, 5))
    assert caught([record(f"{text(rng, 20)} {hidden} {text(rng, 20)}")], [" ".join(words)], are_benchmarks=True) == [
        (0, 0)
    ]


@pytest.mark.parametrize("layout", ["{head} {own}", "{own} {head}"])
@pytest.mark.parametrize("asked_by", ["rows", "inputs", "benchmark"])
@pytest.mark.parametrize(("others", "is_common"), [(MANY - 1, False), (MANY, True)])
def test_words_with_which_more_than_many_begin_or_end_are_not_a_questions_own(layout, asked_by, others, is_common):
    """Seven words are in no run; a row that holds the other eight gives all away, or eight of fifteen."""
    rng = random.Random(15)
    head, own = text(rng, RUN - 1), text(rng, RUN)
    question, *like = (layout.format(head=head, own=one) for one in (own, *(text(rng, RUN) for _ in range(others))))
    training = [record(f"{text(rng, 20)} {own} {text(rng, 20)}")]
    if asked_by == "benchmark":
        found = caught(training, [question, *like], 0.9, are_benchmarks=True)
    else:
        validation = [record(one, own=one if asked_by == "inputs" else None) for one in like]
        found = caught(training, [question], 0.9, validation=validation)
    assert found == [(0, 0)] * is_common


@pytest.mark.parametrize(("words", "is_caught"), [(1, False), (2, True)])
def test_a_question_found_whole_in_other_text_has_two_words_of_its_own(words, is_caught):
    rng = random.Random(16)
    head = text(rng, RUN - 1)
    question = f"{head} {text(rng, words)}"
    others = [record(f"{head} {text(rng, 9)}") for _ in range(MANY + 1)]
    training = [record(f"{text(rng, 20)} {question} {text(rng, 20)}")]
    assert caught(training, [question], validation=others) == [(0, 0)] * is_caught


def test_a_question_around_a_short_instruction_is_found_within_other_text():
    """Each run that is not the instruction itself holds a word from before or behind it."""
    rng = random.Random(19)
    task = text(rng, RUN)
    rows = [f"{text(rng, 3)} {task} {text(rng, 3)}" for _ in range(100)]
    copy = record(f"{text(rng, 20)} {rows[90]} {text(rng, 20)}")
    assert caught([*map(record, rows[:80]), copy], rows[80:]) == [(80, 10)]


@pytest.mark.parametrize(("rows", "is_common"), [(MANY, False), (MANY + 1, True)])
def test_a_benchmark_that_asks_is_no_row(rows, is_common):
    rng = random.Random(17)
    question = text(rng, 40).split()
    training = [record(f"{text(rng, 9)} {' '.join(question[5:20])} {text(rng, 9)}") for _ in range(rows)]
    found = find(training, [" ".join(question)], 0.5, are_benchmarks=True)
    assert (len(found.common), len(found.overlaps)) == ((1, 0) if is_common else (0, rows))


def test_an_instruction_that_all_questions_have_is_told_of_once():
    rng = random.Random(18)
    instruction = text(rng, 30)
    rows = [f"{instruction} {text(rng, 10)}" for _ in range(100)]
    (piece,) = find(list(map(record, rows[:80])), rows[80:], 0.5).common
    assert (piece.question, piece.questions, piece.rows, piece.row) == (0, 20, 80, 0)
    assert piece.longest >= 30
