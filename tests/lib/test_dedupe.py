"""Rows that repeat one another, and rows that only look like it."""

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib import dedupe
from stages.lib.dedupe import (
    MANY_TO_DELETE,
    TO_DELETE,
    TO_GROUP,
    components,
    near_repeats,
    prepare,
)
from stages.lib.minhash import candidates, jaccard
from stages.lib.records import Message, Record
from stages.lib.wording import Wording
from stages.lib.words import Words, hashed

EN = re.findall(
    r"\w+",
    "amber basket candle drawer engine fabric garden hammer island jacket kettle ladder mirror needle orange pillow "
    "quilt ribbon saddle teapot umbrella violin window yellow zipper anchor bottle carpet dinner elbow",
)
ZH = list("灯篮烛屉机布园锤岛衣壶梯镜针橙枕被带鞍茶伞琴窗黄链锚瓶毯餐肘春夏秋冬山水风云花鸟")


def text(rng, words, language="en"):
    return (" " if language == "en" else "").join(rng.choice(EN if language == "en" else ZH) for _ in range(words))


def record(question, answer="fine", own=None):
    return Record("a.json", 1, (Message("user", question), Message("assistant", answer)), input=own)


def duplicates(records, threshold=0.7):
    """The pairs that are near-duplicates."""
    repeats = near_repeats(Wording.of(records), threshold)
    return sorted(map(tuple, repeats.same_rows(threshold).tolist()))


def textbook(one, other):
    """Jaccard similarity of word 3-grams."""
    one, other = ({tuple(words[i : i + 3]) for i in range(len(words) - 2)} for words in (one.split(), other.split()))
    return len(one & other) / len(one | other)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_row_with_one_word_changed_is_found(language):
    rng = random.Random(1)
    texts = [text(rng, 60, language) for _ in range(40)]
    changed = texts[7].replace(texts[7][100:106] if language == "en" else texts[7][30], "X", 1)
    records = [record(one, text(rng, 30, language)) for one in texts]
    records.append(record(changed, records[7].answer))
    assert duplicates(records) == [(7, 40)]


def test_a_like_question_with_another_answer_is_kept_and_told():
    rng = random.Random(2)
    question, answer = text(rng, 40), text(rng, 40)
    records = [record(question, answer), record(question + " please", text(rng, 40))]
    repeats = near_repeats(Wording.of(records), 0.7)
    assert repeats.pairs.tolist() == [[0, 1]]
    assert repeats.answers[0] < 0.1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("Is 97 a prime number? Explain it as to a child of ten years who likes football.", "Yes."), 101),
        (("Read the order number out of this message: my parcel 97 has not come and I wait for weeks.", "97"), 101),
        (("请从下面的留言里读出订单号：您好，我的包裹97已经等了三个星期还没有送到，请帮我查一查。", "97"), 101),
    ],
)
def test_rows_that_differ_in_a_number_are_different_rows(one, other):
    records = [record(*(part.replace("97", str(number)) for part in one)) for number in (97, other)]
    assert duplicates(records) == []
    assert duplicates([records[0], record(one[0] + "!", one[1])]) == [(0, 1)]  # but punctuation does not count


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Mammal or fish? dolphin", "Mammal or fish? walrus"),
        ("Is this animal a mammal or rather a fish: dolphin", "Is this animal a mammal or rather a fish: walrus"),
        ("请判断下面的动物是哺乳动物还是鱼类：海豚", "请判断下面的动物是哺乳动物还是鱼类：鲸鱼"),
    ],
)
def test_a_short_task_whose_last_word_differs_is_another_task(one, other):
    assert duplicates([record(one, "mammal"), record(other, "mammal")]) == []
    assert duplicates([record(one, "mammal"), record(one + "!", "mammal")]) == [(0, 1)]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("words", [1, 3, 10])
def test_rows_that_share_a_long_instruction_and_differ_in_their_inputs_lose_none(language, words):
    rng = random.Random(words)
    instruction = text(rng, 60, language)
    inputs = list(dict.fromkeys(text(rng, words, language) for _ in range(500)))
    records = [record(f"{instruction}\n\n{one}", rng.choice(["billing", "shipping"])) for one in inputs]
    assert duplicates(records) == []


