"""Harness: whether another judge finds the same figures of the same rows."""

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stages import evaluate
from stages import harness as stage
from stages.lib import artifacts, exam, harness
from stages.lib.ending import Ending, Stops, read_ending
from stages.lib.errors import UserError
from stages.lib.pinned import load_pinned
from stages.lib.tokens import load_tokenizer
from stages.params.evaluate import EvaluateParams
from tests import workspace

ENDING = Ending(Stops((2,)), "<think></think>", str)
EVALUATED = {"exact_match": 0.5, "bits_per_byte": 0.25, "perplexity": 1.5}


def found(*texts: str, **figures: float) -> dict[str, Any]:
    """What lm_eval returns, as far as it is looked at."""
    samples = [{"doc_id": place, "filtered_resps": [text]} for place, text in enumerate(texts)]
    values = {"exact_match": 0.5, "bits_per_byte": 0.25, "perplexity": 1.5} | figures
    answers = {
        "alias": harness.ANSWERS,
        "exact_match,none": values.pop("exact_match"),
        "exact_match_stderr,none": "N/A",
    }
    references = {"alias": harness.REFERENCES} | {f"{name},none": value for name, value in values.items()}
    return {
        "results": {harness.ANSWERS: answers, harness.REFERENCES: references},
        "samples": {harness.ANSWERS: samples[::-1]},  # their order is not promised
    }


def test_each_figure_stands_beside_what_evaluate_found() -> None:
    compared = stage.compared(found("<think></think>a", "b", exact_match=0.25), EVALUATED, ["a", "c"], ENDING)

    assert compared == {
        "exact_match": {"lm_eval": 0.25, "retune": 0.5},
        "bits_per_byte": {"lm_eval": 0.25, "retune": 0.25},
        "perplexity": {"lm_eval": 1.5, "retune": 1.5},
        "same_answers": 0.5,
    }


def test_an_undefined_figure_is_absent_and_never_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "version", lambda name: "0.4.13")
    own = stage.compared(found("a", perplexity=math.inf), {"exact_match": 1 / 3}, ["a"], ENDING)
    content = stage.report({"tuned": own}, 1, 0, {})

    assert content["tuned"]["perplexity"] == {}
    assert content["tuned"]["exact_match"] == {"lm_eval": 0.5, "retune": 0.333333}
    assert json.dumps(content, allow_nan=False)


def test_published_tasks_keep_their_version_and_the_name_of_a_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "version", lambda name: "0.4.13")
    results = {"alias": "gsm8k", "sample_len": 9, "acc,none": 0.5, "acc_stderr,none": "N/A", "exact_match,strict": 0.25}
    tasks = {"tuned": stage.of_tasks({"results": {"gsm8k": results}, "versions": {"gsm8k": 3.0}})}

    content = stage.report({}, 1, 0, tasks)

    assert content["tasks"] == {"gsm8k": {"tuned": {"version": 3.0, "acc": 0.5, "exact_match strict": 0.25}}}
    assert "gsm8k, tuned: acc 0.5 · exact_match strict 0.25" in stage.lines(content)


def test_what_is_printed_names_both_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "version", lambda name: "0.4.13")
    own = stage.compared(found("a"), EVALUATED, ["a"], ENDING)

    assert stage.lines(stage.report({"base": own, "tuned": own}, 1, 0, {})) == [
        "harness: 1 row judged by lm_eval 0.4.13 → reports/harness.json",
        *(
            f"{model}: exact match 0.5 (Retune 0.5) · bits per byte 0.25 (Retune 0.25) · perplexity 1.5 (Retune 1.5) · "
            "100.0% of the answers the same"
            for model in ("base", "tuned")
        ),
    ]


