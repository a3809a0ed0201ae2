"""Figures in words, and nothing of them in markup."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib import page


def plain(text: str) -> str:
    return text.replace(page.NO_BREAK, " ")


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.883, "88.3 %"),
        (0.5, "50.0 %"),
        (0.0001, "< 0.1 %"),  # one row of ten thousand is not none
        (0.9999, "> 99.9 %"),
        (None, "–"),
    ],
)
def test_a_share_is_shown_in_percent_and_only_nothing_and_all_are_whole(share, shown):
    assert plain(page.percent(share)) == shown


@given(st.floats(min_value=0, max_value=1))
def test_a_share_is_never_rounded_to_nothing_or_all(share):
    shown = plain(page.percent(share))
    assert (shown == "0 %") == (share == 0)
    assert (shown == "100 %") == (share == 1)
    assert shown not in ("0.0 %", "100.0 %")


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (5e-4, "5e-4"),
        (-0.00031, "-3.1e-4"),
        (0.0213, "0.0213"),
        (2.3141, "2.31"),
        (-2.113, "−2.11"),
        (41.27, "41.3"),
        (12345.6, "12,346"),
        (2e-7, "2e-7"),
        (None, "–"),
    ],
)
def test_a_figure_has_the_digits_that_say_something(number, shown):
    assert page.significant(number) == shown


@given(st.floats(min_value=1e-5, max_value=1e5))
def test_three_digits_are_within_half_a_percent(number):
    assert float(page.significant(number).replace(",", "")) == pytest.approx(number, rel=0.0051)


@pytest.mark.parametrize(
    ("number", "shown"), [(-0.0001, "0.00"), (0.005, "0.01"), (-1.5, "−1.50"), (1234.5, "1,234.50"), (None, "–")]
)
def test_zero_has_no_sign(number, shown):
    assert page.fixed(number, 2) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(134_515_008, "134.5 million"), (7_000_000_000, "7.0 billion"), (9_600, "9,600"), (None, "–")],
)
def test_large_counts_are_said_as_people_say_them(number, shown):
    assert plain(page.short(number)) == shown


@given(st.text(max_size=2 * page.LONGEST_TEXT))
def test_a_cut_text_keeps_both_ends_and_counts_what_it_left_out(text):
    head, left_out, tail = page.cut(text)
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(head) + left_out + len(tail) == len(text)
    assert (left_out == 0) == (len(text) <= page.LONGEST_TEXT)


def test_a_name_that_the_template_does_not_get_is_an_error():
    """A misspelt figure must not become an empty place on the page."""
    with pytest.raises(Exception, match="undefined"):
        page.render(model="tiny")


@pytest.mark.parametrize("template", sorted(page.TEMPLATE.parent.glob("*.jinja")), ids=lambda path: path.name)
def test_the_template_trusts_no_text(template):
    assert not re.search(r"\|\s*safe|autoescape", template.read_text(encoding="utf-8"))