def test_the_inputs_of_two_alpaca_rows_must_be_alike_however_long_their_instruction():
    rng = random.Random(3)
    instruction = text(rng, 80)
    one, other = (record(f"{instruction}\n\n{own}", own=own) for own in ("my lamp is late", "where is my rug"))
    assert duplicates([one, other]) == []
    assert duplicates([one, record(one.question + "!", own=one.input + "!")]) == [(0, 1)]


def test_300_rows_that_differ_in_their_order_number_and_answer_are_all_kept():
    ask = "Read the order number: my parcel ORD-{} has not come, and I have been waiting for it for three weeks now."
    answer = "Sorry! We are looking into order ORD-{} and will write to you as soon as we know where it is."
    records = [record(ask.format(number), answer.format(number)) for number in range(20000, 20300)]
    assert duplicates(records) == []


def test_two_tasks_over_one_passage_are_not_the_same_row():
    rng = random.Random(4)
    passages = [text(rng, 20) for _ in range(30)]
    asks = ["Does this review speak well of the food, yes or no?", "Was the person who wrote this served quickly?"]
    records = [record(f"{ask} {passage}", "yes") for passage in passages for ask in asks]
    assert duplicates(records) == []


def test_the_system_text_does_not_make_rows_alike():
    system = Message("system", text(random.Random(5), 200))
    asks = [("Where is my lamp", "On its way"), ("How do I pay", "By card"), ("Open on Sunday", "Yes")]
    records = [Record("a", 1, (system, Message("user", ask), Message("assistant", answer))) for ask, answer in asks]
    assert duplicates(records) == []


def test_exactly_what_plain_jaccard_finds_is_found_where_nothing_is_shared():
    """The measure is the textbook's; recall and precision are those of the verified threshold."""
    rng = random.Random(6)
    texts = [text(rng, rng.randrange(25, 80)) for _ in range(150)]
    for original in list(texts[:100]):
        words = original.split()
        for _ in range(rng.randrange(1, 6)):
            words[rng.randrange(len(words))] = rng.choice(EN)
        texts.append(" ".join(words))
    expected = {
        (one, other) for other in range(len(texts)) for one in range(other) if textbook(texts[one], texts[other]) >= 0.7
    }
    found = set(duplicates([record(one, text(random.Random(6), 30)) for one in texts]))
    assert len(expected) > 50
    assert found <= expected
    assert len(found & expected) >= 0.98 * len(expected)


def test_a_passage_counts_until_more_than_many_rows_share_it():
    rng = random.Random(7)
    shared = text(rng, 30)
    for rows, is_shared in ((MANY_TO_DELETE, False), (MANY_TO_DELETE + 1, True)):
        texts = prepare(hashed([f"{shared} {text(rng, 10)}" for _ in range(rows)]), MANY_TO_DELETE)
        own, whole = (np.diff(pieces.starts) for pieces in (texts.own, texts.whole))
        assert (own < whole).all() == is_shared
        assert (own == whole).all() != is_shared


def test_single_common_pieces_still_count():
    """Only long passages are the task's; a turn of phrase that many rows use is part of what each of them says."""
    rng = random.Random(8)
    texts = prepare(hashed([f"{text(rng, 9)} how many are left {text(rng, 9)}" for _ in range(50)]), MANY_TO_DELETE)
    assert np.diff(texts.own.starts).tolist() == np.diff(texts.whole.starts).tolist()


@given(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=8), min_size=2, max_size=6))
@settings(max_examples=40, deadline=None)
def test_jaccard_is_the_share_of_pieces_in_common(rows):
    texts = prepare(hashed([" ".join(row) for row in rows]), many=99)
    sets = [
        set(texts.whole.hashes[texts.whole.starts[i] : texts.whole.starts[i + 1]].tolist()) for i in range(len(rows))
    ]
    pairs = np.array([(one, other) for other in range(len(rows)) for one in range(other)])
    expected = [len(sets[one] & sets[other]) / len(sets[one] | sets[other]) for one, other in pairs]
    assert jaccard(texts.whole, pairs).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("bands", "similarity"), [(TO_DELETE, 0.7), (TO_GROUP, 0.5)])
