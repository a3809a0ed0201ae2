"""The verdict says what the figures say, and no more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib import page
from stages.lib.verdict import METRICS, Comparison, compare, verdict

BY_NAME = {metric.name: metric for metric in METRICS}


def said(base, tuned, intervals=None, p=None, rows=171):
    sentences = verdict(compare(base, tuned, intervals or {}, p or {}), rows)
    return [sentence.replace(page.NO_BREAK, " ") for sentence in sentences]


@pytest.mark.parametrize(
    ("base", "tuned", "interval", "p", "sentence"),
    [
        (
            0.01,
            0.88,
            {"low": 0.82, "high": 0.92},
            {"exact_match": 0.001},
            "Exact match rose from 1.0 % to 88.0 % on 171 held-out answers "
            "(difference +87.0 points, 95 % interval +82.0 … +92.0).",
        ),
        (
            0.5,
            0.4,
            {"low": -0.2, "high": -0.01},
            {"exact_match": 0.049},
            "Exact match fell from 50.0 % to 40.0 % on 171 held-out answers "
            "(difference −10.0 points, 95 % interval −20.0 … −1.0).",
        ),
        (
            0.5,
            0.52,
            {"low": 0.01, "high": 0.07},
            {"exact_match": 0.0504},
            "Exact match rose from 50.0 % to 52.0 % on 171 held-out answers "
            "(difference +2.0 points, 95 % interval +1.0 … +7.0). This may be chance (p = 0.05).",
        ),
        (
            0.5,
            0.52,
            {},
            {"exact_match": 1.0},
            "Exact match rose from 50.0 % to 52.0 % on 171 held-out answers (difference +2.0 points, no interval). "
            "This may be chance (p = 1).",
        ),
        (0.5, 0.5, {}, {"exact_match": 1.0}, "Exact match stayed at 50.0 % on 171 held-out answers."),
    ],
)
def test_the_verdict_words_the_difference(base, tuned, interval, p, sentence):
    intervals = {"exact_match": interval}
    assert said({"exact_match": base}, {"exact_match": tuned}, intervals, p) == [sentence]


def test_free_text_that_never_matches_is_judged_by_chrf():
    base, tuned = {"exact_match": 0.0, "chrf": 20.0}, {"exact_match": 0.0, "chrf": 31.5}
    assert said(base, tuned)[0].startswith("chrF rose from 20.0 to 31.5 on 171 held-out answers")


def test_no_exact_match_is_still_said_where_nothing_else_was_measured():
    assert said({"exact_match": 0.0}, {"exact_match": 0.0}) == ["Exact match stayed at 0 % on 171 held-out answers."]


def test_the_second_sentence_is_the_likelihood_and_says_which_way_is_good():
    base, tuned = {"exact_match": 0.0, "bits_per_byte": 2.3}, {"exact_match": 0.5, "bits_per_byte": 2.5}
    assert said(base, tuned)[1] == (
        "Bits per byte (lower is better) rose from 2.300 to 2.500 (difference +0.200, no interval). This may be chance."
    )


def test_figures_that_have_no_words_are_not_invented():
    assert said({"novelty": 1}, {"novelty": 2}) == [
        "171 held-out answers were judged, but by no metric that this page can word."
    ]


@pytest.mark.parametrize(
    ("name", "base", "tuned", "p", "judgement"),
    [
        ("exact_match", 0.1, 0.9, 0.01, "better"),
        ("exact_match", 0.9, 0.1, 0.01, "worse"),
        ("perplexity", 9.0, 2.0, 0.01, "better"),
        ("perplexity", 2.0, 9.0, 0.01, "worse"),
        ("perplexity", 2.0, 2.1, 0.3, "unclear"),
        ("exact_match", 0.1, 0.2, 0.05, "unclear"),
        ("chrf", 20.0, 21.0, None, "unclear"),  # nobody can tell
        ("chrf", 20.0, 20.0, None, "same"),
    ],
)
def test_better_means_better_in_this_metric(name, base, tuned, p, judgement):
    assert Comparison(BY_NAME[name], base, tuned, p=p).judgement == judgement


def test_p_judges_not_the_interval_and_what_nobody_tested_has_only_a_sign():
    shown = {"metric": BY_NAME["chrf"], "base": 20.0, "tuned": 21.0}
    assert Comparison(**shown, low=0.1, high=2.0, p=0.06).judgement == "unclear"
    assert Comparison(**shown, low=-0.1, high=2.0, p=0.04).judgement == "better"
    assert Comparison(**shown, is_tested=False).judgement == "better"


@pytest.mark.parametrize("missing", [{}, {"chrf": None}])
def test_a_metric_is_compared_only_where_both_models_have_it(missing):
    """Field fault 4: an undefined figure is absent."""
    assert compare({"chrf": 20.0}, missing, {}, {}) == compare(missing, {"chrf": 20.0}, {}, {}) == []


@given(st.floats(min_value=0, max_value=1), st.floats(min_value=0, max_value=1))
def test_a_change_is_signed_as_the_figures_moved(base, tuned):
    change = Comparison(BY_NAME["exact_match"], base, tuned).change
    moved = round((tuned - base) * 100, 1)
    assert change[0] == ("+" if moved > 0 else page.MINUS if moved < 0 else "0")
