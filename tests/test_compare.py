"""Compare: whether what two revisions made of the same rows differs by more than chance."""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stages import compare as stage
from stages.lib import artifacts, text_metrics
from stages.lib.errors import UserError
from stages.lib.figures import MODELS, SCHEMA, calibration
from stages.lib.verdict import METRICS

ROOT = Path(__file__).resolve().parent.parent


def judged(right: list[bool], categories: list[str] | None = None, **changes: list[Any]) -> pa.Table:
    """Predictions of a tuned model that answers these rows rightly or not, half a nat better where it does."""
    rows = []
    for number, is_right in enumerate(right):
        reference, nats = f"order {number:04}", 1.0 + (number % 3) - 0.5 * is_right
        answer = reference if is_right else f"order {number + 1:04}"
        row: dict[str, Any] = {"id": f"r{number:03}", "group": f"g{number // 2}", "prompt": f"Which? {number}"}
        row |= {"category": categories[number] if categories else "all", "reference": reference}
        row |= {"tokens": 4, "bytes": len(reference), "prompt_hash": "", "constraints": []}
        for model in MODELS:
            row |= {f"{model}_answer": answer, f"{model}_finish": "stop", f"{model}_tokens": 3}
            row |= {f"{model}_nll": nats, f"{model}_text_nll": nats}
            row |= {f"{model}_broken": [], f"{model}_broken_loosely": [], f"{model}_copied": False}
            row[f"{model}_calibration"] = calibration([0.5] * 4, [is_right] * 4)
            scores = {"exact_match": text_metrics.exact_match(answer, reference)}
            scores |= text_metrics.rouge(answer, reference)._asdict() | {"chrf": 50.0}
            row |= {f"{model}_{name}": value for name, value in scores.items()}
        rows.append(row | {name: values[number] for name, values in changes.items()})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def found(before: pa.Table, after: pa.Table) -> dict[str, str]:
    return {one.metric.name: one.judgement for one in stage.compare(before, after, 500, 7).overall}


def test_what_is_the_same_is_called_so() -> None:
    table = judged([True, False] * 20)

    compared = stage.compare(table, table, 500, 7)

    assert {one.judgement for one in compared.overall} == {"same"}
    assert (compared.rows, compared.only, compared.lost, compared.won) == (40, (0, 0), [], [])
    assert "\n\nthe same\n\n" in "\n".join(stage.lines(compared, "main", "here"))


def test_a_change_on_many_rows_is_real_and_one_on_a_few_may_be_chance() -> None:
    before = judged([False] * 30 + [True] * 30)

    assert found(before, judged([True] * 60))["exact_match"] == "better"
    assert found(before, judged([True] * 60))["bits_per_byte"] == "better"  # which is the lower
    assert found(judged([True] * 60), before)["bits_per_byte"] == "worse"
    nearly = judged([False] * 28 + [True] * 32)
    assert found(before, judged([False] * 29 + [True] * 30 + [False]))["exact_match"] == "same"
    assert found(nearly, judged([True] * 1 + [False] * 28 + [True] * 31))["exact_match"] == "same"
    assert found(before, nearly)["exact_match"] == "unclear"


def test_a_change_by_chance_is_no_significant_difference_whatever_many_metrics_say() -> None:
    """Of coin flips, hardly ever more than one in twenty pairs may be called a change."""
    random = np.random.default_rng(5)
    said = []
    for _ in range(40):
        before, after = (judged((random.random(60) < 0.5).tolist()) for _ in range(2))
        said.append("\n".join(stage.lines(stage.compare(before, after, 400, 7), "main", "here")))
    assert sum("no significant difference\n\n" in one for one in said) >= 36


def test_rows_are_paired_by_what_was_asked_whatever_their_order() -> None:
    before = judged([True] * 40)
    prompts = [f"Which? {number}" if number else "Another question" for number in range(40)]
    after = judged([True] * 39 + [False], prompt=prompts).slice(0, 39).take(list(reversed(range(39))))

    compared = stage.compare(before, after, 200, 7)

    assert compared.rows == 38
    assert compared.only == (2, 1)  # another prompt, and a row that only one has
    assert {one.judgement for one in compared.overall} == {"same"}


def test_nothing_in_common_is_said() -> None:
    with pytest.raises(UserError, match="no test row was judged in both"):
        stage.compare(judged([True]), judged([True], reference=["another"]), 100, 7)


def test_what_an_older_retune_has_not_stored_is_left_out_and_said() -> None:
    table = judged([True, False] * 10)
    older = table.drop_columns([f"{model}_{name}" for model in MODELS for name in ("rougeLsum", "calibration")])

    compared = stage.compare(older, table, 100, 7)

    of_constraints = {f"{level}_{way}" for level in ("prompt", "instruction") for way in ("strict", "loose")}
    expected = {one.name for one in METRICS} - {"rougeLsum", "calibration_error", *of_constraints}
    assert {one.metric.name for one in compared.overall} == expected
    said = "\n".join(stage.lines(compared, "main", "here"))
    assert "left out: ROUGE-Lsum, Calibration error, which the predictions of one do not hold" in said
    assert "left out" not in "\n".join(stage.lines(stage.compare(table, table, 100, 7), "main", "here"))


def of_categories(compared: stage.Comparisons) -> dict[str, str]:
    return {one.name: compared.of_category(one).judgement for one in compared.categories}


def test_one_group_has_no_interval() -> None:
    compared = stage.compare(judged([True, False]), judged([True, True]), 100, 7)

    assert {one.interval for one in compared.overall} == {""}
    assert compared.categories[0].difference.p == 1
    said = "\n".join(stage.lines(compared, "main", "here"))
    assert "no interval" in said
    assert "\n\nno significant difference\n\n" in said


