"""Every metric on cases whose answer is known by hand, from the answer's text to the figure."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stages import evaluate
from stages.lib.constraints import kept, kept_loosely
from stages.lib.copies import copied
from stages.lib.figures import FIGURES, MODELS, SCHEMA, calibration, columns, figures
from stages.lib.statistics import totals

CASES = json.loads(Path(__file__).with_name("known_answers.json").read_text(encoding="utf-8"))


def line(place: int, row: dict[str, Any], copies: bool) -> dict[str, Any]:
    """A row of predictions, to which both models gave the same answer."""
    answer, reference, asked = row.get("answer", ""), row.get("reference", ""), row.get("constraints", {})
    own = {name: row.get(name, 1) for name in ("nll", "text_nll")} | evaluate._scores(answer, reference)
    own |= {"answer": answer, "finish": "stop", "tokens": 1, "copied": copies}
    own |= {"calibration": calibration(row.get("confidence", []), row.get("hits", []))}
    own |= {"broken": evaluate._broken(kept(answer, asked))}
    own |= {"broken_loosely": evaluate._broken(kept_loosely(answer, asked))}
    shared = {"id": str(place), "reference": reference, "constraints": list(asked)}
    shared |= {name: row.get(name, 1) for name in ("tokens", "bytes")}
    return shared | {f"{model}_{name}": value for model in MODELS for name, value in own.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["what"])
def test_the_figure_is_the_one_that_was_worked_out_by_hand(case: dict[str, Any]) -> None:
    answers = [row.get("answer", "") for row in case["rows"]]
    copies = copied(answers, ["?"] * len(answers), case.get("training", []))
    lines = [line(place, row, copy) for place, (row, copy) in enumerate(zip(case["rows"], copies, strict=True))]
    table = pa.Table.from_pylist(lines, schema=SCHEMA)
    found = figures(totals(columns([(table, name) for name in MODELS])))
    for name, value in case["expected"].items():
        assert found[name].tolist() == pytest.approx([value] * 2, abs=1e-9), case["why"]


def test_every_metric_has_a_known_answer() -> None:
    assert {name for case in CASES for name in case["expected"]} == set(FIGURES)