def test_only_the_data_of_published_tasks_may_be_fetched_and_never_a_program() -> None:
    assert stage.offline([]) == dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"), "1")
    assert stage.offline(["arc_easy"]) == {"HF_EVALUATE_OFFLINE": "1"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workspace.make(tmp_path_factory.mktemp("harness"), test=6)


def write_predictions(path: Path, rows: list[dict[str, Any]], answers: list[str]) -> Path:
    columns = {name: [row[name] for row in rows] for name in ("id", "prompt")}
    artifacts.write_parquet(path, pa.table(columns | {"base_answer": answers, "tuned_answer": answers}))
    return path


def test_the_rows_are_those_that_evaluate_judged_in_its_order(root: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(root / "models/base")
    ending = read_ending(root / "data/prompts/template.json", load_pinned(root / "models/base"), tokenizer)
    rows = artifacts.read_parquet(root / "data/prompts/test.parquet", "format").to_pylist()[:1:-1]
    path = write_predictions(tmp_path / "predictions.parquet", rows, list("abcd"))

    judged = stage.read_judged(root / "data/prompts", path, tokenizer, ending)

    assert [(row.prompt, row.answer) for row in judged.rows] == [(row["prompt"], row["reference"]) for row in rows]
    assert judged.answers["tuned"] == list("abcd")
    other = write_predictions(tmp_path / "other.parquet", [rows[0] | {"prompt": "Another?"}], ["a"])
    with pytest.raises(UserError, match=r"is of other rows than .* Run `dvc repro evaluate`"):
        stage.read_judged(root / "data/prompts", other, tokenizer, ending)


def test_lm_eval_finds_what_evaluate_found(
    root: Path, tmp_path: Path, params_for: Callable[..., EvaluateParams]
) -> None:
    pytest.importorskip("lm_eval")
    from stages.lib import models

    params = params_for("evaluate", batch_size=4, max_new_tokens=6, precision="fp32")
    base, prompts = root / "models/base", root / "data/prompts"
    pinned, tokenizer = load_pinned(base), load_tokenizer(base)
    ending = read_ending(prompts / "template.json", pinned, tokenizer)
    quiet = params.model_copy(update={"safety": params.safety.model_copy(update={"ask": False})})
    rows = exam.read(prompts, (), tmp_path, pinned, tokenizer, ending, quiet, seed=7).rows

    def load_model() -> Any:
        return models.load_base(pinned, models.dtype_for("fp32"), base=base)

    ours = evaluate.judge(rows, load_model(), ending, params, 7, lambda _: None)
    asked = [{"id": row.id, "prompt": row.prompt} for row in rows]
    path = write_predictions(tmp_path / "predictions.parquet", asked, [one.answer for one in ours])
    judged = stage.read_judged(prompts, path, tokenizer, ending)
    # A random model is never right: for half of the rows the reference of the first task is what the model writes.
    right = [replace(row, answer=one.answer) for row, one in zip(judged.rows[:3], ours[:3], strict=True)]
    model, reader = load_model(), models.load_tokenizer(base)
    wrapped = harness.wrap(model, reader, params.batch_size, add_bos_token=False)
    answers, _ = harness.tasks([*right, *judged.rows[3:]], ending.stops, params.max_new_tokens)
    _, references = harness.tasks(judged.rows, ending.stops, params.max_new_tokens)

    compared = stage.compared(harness.judge(wrapped, [answers, references]), {}, judged.answers["base"], ending)

    assert harness.cut_otherwise(reader, judged.rows) == 0
    assert compared["same_answers"] == 1
    assert compared["exact_match"]["lm_eval"] == 0.5
    size = sum(row.text_bytes for row in rows)
    tokens = sum(len(row.example.completion) for row in rows)
    bits = sum(one.text_nll for one in ours) / size / math.log(2)
    assert compared["bits_per_byte"]["lm_eval"] == pytest.approx(bits, rel=1e-5)
    assert compared["perplexity"]["lm_eval"] == pytest.approx(math.exp(sum(one.nll for one in ours) / tokens), rel=1e-5)


def test_run_by_hand_it_asks_the_merged_model_and_writes_what_was_found(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but what lm_eval does."""
    work = tmp_path / "clone"
    shutil.copytree(root, work)
    shutil.copy(Path(__file__).parent.parent / "params.yaml", work)
    rows = artifacts.read_parquet(work / "data/prompts/test.parquet", "format").to_pylist()[:2]
    (work / "data/predictions").mkdir()
    write_predictions(work / "data/predictions/predictions.parquet", rows, ["a", "b"])
    write_evaluated(work, rows=2)
    shutil.copytree(work / "models/base", work / "models/merged")
    (work / "models/merged/config.json").touch()
    monkeypatch.chdir(work)
    monkeypatch.setattr("sys.argv", ["stages.harness", "--base"])
    monkeypatch.setattr("stages.lib.harness.require", lambda: None)
    monkeypatch.setattr(stage, "version", lambda name: "0.4.13")
    asked = []

    def ask(load_model: Any, folder: Path, *_: Any) -> tuple[Any, None]:
        asked.append(folder.as_posix())
        return found("a", "x"), None

    monkeypatch.setattr(stage, "ask", ask)
    with monkeypatch.context() as environment:
        environment.setattr("os.environ", dict(os.environ))
        stage.main()

    assert asked == ["models/merged", "models/base"]
    content = json.loads((work / "reports/harness.json").read_text(encoding="utf-8"))
    assert content["rows"] == 2
    assert content["tuned"]["same_answers"] == content["base"]["same_answers"] == 0.5
    assert content["tuned"]["exact_match"] == {"lm_eval": 0.5, "retune": 0.25}
    assert "harness: 2 rows judged by lm_eval 0.4.13" in capsys.readouterr().out

    write_evaluated(work, rows=158)
    with pytest.raises(UserError, match=r"is of 158 rows, .* of 2: they are of two runs"):
        stage.main()


def write_evaluated(work: Path, rows: int) -> None:
    content = {model: {"rows": rows, "exact_match": 0.25} for model in ("base", "tuned")}
    artifacts.write_json(work / "reports/eval.json", content)
