"""Text metrics: the reference packages' values on English, sense on Chinese and on mixtures."""

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from stages.lib.text_metrics import bleu, chrf, exact_match, rouge, words

SENTENCES = (
    "The order 4711 has arrived, please check.",
    "the order has NOT arrived -- check it!",
    "Please send the non-stop e-mail to the warehouse.",
    "It's the warehouse's order (3.5% off).",
    "A.B. has arrived; the warehouse has arrived; the order has arrived.",
    "order",
    "arrived order the",
)
PAIRS = list(product(SENTENCES, repeat=2))


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("AB12", "AB12", True),
        (" AB12\n", "AB12", True),
        ("two  words", "two\nwords", True),
        ("ＡＢ１２", "AB12", True),  # full-width letters
        ("退款，请批准。", "退款,请批准。", True),  # full-width comma
        ("退款\u3000订单", "退款 订单", True),  # full-width blank
        ("ab12", "AB12", False),  # another order
        ('{"a": 1}', '{"a": 1,}', False),
        ("the shop", "shop", False),
        ("Berlin.", "Berlin", False),
        ("", "Berlin", False),
        ("退款", "退货", False),
    ],
)
def test_exact_match_is_what_a_program_that_reads_the_answer_needs(answer, reference, same):
    assert exact_match(answer, reference) == same


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The order AB12 arrived.", ["the", "order", "ab12", "arrived"]),
        ("GPT4 模型很好", ["gpt4", "模", "型", "很", "好"]),
        ("ｇｐｔ４，模型", ["gpt4", "模", "型"]),
        ("Ça coûte 3,50 €", ["ça", "coûte", "3", "50"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("カタログ", ["カ", "タ", "ロ", "グ"]),
        (">=", [">="]),
        ("👍", ["👍"]),
        ("", []),
    ],
)
def test_words_are_what_a_reader_counts(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(("answer", "reference"), PAIRS)
def test_rouge_on_english_is_that_of_rouge_score_itself(answer, reference):
    theirs = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"]).score(reference, answer)
    assert rouge(answer, reference) == pytest.approx(tuple(score.fmeasure for score in theirs.values()), abs=1e-12)


class OurWords:
    tokenize = staticmethod(words)


TEXTS = st.text(st.sampled_from("ab AB1.退款订单"), max_size=25)


@given(TEXTS, TEXTS)
def test_rouge_l_by_the_fast_subsequence_is_that_of_rouge_score(answer, reference):
    theirs = RougeScorer(["rougeL"], tokenizer=OurWords()).score(reference, answer)["rougeL"].fmeasure
    assert rouge(answer, reference).rougeL == pytest.approx(theirs, abs=1e-12)


LINES = st.text(st.sampled_from("ab 1.退款\n"), max_size=25) | st.text(st.sampled_from("退款订单 \n"), max_size=150)


@given(LINES, LINES)
def test_rouge_lsum_is_that_of_rouge_score_line_by_line(answer, reference):
    theirs = RougeScorer(["rougeLsum"], tokenizer=OurWords()).score(reference, answer)["rougeLsum"].fmeasure
    assert rouge(answer, reference).rougeLsum == pytest.approx(theirs, abs=1e-12)


def test_rouge_of_long_texts_of_several_lines_takes_no_table_in_python(monkeypatch):
    """Two of 2,000 characters took two seconds each, for every row."""
    monkeypatch.setattr("rouge_score.rouge_scorer._lcs_table", None)
    text = "退款订单号码一二三四" * 200
    assert rouge(f"{text}\n好", f"{text[::-1]}\n好").rougeLsum > 0


def test_rouge_tells_chinese_texts_apart():
    """rouge_score by itself gives 0 to the first pair and 1 to the second."""
    assert rouge("模型很好", "模型很好") == (1, 1, 1, 1)
    assert rouge("GPT4 模型很好", "GPT4 模型很差").rouge1 == pytest.approx(4 / 5)


@given(st.text(min_size=1).filter(words), st.text())
@example(">=", "!")
def test_rouge_lies_between_nothing_and_the_text_itself(text, other):
    assert rouge(text, text)[0] == rouge(text, text)[2] == 1
    assert all(0 <= score <= 1 for score in rouge(text, other))


CORPUS = [
    ("The order has arrived at the warehouse.", "The order has arrived in the warehouse today."),
    ("订单已经到达仓库，请确认。", "订单已到达仓库，请您确认。"),
    ("退款 AB12 已批准", "退款 AB12 已拒绝"),
    ("", "nothing was written"),
]
ANSWERS, REFERENCES = [one for one, _ in CORPUS], [one for _, one in CORPUS]


@pytest.mark.parametrize(("ours", "theirs"), [(bleu, BLEU(tokenize="zh")), (chrf, CHRF())], ids=["bleu", "chrf"])
def test_the_score_of_summed_counts_is_sacrebleus_corpus_score(ours, theirs):
    expected = theirs.corpus_score(ANSWERS, [REFERENCES]).score
    assert 20 < expected < 90
    assert ours.score(ours.counts(ANSWERS, REFERENCES).sum(axis=0)) == pytest.approx(expected, abs=1e-9)


def test_the_score_of_one_rows_counts_is_sacrebleus_sentence_score():
    expected = [CHRF().sentence_score(answer, [reference]).score for answer, reference in CORPUS]
    assert chrf.score(chrf.counts(ANSWERS, REFERENCES)).tolist() == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(LINES, LINES), min_size=1, max_size=4))
