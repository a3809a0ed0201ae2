"""Worst rows: those that a failing figure is made of, and no others."""

from typing import Any

import pytest

from stages.lib.worst_rows import in_words, worst_rows

Pair = tuple[Any, Any]


def line(number: int, category: str = "a", **pairs: Pair) -> dict[str, Any]:
    row: dict[str, Any] = {"id": f"r{number}", "category": category, "tokens": 4, "bytes": 8}
    for name, (base, tuned) in pairs.items():
        row |= {f"base_{name}": base, f"tuned_{name}": tuned}
    return row


LINES = [
    line(
        1,
        exact_match=(1.0, 1.0),
        chrf=(100.0, 100.0),
        nll=(4.0, 1.0),
        text_nll=(4.0, 1.0),
        broken=([], []),
        broken_loosely=([], []),
        copied=(False, False),
        finish=("stop", "stop"),
    ),
    line(
        2,
        exact_match=(0.0, 0.0),
        chrf=(10.0, 20.0),
        nll=(4.0, 9.0),
        text_nll=(1.0, 9.0),
        broken=(["case"], ["case", "regex"]),
        broken_loosely=(["case"], []),
        copied=(True, False),
        finish=("stop", "length"),
    ),
    line(
        3,
        "b",
        exact_match=(1.0, 0.0),
        chrf=(100.0, 90.0),
        nll=(1.0, 3.0),
        text_nll=(8.0, 10.0),
        broken=([], ["regex"]),
        broken_loosely=([], ["regex"]),
        copied=(False, True),
        finish=("length", "stop"),
    ),
]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("difference.exact_match", ["r3", "r2"]),  # what was lost comes first
        ("interval.exact_match.low", ["r3", "r2"]),
        ("tuned.exact_match", ["r2", "r3"]),  # both wrong: by id
        ("tuned.chrf", ["r2", "r3"]),
        ("difference.chrf", ["r3", "r2"]),
        ("tuned.perplexity", ["r2", "r3", "r1"]),
        ("difference.perplexity", ["r2", "r3", "r1"]),
        ("interval.bits_per_byte.high", ["r2", "r3", "r1"]),
        ("tuned.bits_per_byte", ["r3", "r2", "r1"]),
        ("tuned.prompt_strict", ["r2", "r3"]),
        ("tuned.instruction_loose", ["r3"]),
        ("tuned.copied", ["r3"]),
        ("tuned.truncated_answers", ["r2"]),
        ("by_category.b.tuned_exact_match", ["r3"]),
        ("by_category.a.tuned_exact_match", ["r2"]),
        ("rate_interval.tuned.exact_match.low", ["r2", "r3"]),
        ("base.exact_match", []),  # of the base nothing can be mended
        ("rate_interval.base.exact_match.low", []),
        ("by_category.a.base_exact_match", []),
        ("tuned.bleu", []),  # of the corpus, and of no row
        ("loss.by_heart.ratio", []),
        ("tuned.rows", []),
    ],
)
def test_the_rows_of_a_figure(metric: str, expected: list[str]) -> None:
    assert [fault.id for fault in worst_rows(LINES, metric)] == expected


def test_a_category_may_have_points_in_its_name() -> None:
    lines = [line(1, "v1.2", exact_match=(1.0, 0.0)), line(2, "v1.3", exact_match=(1.0, 0.0))]
    assert [fault.id for fault in worst_rows(lines, "by_category.v1.2.tuned_exact_match")] == ["r1"]


def test_few_rows_are_named_and_many_are_counted() -> None:
    faults = worst_rows([line(number, exact_match=(1.0, 0.0)) for number in range(9)], "tuned.exact_match")
    assert in_words(faults[:2]) == "rows: r0 (a), r1 (a)"
    assert in_words(faults) == "worst of 9 rows: r0 (a), r1 (a), r2 (a), r3 (a), r4 (a)"
    assert in_words([]) == ""
