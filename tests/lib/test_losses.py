"""Losses: what a model knows by heart shows as a gap that its base does not have."""

import numpy as np
import pyarrow as pa
import pytest

from stages.lib.losses import SCHEMA, losses


def table(rows: dict[str, list[tuple[float, float]]]) -> pa.Table:
    """By split the nats a token of base and tuned model, two tokens a row and two rows a group."""
    return pa.Table.from_pylist(
        [
            {
                "split": split,
                "id": f"{split}{place}",
                "group": f"{split}{place // 2}",
                "tokens": 2,
                "base_nll": 2 * base,
                "tuned_nll": 2 * tuned,
            }
            for split, members in rows.items()
            for place, (base, tuned) in enumerate(members)
        ],
        schema=SCHEMA,
    )


def test_loss_is_a_mean_over_tokens_and_what_is_known_by_heart_a_ratio_of_ratios() -> None:
    found = losses(
        table({"train": [(2.0, 0.1), (3.0, 0.3)], "validation": [(2.0, 0.5)], "test": [(2.0, 0.8)] * 4}), 100, 7
    )

    assert found["base"] == pytest.approx({"train": 2.5, "validation": 2.0, "test": 2.0, "gap": -0.5})
    assert found["tuned"] == pytest.approx({"train": 0.2, "validation": 0.5, "test": 0.8, "gap": 0.6})
    assert found["by_heart"] == pytest.approx({"ratio": 4 / 0.8})  # one group of training rows is no sample


def test_tokens_count_and_not_rows() -> None:
    rows = table({"train": [(1.0, 1.0)], "test": [(1.0, 1.0), (4.0, 4.0)]}).to_pylist()
    rows[1] |= {"tokens": 6, "base_nll": 6.0, "tuned_nll": 6.0}
    found = losses(pa.Table.from_pylist(rows, schema=SCHEMA), 100, 7)
    assert found["base"]["test"] == pytest.approx((6 + 8) / 8)


def test_rows_learned_by_heart_are_told_from_rows_that_are_merely_easier() -> None:
    random = np.random.default_rng(3)

    def rows(base: float, tuned: float) -> list[tuple[float, float]]:
        return [(base + noise, tuned + noise / 2) for noise in random.normal(0, 0.2, 80)]

    by_heart = losses(table({"train": rows(2, 0.2), "test": rows(2, 0.9)}), 500, 7)["by_heart"]
    assert by_heart["low"] > 3
    assert by_heart["high"] > by_heart["ratio"] > by_heart["low"]
    easier = losses(table({"train": rows(1.5, 0.6), "test": rows(2, 0.8)}), 500, 7)["by_heart"]
    assert easier["low"] < 1 < easier["high"]


def test_a_split_without_rows_is_absent() -> None:
    found = losses(table({"test": [(2.0, 0.8)] * 4}), 100, 7)
    assert found == {"base": {"test": 2.0}, "tuned": {"test": 0.8}}