def test_few_rows_are_never_called_a_change() -> None:
    """One row, five groups of two; and twenty categories of a few coin flips each."""
    for rows in (1, 10):
        compared = stage.compare(judged([False] * rows), judged([True] * rows), 500, 7)
        assert {one.judgement for one in compared.overall} <= {"unclear", "same"}
    random = np.random.default_rng(9)
    categories = [f"c{number // 4:02}" for number in range(80)]
    for _ in range(5):
        before, after = (judged((random.random(80) < 0.5).tolist(), categories) for _ in range(2))
        found_ = stage.compare(before, after, 500, 7)
        assert set(of_categories(found_).values()) <= {"unclear", "same"}


def test_a_change_of_every_category_is_seen_however_many_there_are() -> None:
    categories = [f"c{number // 40:02}" for number in range(2400)]
    compared = stage.compare(judged([False] * 2400, categories), judged([True] * 2400, categories), 100, 7)
    assert set(of_categories(compared).values()) == {"better"}


def test_the_answers_that_were_lost_and_won_are_named() -> None:
    compared = stage.compare(judged([True, False] * 10), judged([False, False] + [True, False] * 9), 100, 7)

    assert (compared.lost, compared.won) == (["r000"], [])
    said = "\n".join(stage.lines(compared, "main", "the workspace"))
    assert "right before, wrong now: 1 row: r000" in said
    assert "wrong before" not in said


def test_a_category_in_which_nothing_changed_but_chance_is_not_called_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twenty categories with coin flips one would be, without Holm's correction."""
    random = np.random.default_rng(1)
    categories = [f"c{number // 40:02}" for number in range(800)]
    before, after = (judged((random.random(800) < 0.5).tolist(), categories) for _ in range(2))
    changed = judged([True] * 40 + after["tuned_exact_match"].to_numpy()[40:].astype(bool).tolist(), categories)

    by_chance = of_categories(stage.compare(before, after, 1000, 7))
    assert len(by_chance) == 20
    assert set(by_chance.values()) <= {"unclear", "same"}
    with monkeypatch.context() as uncorrected:
        uncorrected.setattr("stages.lib.paired.holm", list)
        alone = of_categories(stage.compare(before, after, 1000, 7))
    assert set(alone.values()) & {"better", "worse"}
    real = of_categories(stage.compare(before, changed, 1000, 7))
    assert [name for name, judgement in real.items() if judgement == "better"] == ["c00"]


def test_the_answer_in_one_line_knows_of_the_categories() -> None:
    """One won all that the other lost: over all rows, nothing changed."""
    categories = ["up"] * 60 + ["down"] * 60
    before, after = judged([False] * 60 + [True] * 60, categories), judged([True] * 60 + [False] * 60, categories)
    said = stage.lines(stage.compare(before, after, 1000, 7), "main", "here")
    assert "better by more than chance: Exact match in up; worse by more than chance: Exact match in down" in said
    assert not any("significant" in line for line in said if line.startswith(("up", "down")))


def test_small_categories_are_marked() -> None:
    categories = ["large"] * 30 + ["small"] * 29
    table, other = judged([True] * 59, categories), judged([False] * 59, categories)

    said = stage.lines(stage.compare(table, other, 200, 7), "main", "the workspace")

    assert any(line.startswith("large (30)") and line.endswith("worse") for line in said)
    assert any(line.startswith("small* (29)") for line in said)
    assert "* fewer than 30 rows" in "\n".join(said)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of DVC with predictions of two revisions, the second in the workspace."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "data/predictions").mkdir(parents=True)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, check=True)
    for right in ([True, False] * 20, [True] * 40):
        artifacts.write_parquet(tmp_path / "data/predictions/predictions.parquet", judged(right))
        subprocess.run(["dvc", "add", "-q", "data/predictions"], check=True)
        subprocess.run(["git", "add", "-A"], check=True)
        settings = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *settings, "commit", "-qm", "judged"], check=True)
    return tmp_path


def test_two_revisions_are_compared_from_gits_and_dvcs_stores(repository: Path) -> None:
    shutil.copytree(ROOT / "stages", repository / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-m", "stages.compare", "HEAD~1"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "40 test rows judged in both HEAD~1 and the workspace" in done.stdout
    assert re.search(r"^Exact match +50.0 % → 100 % +\+50.0 points .* better$", done.stdout, re.MULTILINE)
    assert "\nbetter by more than chance: Exact match, " in done.stdout
    assert "wrong before, right now: 20 rows: r001, r003, r005, r007, r009 and 15 more" in done.stdout


def test_a_revision_that_is_not_there_is_named(repository: Path) -> None:
    with pytest.raises(UserError, match=r"v9 is no revision of this repository"):
        stage.read("v9")
    for file in (repository / ".dvc/cache").rglob("*"):
        if file.is_file():
            file.chmod(0o644)
            file.unlink()
    with pytest.raises(UserError, match=r"the predictions of HEAD~1 are not at hand"):
        stage.read("HEAD~1")
    assert stage.read(None).num_rows == 40
    with pytest.raises(argparse.ArgumentTypeError, match="and no revision"):
        stage._named("HEAD:params.yaml")
    with pytest.raises(argparse.ArgumentTypeError, match="and no revision"):
        stage._named("HEAD^{tree}")


def test_a_remote_without_its_plugin_is_told_of(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_(*_: Any, **__: Any) -> None:
        raise ImportError("s3 is supported, but requires 'dvc-s3' to be installed")

    monkeypatch.setattr("dvc.api.open", open_)
    with pytest.raises(UserError, match=r"HEAD~1 cannot be fetched: s3 is supported, but requires 'dvc-s3'"):
        stage.read("HEAD~1")