def test_the_bands_find_nearly_every_pair_at_their_threshold(bands, similarity):
    rng = random.Random(9)
    half = [[rng.random() for _ in range(60)] for _ in range(400)]
    common = round(60 * 2 * similarity / (1 + similarity))
    sets = [row for one in half for row in (one, one[:common] + [rng.random() for _ in range(60 - common)])]
    hashes = np.array([int(value * 2**63) for row in sets for value in row], dtype=np.uint64)
    pieces = Words(np.arange(0, len(hashes) + 1, 60), hashes)
    found = {tuple(pair) for pair in candidates(pieces, *bands).tolist()}
    assert sum((row, row + 1) in found for row in range(0, 800, 2)) >= 0.97 * 400


def test_a_bucket_of_thousands_is_not_paired_all_with_all():
    pieces = prepare(hashed(["the same words again and again"] * 3000), many=99_999).own
    assert len(candidates(pieces, *TO_DELETE)) < 3000 * 25


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=15))
def test_components_hold_what_hangs_together(count, links):
    links = [(min(link), max(link)) for link in links if max(link) < count]
    heads = components(count, np.array(links, dtype=np.int64).reshape(-1, 2))
    assert all(heads[one] == heads[other] for one, other in links)
    assert all(heads[head] == head <= row for row, head in enumerate(heads))
    assert len(set(heads)) >= count - len(links)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_handful_of_rows_is_compared_without_ado(rows):
    assert duplicates([record(f"row {'abc'[number]}") for number in range(rows)]) == []
    assert len(dedupe.like_questions(Wording.of([record("x")] * rows), 0.5)[0]) == rows // 2


def test_like_questions_ignore_numbers_and_answers():
    """For grouping, not for deleting: such rows must not straddle train and test."""
    ask = "Read the order number: my parcel ORD-{} has not come."
    for rows in (2, 200):  # with 200 the whole text is shared, and compared as a whole
        records = [record(ask.format(number), str(number)) for number in range(rows)]
        pairs, likeness, _ = dedupe.like_questions(Wording.of(records), 0.5)
        assert set(components(rows, pairs)) == {0}
        assert set(likeness.tolist()) == {1.0}


TASK = (
    "Read the message of a customer and decide which of our teams should answer. The teams are billing, shipping, "
    "returns and sales. Answer with the name of the team in one word, without an explanation, in lower case. If "
    "several teams could, choose the one that comes first in this list."
)
MESSAGES = ["my lamp is late", "where is my rug", "the parcel never came", "package lost", "not delivered, my sofa"]
AUFTRAG = (
    "请阅读下面客户的留言，判断应该由哪个部门来处理。部门有账单、物流、退货和销售。只用一个词回答部门的名称，不要解释。"
)
LEUTE = ["我的台灯还没有到", "地毯现在在哪里呢", "包裹一直没有送来", "沙发丢失了怎么办"]
CANNED = (
    "Thank you for your message. Our team for deliveries will look into it and write to you as soon as they know where "
    "the parcel is. Please have the number of your order at hand."
)


@pytest.mark.parametrize(
    "layout", ["{task} {own}", "{own} {task}", "{task}\n\n{own}\n\nAnswer:", "Message: {own}\n{task}"]
)
@pytest.mark.parametrize("answer", ["shipping", CANNED])
@pytest.mark.parametrize(("task", "messages"), [(TASK, MESSAGES), (AUFTRAG, LEUTE)], ids=["en", "zh"])
def test_the_first_few_rows_of_a_task_are_all_kept(layout, answer, task, messages):
    """Two rows with one long instruction and one answer, before there are enough to tell what is the instruction."""
    if answer is CANNED:
        messages = [one for one in messages if len(hashed([one]).hashes) >= 4]
    records = [record(layout.format(task=task, own=own), answer) for own in messages]
    assert len(records) >= 3
    assert duplicates(records) == []


