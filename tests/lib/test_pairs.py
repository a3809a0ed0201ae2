"""Blind pairs: which answer is A, which pairs are drawn, what a rating is of."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib import pairs
from stages.lib.errors import UserError
from tests.rated import pair, swapped

MANY = [pair(number) for number in range(600)]


def test_the_tuned_model_is_a_about_half_the_time_in_every_category():
    for category in ("c0", "c1", "c2"):
        first = [pairs.tuned_is_a(one, 7) for one in MANY if one.category == category]
        assert 0.4 < sum(first) / len(first) < 0.6


def test_which_is_a_says_nothing_of_whether_a_row_is_drawn():
    first = [pairs.tuned_is_a(one, 7) for one in pairs.drawn(MANY, 200, 7)]
    assert 0.4 < sum(first) / len(first) < 0.6


def test_another_seed_draws_other_rows_in_another_order():
    assert pairs.drawn(MANY, 50, 7) != pairs.drawn(MANY, 50, 8)
    assert [pairs.tuned_is_a(one, 7) for one in MANY] != [pairs.tuned_is_a(one, 8) for one in MANY]


@given(st.lists(st.integers(0, 200), unique=True), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_a_draw_does_not_depend_on_the_order_of_rows_and_a_shorter_one_begins_a_longer_one(numbers, rows, seed):
    found = [pair(number) for number in numbers]
    drawn = pairs.drawn(found, rows, seed)

    assert drawn == pairs.drawn(found[::-1], rows, seed)
    assert drawn == pairs.drawn(found, rows + 5, seed)[:rows]
    assert len(drawn) == len(set(drawn)) == min(rows, len(found))


def test_categories_take_turns_so_a_small_one_is_not_forgotten():
    found = [pair(number, category="large") for number in range(90)]
    found += [pair(number, category="small") for number in range(90, 94)]
    assert Counter(one.category for one in pairs.drawn(found, 10, 7)) == {"large": 6, "small": 4}


texts = st.text(max_size=6)
some_pair = st.builds(
    lambda *told: pair(0, **dict(zip(("prompt", "base_answer", "tuned_answer"), told, strict=True))), *[texts] * 3
)


@given(some_pair, some_pair, st.booleans(), st.booleans())
def test_an_item_is_the_question_and_both_texts_in_their_order_and_nothing_else(one, other, first, also_first):
    same = (one.prompt, one.shown(first)) == (other.prompt, other.shown(also_first))
    assert (one.item(first) == other.item(also_first)) == same


@given(some_pair, st.booleans())
def test_an_item_does_not_tell_which_model_wrote_which_text(one, first):
    assert one.item(first) == swapped(one).item(not first)


@pytest.mark.parametrize(
    ("base", "tuned", "is_choice"),
    [("yes", "no", True), ("yes", "yes", False), ("yes", " yes\n", False), ("yes", "Yes", True), ("", "\n", False)],
)
def test_two_answers_that_look_the_same_are_no_choice(base, tuned, is_choice):
    assert pair(0, base_answer=base, tuned_answer=tuned).is_choice == is_choice


def test_predictions_that_are_missing_are_asked_for(tmp_path):
    with pytest.raises(UserError, match=r"predictions\.parquet is missing\. Run `dvc repro evaluate`"):
        pairs.read(tmp_path / "predictions.parquet")