def test_chrf_of_many_sums_at_once_is_sacrebleus_one_by_one(pairs):
    counts = chrf.counts([one for one, _ in pairs], [one for _, one in pairs])
    sums = np.array([counts[:size].sum(axis=0) for size in range(len(pairs) + 1)])
    expected = [CHRF()._compute_f_score(one.tolist()) for one in sums]
    assert chrf.score(sums).tolist() == pytest.approx(expected, abs=1e-9)
    assert chrf.score(sums[None, :, None])[0, :, 0].tolist() == pytest.approx(expected, abs=1e-9)


def test_bleu_on_english_is_that_of_the_usual_tokenizer():
    answers, references = [one for one, _ in PAIRS], [one for _, one in PAIRS]
    expected = BLEU(tokenize="13a").corpus_score(answers, [references]).score
    assert bleu.score(bleu.counts(answers, references).sum(axis=0)) == pytest.approx(expected, abs=1e-9)


def test_bleu_sees_what_chinese_sentences_have_in_common():
    """The usual tokenizer takes a sentence for one word, and gives 0."""
    assert BLEU(tokenize="13a").corpus_score(ANSWERS[1:2], [REFERENCES[1:2]]).score < 1
    assert bleu.score(bleu.counts(ANSWERS[1:2], REFERENCES[1:2]).sum(axis=0)) > 40


def test_right_answers_of_one_word_score_full_marks():
    """They hold no 4-gram; sacrebleu's default gives them 0."""
    counts = bleu.counts(["sales", "billing"], ["sales", "billing"]).sum(axis=0)
    assert BLEU(tokenize="zh").corpus_score(["sales"], [["sales"]]).score == 0
    assert bleu.score(counts) == pytest.approx(100)


def test_references_are_one_stream_and_as_many_as_answers():
    """`corpus_score(answers, [[r1], [r2]])` is another thing, and gives a wrong score without a word."""
    assert bleu.counts(["a b", "c d"], ["a b", "c d"]).shape == (2, 10)
    with pytest.raises(ValueError, match="2 answers, but 1 references"):
        bleu.counts(["a", "b"], ["a"])


def test_empty_answers_score_nothing():
    """Field fault 4."""
    for metric in (bleu, chrf):
        assert metric.score(metric.counts(["", ""], ["a", "b"]).sum(axis=0)) == 0
    assert rouge("", "a") == (0, 0, 0, 0)


def test_a_signature_says_how_the_score_was_made():
    bleu.counts(["a"], ["a"])
    chrf.counts(["a"], ["a"])
    assert "tok:zh" in bleu.signature
    assert "eff:yes" in bleu.signature
    assert "nc:6" in chrf.signature