def test_single_words_exchanged_make_no_other_input():
    rng = random.Random(11)
    for _ in range(50):
        words = text(rng, 60).split()
        changed = list(words)
        for place in rng.sample(range(60), 2):
            changed[place] = "else"
        if textbook(" ".join(words), " ".join(changed)) >= 0.7:
            answer = text(rng, 30)
            assert duplicates([record(" ".join(words), answer), record(" ".join(changed), answer)]) == [(0, 1)]


def letter(name):
    """A row that differs from the others in a name."""
    ask = "Write to {}, who ordered a lamp from our shop and is angry since it has not come for three weeks though we "
    reply = (
        "Dear {}, I am very sorry that your lamp has not come yet. Our storehouse has had a fire, and all orders are "
    )
    return record(ask.format(name) + "had promised it in one.", reply.format(name) + "late. It will be sent in a week.")


NAMES = [f"{first}{last}" for first in ("Anna", "Bob", "Cleo", "Dan", "Eve", "Fay") for last in EN[:10]]


@pytest.mark.parametrize("rows", [MANY_TO_DELETE, MANY_TO_DELETE + 1, 60])
def test_many_rows_that_differ_in_a_name_are_kept_and_told_to_be_copies_few_are_not(rows):
    repeats = near_repeats(Wording.of(map(letter, NAMES[:rows])), 0.7)
    together = components(rows, repeats.copies)
    if rows <= MANY_TO_DELETE:
        assert set(repeats.same_rows(0.7)[:, 1].tolist()) == set(range(1, rows))
        assert len(repeats.copies) == 0
    else:
        assert len(repeats.same_rows(0.7)) == 0
        assert set(together) == {0}
        assert repeats.copied.min() >= 0.7


def test_rows_of_a_task_with_short_answers_or_own_inputs_are_no_copies():
    rng = random.Random(12)
    for answer in ("shipping", CANNED):
        records = [record(f"{TASK} {text(rng, 10)}", answer) for _ in range(60)]
        assert len(near_repeats(Wording.of(records), 0.7).copies) == 0


BEGUN = "is very sorry that the lamp has not come yet since the storehouse has had a fire and all the orders are late"
ENDINGS = [
    "and it will be sent by next week",
    "so we give you back what you have paid",
]  # half alike, with what is BEGUN


@pytest.mark.parametrize(
    ("ask", "answer", "are_copies"),
    [
        ("", "", True),
        (" Their number is {}.", "", False),
        ("", " Their number is {}.", False),
    ],
)
def test_copies_differ_in_single_words_and_in_no_number(ask, answer, are_copies):
    rows = []
    for number, name in enumerate(NAMES):
        one = letter(name)
        rows.append(record(one.question + ask.format(number), one.answer + answer.format(number)))
    assert bool(len(near_repeats(Wording.of(rows), 0.7).copies)) == are_copies


def test_rows_that_share_a_question_and_have_two_answers_are_copies_within_each_answer():
    rows = [record(letter(name).question, f"{name} {BEGUN} {ENDINGS[row % 2]}") for row, name in enumerate(NAMES)]
    copies = near_repeats(Wording.of(rows), 0.7).copies
    assert len(copies) > 0
    assert (copies[:, 0] % 2 == copies[:, 1] % 2).all()


def test_a_near_duplicate_among_rows_without_a_task_is_no_copy():
    rng = random.Random(16)
    rows = [record(text(rng, 40), text(rng, 30)) for _ in range(20)]
    repeats = near_repeats(Wording.of([*rows, record(rows[3].question + " please", rows[3].answer)]), 0.7)
    assert repeats.pairs.tolist() == [[3, 20]]
    assert len(repeats.copies) == 0


def test_words_that_one_of_two_questions_has_more_are_no_other_input():
    words = text(random.Random(17), 60).split()
    more = " ".join([*words[:30], "if you please my dear good friend", *words[30:]])
    assert duplicates([record(" ".join(words)), record(more)]) == [(0, 1)]
