"""Copies: thirteen words in a row, in any script, and not what the prompt says."""

import pytest

from stages.lib.copies import copied

LETTER = "Dear customer, we are sorry that your parcel has not reached you in time. A new one is on its way."
CHINESE = "尊敬的客户，很抱歉您的包裹没有按时送达，我们已经重新寄出。"


@pytest.mark.parametrize(
    ("answer", "prompt", "expected"),
    [
        (LETTER, "Write a letter.", True),
        (f"Certainly! {LETTER.upper()} Bye.", "Write a letter.", True),  # case does not count
        ("we are sorry that your parcel has not reached you in time A", "?", True),  # exactly thirteen
        ("we are sorry that your parcel has not reached you in time.", "?", False),  # twelve
        ("we are sorry that your parcel has, alas, not reached you in time. A new one is on", "?", False),
        (LETTER, f"Correct this: {LETTER}", False),  # the prompt says it
        (CHINESE, "写一封信", True),
        ("很抱歉您的包裹没有按时送到", "写一封信", False),  # one character differs
        ("", "?", False),
    ],
)
def test_a_copy_is_a_run_of_thirteen_words(answer: str, prompt: str, expected: bool) -> None:
    assert copied([answer], [prompt], ["something else", LETTER, CHINESE]) == [expected]


def test_each_answer_is_judged_by_itself() -> None:
    assert copied([LETTER, "short", CHINESE], ["?"] * 3, [CHINESE]) == [False, False, True]
    assert copied([LETTER], ["?"], []) == [False]
    assert copied([], [], [LETTER]) == []
