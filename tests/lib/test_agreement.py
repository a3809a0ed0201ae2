"""Agreement of raters, against published examples."""

import numpy as np
import pytest

from stages.lib.agreement import alpha, share


def counted(*raters: str) -> np.ndarray:
    """How many raters gave each unit each value, out of one string a rater; `*` is a unit that was not rated."""
    values = sorted(set("".join(raters)) - {"*"})
    return np.array([["".join(unit).count(value) for value in values] for unit in zip(*raters, strict=True)])


# K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), sections A to C, with the alphas printed there.
@pytest.mark.parametrize(
    ("raters", "expected"),
    [
        (("0100000010", "1110010000"), 0.095),
        (("aabbdcccedda", "babbbccceddd"), 0.692),
        (("123321412***", "1233224125*3", "*3332342251*", "12332441251*"), 0.743),
    ],
)
def test_alpha_is_that_of_the_paper(raters, expected):
    assert alpha(counted(*raters)) == pytest.approx(expected, abs=0.0005)


@pytest.mark.parametrize(
    ("raters", "agreement", "agreeing"),
    [
        (("ab", "ab"), 1.0, 1.0),
        (("ab", "ba"), -0.5, 0.0),  # worse than chance
        (("aa", "aa"), None, 1.0),  # as chance would have it, when nobody ever says anything else
        (("a*", "*b"), None, None),  # nothing was rated twice
        (("a",), None, None),
        (("aab", "aab", "a*b"), 1.0, 1.0),
        (("a", "a", "b"), 0.0, 1 / 3),
    ],
)
def test_agreement_where_it_can_be_told_by_hand(raters, agreement, agreeing):
    assert alpha(counted(*raters)) == (None if agreement is None else pytest.approx(agreement))
    assert share(counted(*raters)) == (None if agreeing is None else pytest.approx(agreeing))


def test_raters_at_random_agree_as_far_as_chance_does():
    draw = np.random.default_rng(7)
    counts = draw.multinomial(3, [0.6, 0.1, 0.3], size=4000)
    assert alpha(counts) == pytest.approx(0, abs=0.03)
    assert share(counts) == pytest.approx(0.6**2 + 0.1**2 + 0.3**2, abs=0.02)


def test_no_rating_is_no_agreement():
    assert alpha(np.zeros((0, 3), dtype=np.int64)) is None
    assert share(np.zeros((0, 3), dtype=np.int64)) is None
