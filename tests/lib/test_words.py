"""What counts as the same text, as a word and as nothing to read."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib.words import hashed, is_blank, ngrams, same, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Where is my ORDER?", "  where is\tmy order?\n"),
        ("ＡＢＣ１２３", "abc123"),  # full width, as Chinese keyboards type it
        ("re\u00adfund\u200b", "refund"),  # a soft hyphen and a zero-width space
        ("STRASSE", "straße"),
    ],
)
def test_case_width_spaces_and_unseen_characters_do_not_count(one, other):
    assert same(one) == same(other)


@pytest.mark.parametrize(("one", "other"), [("3 + 5", "3 - 5"), ("退款", "退货"), ("3.5", "35"), ("a", "á")])
def test_what_a_reader_tells_apart_stays_apart(one, other):
    assert same(one) != same(other)


@pytest.mark.parametrize("text", ["", "   ", "\u3000", "\u200b", "\ufeff\u2060", "\n\t", "\u2800", "\u3164", "\ufe0f"])
def test_text_that_shows_nothing_is_blank(text):
    assert is_blank(text)


@pytest.mark.parametrize("text", ["0", ".", "\u200bx", "。", "👍", " - "])
def test_text_that_shows_something_is_not_blank(text):
    assert not is_blank(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Order ORD-20417, please!", ["order", "ord", "-", "20417", "please"]),
        ("请退款。", ["请", "退", "款"]),
        ("订单ORD-7，谢谢", ["订", "单", "ord", "-", "7", "谢", "谢"]),
        ("3 + 5 = 8", ["3", "+", "5", "=", "8"]),  # signs are words: 3 + 5 is not 3 * 5
        ("well-known", ["well", "known"]),
        ("👍", ["👍"]),
        ("?!", ["?!"]),  # nothing but punctuation is one word
        ("", [""]),
    ],
)
def test_words_are_what_a_reader_would_count(text, expected):
    assert words(text) == expected


@given(st.lists(st.text(max_size=30), max_size=8))
def test_hashed_words_are_the_words(texts):
    found = hashed(texts)
    flat = [word for text in texts for word in words(text)]
    assert np.diff(found.starts).tolist() == [len(words(text)) for text in texts]
    assert len(set(found.hashes.tolist())) == len(set(flat))
    has_digit = [bool(re.search(r"\d", word)) for word in flat]
    assert [bit for bit, word in zip(found.hold_digits(), flat, strict=True) if re.search(r"\w", word)] == [
        digit for digit, word in zip(has_digit, flat, strict=True) if re.search(r"\w", word)
    ]


def test_runs_of_words_never_cross_from_one_text_into_the_next():
    found = hashed(["a b c", "d", "b c e f"])
    positions, runs = ngrams(found, 2)
    assert found.owners()[positions].tolist() == [0, 0, 2, 2, 2]
    assert runs[1] == runs[2]  # "b c", in both texts
    assert len(set(runs.tolist())) == 4
