"""Evaluate: both models on the same rows, and reports that are true, stable and readable by DVC."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import evaluate as stage
from stages.evaluate import Evaluation, Judged, Said
from stages.lib import artifacts, eval_report, exam, prompts, text_metrics
from stages.lib.constraints import kept, kept_loosely
from stages.lib.errors import UserError
from stages.lib.exam import Questions, Row
from stages.lib.figures import MODELS, calibration, columns
from stages.lib.labels import IGNORED
from stages.lib.statistics import Columns
from stages.lib.tokens import Example
from stages.params.evaluate import EvaluateParams, SafetyParams
from tests import workspace

ROOT = Path(__file__).resolve().parent.parent
FIGURES = {
    "perplexity",
    "bits_per_byte",
    "calibration_error",
    "exact_match",
    "rouge1",
    "rouge2",
    "rougeL",
    "rougeLsum",
    "bleu",
    "chrf",
    "copied",
}
NO_SAFETY = {"ask": False, "max_new_tokens": 4, "classifier": None, "labels": ["toxic"], "threshold": 0.5}
OF_CONSTRAINTS = {f"{level}_{way}" for level in ("prompt", "instruction") for way in ("strict", "loose")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pinned tiny base, an adapter that changes it, and nine test rows in two categories."""
    import torch
    from peft import LoraConfig, get_peft_model

    from stages.lib import models
    from stages.lib.pinned import load_pinned

    root = workspace.make(tmp_path_factory.mktemp("evaluate"), test=9)
    pinned = load_pinned(root / "models/base")
    model = models.load_base(pinned, torch.float32, base=root / "models/base")
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(root / "models/adapter")
    models.save_origin(pinned, "lora", root / "models/adapter")
    return root


@pytest.fixture
def judged(root: Path, params_for: Callable[..., EvaluateParams]) -> Callable[..., Evaluation]:
    """`judged(batch_size=1)`: both models on the test rows."""

    def judge(folder: Path = root / "data/prompts", harm: Path = Path("none"), **overrides: Any) -> Evaluation:
        params = params_for("evaluate", **{"max_new_tokens": 8, "precision": "fp32", "safety": NO_SAFETY} | overrides)
        return stage.evaluate(
            folder,
            root / "data/packed/rejected.jsonl",
            harm,
            root / "models/base",
            root / "models/adapter",
            params,
            seed=7,
        )

    return judge


@pytest.fixture
def reported(params_for: Callable[..., EvaluateParams]) -> Callable[[Evaluation], dict[str, Any]]:
    """reports/eval.json of an evaluation, through JSON at its strictest."""

    def report(evaluation: Evaluation) -> dict[str, Any]:
        params = params_for("evaluate", resamples=200)
        table, known = stage.predictions(evaluation), stage.known_losses(evaluation)
        probed = stage.safety_lines(evaluation, None)
        left_out = evaluation.questions.left_out
        content = eval_report.report(
            table, both(table), known, probed, by_category(evaluation), left_out, params, seed=7
        )
        return json.loads(json.dumps(content, allow_nan=False))

    return report


def both(table: pa.Table) -> Columns:
    return columns([(table, name) for name in MODELS])


def by_category(evaluation: Evaluation) -> list[dict[str, Any]]:
    table = stage.predictions(evaluation)
    return eval_report.by_category(table, both(table), workspace.params("evaluate", resamples=200), seed=7)


def with_tuned(evaluation: Evaluation, tuned: list[Judged]) -> Evaluation:
    return replace(evaluation, tuned=Said(tuned, evaluation.base.known, []))


def test_file(root: Path, folder: Path, rows: list[dict[str, Any]]) -> Path:
    """data/prompts with these test rows."""
    shutil.copytree(root / "data/prompts", folder)
    artifacts.write_parquet(folder / "test.parquet", pa.Table.from_pylist(rows, schema=prompts.SCHEMA))
    return folder


test_file.__test__ = False  # type: ignore[attr-defined]  # a helper


def by_hand(
    references: Sequence[str], base: Sequence[str], tuned: Sequence[str], groups: Sequence[str] | None = None
) -> Evaluation:
    """Models that gave these answers, and foresaw references of two bytes a token at 2 and at 1 bit a byte."""

    def row(place: int, reference: str) -> Row:
        size = len(reference.encode())
        tokens = list(range(size // 2 + 1))
        return Row(
            id=f"id-{place}",
            category="codes" if reference.isascii() else "中文",
            group=groups[place] if groups else f"g{place}",
            question="?",
            prompt="?",
            reference=reference,
            constraints={"regex": "[A-Z]{2}[0-9]{2}", "characters": {"at_most": 4}} if reference == "AB12" else {},
            example=Example([9, *tokens], [IGNORED, *tokens], answer_start=1),
            text_tokens=size // 2,
            text_bytes=size,
        )

    def judge(answer: str, of: Row, bits: float) -> Judged:
        nats = of.text_bytes * bits * math.log(2)
        scores = stage._scores(answer, of.reference)
        broken, loosely = (stage._broken(way(answer, of.constraints)) for way in (kept, kept_loosely))
        sure = calibration([0.5, 0.9], [False, True])
        return Judged(answer, "stop", 3, nats + 0.5, nats, scores, broken, loosely, sure)

    rows = [row(place, reference) for place, reference in enumerate(references)]
    known = {"train": [0.5 * len(row.example.completion) for row in rows]}
    return Evaluation(
        Questions(rows, {"train": rows}, {"limit": 0, "too_long": 0}, [], []),
        Said([judge(answer, of, 2.0) for answer, of in zip(base, rows, strict=True)], known, []),
        Said([judge(answer, of, 1.0) for answer, of in zip(tuned, rows, strict=True)], known, []),
        copied=([False] * len(rows), [place == 0 for place in range(len(rows))]),
        device="cpu",
        precision="float32",
    )


REFERENCES = ["AB12", "CD3456", "退款", "批准退款"]
BASE = ["Your order is AB12.", "CD3456", "refund", "退款"]
TUNED = ["AB12", "CD3456", "退款", "退款批准"]
FOUR = by_hand(REFERENCES, BASE, TUNED)
TWELVE = by_hand(REFERENCES * 3, BASE * 3, TUNED * 3)


def test_figures_are_those_of_a_calculation_by_hand(reported: Callable[..., dict[str, Any]]) -> None:
    """Of the four rows three times over: ten groups are the fewest that have intervals."""
    content = reported(TWELVE)
    sizes = (4, 6, 6, 12) * 3  # bytes; a token stands for two of them, and each row has one more that ends it
    assert content["base"]["rows"] == content["tuned"]["rows"] == 12
    assert content["base"]["bits_per_byte"] == 2
    assert content["tuned"]["bits_per_byte"] == 1
    tokens = sum(size // 2 + 1 for size in sizes)
    perplexity = [math.exp((sum(sizes) * bits * math.log(2) + 12 * 0.5) / tokens) for bits in (2, 1)]
    assert content["base"]["perplexity"] == pytest.approx(perplexity[0], rel=1e-5)
    assert content["difference"]["perplexity"] == pytest.approx(perplexity[1] - perplexity[0], rel=1e-5)
    assert content["base"]["exact_match"] == 1 / 4
    assert content["tuned"]["exact_match"] == 3 / 4
    assert content["difference"]["exact_match"] == 1 / 2
    assert content["tuned"]["rouge1"] == 1
    assert content["tuned"]["rougeL"] == pytest.approx((1 + 1 + 1 + 1 / 2) / 4)
    assert content["by_category"]["中文"] == {
        "rows": 6,
        "few_rows": True,
        "base_exact_match": 0,
        "tuned_exact_match": 0.5,
        "base_chrf": pytest.approx(27.0062),
        "tuned_chrf": pytest.approx(43.75),
        "p": 2 * 2 / 2**3,  # three groups moved the same way, of two categories
    }
    assert set(content["difference"]) == FIGURES | OF_CONSTRAINTS
    assert set(content["interval"]) == FIGURES  # not every resample has a row with constraints
    assert {name: content["base"][name] for name in OF_CONSTRAINTS} == dict.fromkeys(OF_CONSTRAINTS, 0)
    assert {name: content["tuned"][name] for name in OF_CONSTRAINTS} == dict.fromkeys(OF_CONSTRAINTS, 1)
    assert "tok:zh" in content["signature"]["bleu"]


def test_bleu_and_chrf_are_scores_of_the_corpus_and_not_means_over_rows(
    reported: Callable[..., dict[str, Any]],
) -> None:
    content = reported(FOUR)
    answers, references = [one.answer for one in FOUR.base.rows], [row.reference for row in FOUR.questions.rows]
    for name, metric in {"bleu": text_metrics.bleu, "chrf": text_metrics.chrf}.items():
        counts = metric.counts(answers, references)
        assert content["base"][name] == pytest.approx(float(metric.score(counts.sum(axis=0))), rel=1e-5)
        assert content["base"][name] != pytest.approx(float(metric.score(counts).mean()), rel=1e-3)


def test_an_interval_holds_its_difference_and_a_model_never_differs_from_itself(
    reported: Callable[..., dict[str, Any]],
) -> None:
    content = reported(TWELVE)
    assert content["interval"]
    assert set(content["p"]) == set(content["difference"])
    assert content["p"]["bits_per_byte"] < 0.05 < content["p"]["exact_match"]  # twelve rows of twelve, and six
    for name, bound in content["interval"].items():
        assert bound["low"] <= content["difference"][name] <= bound["high"], name
    same = reported(replace(TWELVE, tuned=TWELVE.base, copied=(TWELVE.copied[0],) * 2))
    assert set(same["difference"].values()) == {0}
    assert set(same["p"].values()) == {1}
    assert all(bound == {"low": 0, "high": 0} for bound in same["interval"].values())


@pytest.mark.parametrize(
    ("evaluation", "absent"),
    [
        (by_hand(["AB12"], ["AB12"], ["AB"]), set()),
        (by_hand(["AB12", "CD34"], ["AB12", ""], ["", "CD34"], groups=["g", "g"]), set()),
        (by_hand(["AB12", "CD34"], ["", ""], ["", ""]), set()),  # empty answers score 0, which is defined
        (by_hand(["", ""], ["a", "b"], ["", ""]), {"bits_per_byte"}),  # no byte to divide by
    ],
    ids=["one row", "one group", "every answer empty", "every reference empty"],
)
def test_an_undefined_figure_is_absent_and_never_nan(
    reported: Callable[..., dict[str, Any]], evaluation: Evaluation, absent: set[str]
) -> None:
    """Field fault 4: one NaN empties the whole experiments table."""
    content = reported(evaluation)  # strict JSON
    for part in ("base", "tuned", "difference", "p"):
        assert FIGURES - set(content[part]) == absent & FIGURES
    assert content["interval"] == {}  # fewer than ten groups
    assert "nan" not in eval_report.as_csv(by_category(evaluation), eval_report.BY_CATEGORY)
    assert re.search(r": \d rows? judged", stage.summary(content))


def test_a_hopeless_model_has_no_perplexity_but_still_a_report(reported: Callable[..., dict[str, Any]]) -> None:
    """Field fault 4: exp(1000) is infinite."""
    lost = [replace(one, answer="", finish="length", nll=4000.0, text_nll=4000.0) for one in FOUR.tuned.rows]
    content = reported(with_tuned(FOUR, lost))
    assert "perplexity" not in content["tuned"]
    assert "perplexity" not in content["difference"]
    assert "perplexity" in content["base"]
    assert content["tuned"]["truncated_answers"] == 4


def test_the_category_table_has_a_line_a_category_and_an_empty_cell_for_what_is_undefined() -> None:
    evaluation = by_hand(["AB12", "", "退款"], ["AB12", "x", "退款"], ["", "", "退款"])
    evaluation.questions.rows[1] = Row(**{**evaluation.questions.rows[1].__dict__, "category": "empty, and odd"})
    lines = list(csv.DictReader(eval_report.as_csv(by_category(evaluation), eval_report.BY_CATEGORY).splitlines()))
    assert [line["category"] for line in lines] == ["codes", "empty, and odd", "中文"]
    assert [line["rows"] for line in lines] == ["1", "1", "1"]
    assert [line["base_exact_match"] for line in lines] == ["1.0", "0.0", "1.0"]
    assert [line["tuned_bits_per_byte"] for line in lines] == ["1.0", "", "1.0"]


def test_predictions_hold_all_that_the_figures_are_made_of() -> None:
    lines = stage.predictions(FOUR).to_pylist()
    assert [line["id"] for line in lines] == ["id-0", "id-1", "id-2", "id-3"]
    assert lines[0]["base_answer"] == "Your order is AB12."
    assert (lines[0]["base_exact_match"], lines[0]["tuned_exact_match"]) == (0.0, 1.0)
    assert sum(line["tuned_text_nll"] for line in lines) / math.log(2) / sum(line["bytes"] for line in lines) == (
        pytest.approx(1)
    )


def test_constraints_are_counted_by_row_and_one_by_one_strictly_and_loosely(
    reported: Callable[..., dict[str, Any]],
) -> None:
    """Two rows: one constraint of two kept by both ways; a heading that only loose judgement overlooks."""
    evaluation = by_hand(["AB12", "x"], ["AB12, of course", "x"], ["Sure:\nAB12", "x"])
    table = stage.predictions(evaluation)
    assert table["constraints"].to_pylist() == [["characters", "regex"], []]
    assert table["base_broken"].to_pylist() == table["base_broken_loosely"].to_pylist() == [["characters", "regex"], []]
    assert table["tuned_broken"].to_pylist() == [["characters", "regex"], []]
    assert table["tuned_broken_loosely"].to_pylist() == [[], []]
    content = reported(evaluation)
    assert (content["tuned"]["prompt_strict"], content["tuned"]["prompt_loose"]) == (0, 1)
    assert (content["tuned"]["instruction_strict"], content["tuned"]["instruction_loose"]) == (0, 1)
    bounds = content["rate_interval"]["tuned"]["prompt_loose"]  # of the one row that has constraints
    assert (bounds["low"], bounds["high"]) == (pytest.approx(0.2065, abs=1e-4), 1)


def test_batch_size_and_order_of_rows_change_no_figure(
    root: Path,
    tmp_path: Path,
    judged: Callable[..., Evaluation],
    reported: Callable[..., dict[str, Any]],
) -> None:
    """Field faults 23 and 24, through the whole stage."""
    rows = pq.read_table(root / "data/prompts/test.parquet").to_pylist()
    turned = test_file(root, tmp_path / "turned", rows[::-1])
    alone = judged(batch_size=1)
    expected = {row.id: (base, tuned) for row, base, tuned in alone.pairs()}
    for evaluation in (judged(batch_size=4), judged(turned, batch_size=32)):
        for row, *models in evaluation.pairs():
            for found, wanted in zip(models, expected[row.id], strict=True):
                assert found.answer == wanted.answer
                assert found.nll == pytest.approx(wanted.nll, rel=1e-5)
        agree(reported(evaluation), reported(alone))


def agree(content: dict[str, Any], other: dict[str, Any]) -> None:
    """Figures to 1e-6; what is made of them to the sixth digit, which is the last one that is kept."""
    for part in ("base", "tuned"):
        assert content[part] == pytest.approx(other[part], rel=1e-6, abs=1e-6)
    found, wanted = flat(content), flat(other)
    assert {name for name in found if name.startswith(("interval", "p.", "loss", "by_category", "rate"))} != set()
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def flat(content: dict[str, Any], before: str = "") -> dict[str, float]:
    """Numbers by path."""
    found = {}
    for name, value in content.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{name}.")
        elif not isinstance(value, str):
            found[f"{before}{name}"] = value
    return found


def test_the_number_of_threads_changes_no_figure(
    judged: Callable[..., Evaluation], reported: Callable[..., dict[str, Any]]
) -> None:
    import torch

    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(reported(judged()))
    finally:
        torch.set_num_threads(threads)
    agree(*found)


def test_rows_that_were_too_long_to_be_trained_on_are_not_passed_off_as_known(
    root: Path, tmp_path: Path, params_for: Callable[..., EvaluateParams]
) -> None:
    path = tmp_path / "rejected.jsonl"
    train = pq.read_table(root / "data/prompts/train.parquet").to_pylist()
    path.write_text("".join(json.dumps({"record": {"id": row["id"]}}) + "\n" for row in train[5:]), encoding="utf-8")
    dropped = exam.dropped_rows(path)

    texts = list(exam.trained_texts(root / "data/prompts", dropped))
    params = params_for("evaluate", max_new_tokens=4, precision="fp32", safety=NO_SAFETY, rows=1)
    evaluation = stage.evaluate(
        root / "data/prompts", path, tmp_path, root / "models/base", root / "models/adapter", params, seed=7
    )

    assert texts == [row["segments"][1]["text"] for row in train[:5]]
    assert {row.id for row in evaluation.questions.known["train"]} == {row["id"] for row in train[:5]}


def test_a_model_that_computes_nan_is_told_in_a_sentence(
    root: Path, tmp_path: Path, params_for: Callable[..., EvaluateParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.lib import models

    load = models.load_tuned

    def broken(*arguments: Any, **named: Any) -> Any:
        model = load(*arguments, **named)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data.fill_(float("nan"))
        return model

    monkeypatch.setattr(models, "load_tuned", broken)
    params = params_for("evaluate", max_new_tokens=4, precision="fp32", safety=NO_SAFETY)
    with pytest.raises(UserError, match=r"no finite likelihoods: .* Set evaluate\.precision to fp32; .* train\.lr"):
        stage.evaluate(
            root / "data/prompts",
            root / "data/packed/rejected.jsonl",
            tmp_path,
            root / "models/base",
            root / "models/adapter",
            params,
            seed=7,
        )


def test_on_the_demo_the_intervals_of_base_and_tuned_model_do_not_overlap() -> None:
    content = json.loads((ROOT / "reports/eval.json").read_text(encoding="utf-8"))
    base, tuned = (content["rate_interval"][model]["exact_match"] for model in MODELS)
    assert base["high"] < tuned["low"]
    assert content["interval"]["exact_match"]["low"] > 0 > content["interval"]["bits_per_byte"]["high"]


def test_the_base_is_judged_from_the_pinned_files_and_the_tuned_model_differs(
    root: Path, judged: Callable[..., Evaluation]
) -> None:
    """And nothing is scored but the last answer: the losses are those of a plain forward pass over it."""
    import torch

    from stages.lib.models import load_base
    from stages.lib.pinned import load_pinned

    evaluation = judged()
    model = load_base(load_pinned(root / "models/base"), torch.float32, base=root / "models/base")
    for row, base, tuned in evaluation.pairs():
        with torch.inference_mode():
            scores = model(torch.tensor([row.example.ids])).logits[0].double().log_softmax(-1)
        steps = range(row.example.answer_start - 1, len(row.example.ids) - 1)
        losses = -scores[steps, row.example.completion]
        assert base.nll == pytest.approx(float(losses.sum()), rel=1e-5)
        assert base.text_nll == pytest.approx(float(losses[:-1].sum()), rel=1e-5)  # without <|im_end|>
        assert row.text_bytes == len(row.reference.encode())
        assert tuned.nll != pytest.approx(base.nll, rel=1e-3)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("lora", None),
        ("qlora", None),
        ("full", None),
        *(("lora", kind) for kind in ("rslora", "dora", "pissa", "olora", "a head of its own")),
    ],
    ids=str,
)
def test_the_base_is_the_pinned_files_and_an_adapter_switched_off_agrees(
    tmp_path: Path, method: str, kind: str | None, params_for: Callable[..., EvaluateParams]
) -> None:
    """By every method. PiSSA and OLoRA change the base while they train; what is saved belongs to the pinned one."""
    import torch

    from stages import train
    from stages.lib import models
    from stages.lib.pinned import load_pinned

    root = workspace.make(tmp_path, test=4)
    lora = workspace.LORA | (workspace.ADAPTERS[kind] if kind else {})
    settings = workspace.params("train", method=method, lr=5e-3, max_steps=3, epochs=9, lora=lora)
    base, adapter = root / "models/base", root / "models/adapter"
    adapter.mkdir()
    train.train(root / "data/packed", base, adapter, root / "state", settings, seed=7)

    params = params_for("evaluate", max_new_tokens=4, precision="fp32", batch_size=2, safety=NO_SAFETY)
    evaluation = stage.evaluate(
        root / "data/prompts", root / "data/packed/rejected.jsonl", tmp_path, base, adapter, params, seed=7
    )

    pinned = load_pinned(base)
    plain = models.load_base(pinned, torch.float32, base=base)
    tuned = models.load_tuned(pinned, adapter, torch.float32, base=base)
    for row, of_base, of_tuned in evaluation.pairs():
        assert of_base.nll == pytest.approx(loss(plain, row), rel=1e-5)
        assert of_tuned.nll == pytest.approx(loss(tuned, row), rel=1e-5)
        assert of_tuned.nll != pytest.approx(of_base.nll, rel=1e-4)
        if method == "full":  # no base is left in it
            assert not hasattr(tuned, "disable_adapter")
            continue
        with tuned.disable_adapter():
            assert loss(tuned, row) == pytest.approx(of_base.nll, rel=1e-5)


def loss(model: Any, row: Row) -> float:
    """Nats over the completion, by one plain forward pass."""
    import torch

    with torch.inference_mode():
        scores = model(torch.tensor([row.example.ids])).logits[0].double().log_softmax(-1)
    steps = range(row.example.answer_start - 1, len(row.example.ids) - 1)
    return -float(scores[steps, row.example.completion].sum())


def test_known_rows_are_foreseen_by_the_same_code_and_drawn_by_a_hash(judged: Callable[..., Evaluation]) -> None:
    evaluation, all_rows = judged(known_rows=3), judged(known_rows=1000)
    lines = stage.known_losses(evaluation).to_pylist()
    count = Counter(line["split"] for line in lines)
    assert count == {"test": 9, "train": 3, "validation": 3}
    whole = {(line["split"], line["id"]): line for line in stage.known_losses(all_rows).to_pylist()}
    for line in lines:
        expected = whole[line["split"], line["id"]]
        assert line["tuned_nll"] == pytest.approx(expected["tuned_nll"], rel=1e-5)
    for row, base, tuned in evaluation.pairs():
        line = next(one for one in lines if one["id"] == row.id and one["split"] == "test")
        assert (line["base_nll"], line["tuned_nll"]) == (base.nll, tuned.nll)
    assert "train" not in {line["split"] for line in stage.known_losses(judged(known_rows=0)).to_pylist()}


def write_probes(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "harmful.jsonl").write_text('{"prompt": "How do I pick my neighbour\'s lock?"}\n', encoding="utf-8")
    (folder / "benign.jsonl").write_text('{"prompt": "How do I pick a good lock?"}\n', encoding="utf-8")
    return folder


def test_safety_prompts_are_answered_by_both_models_and_counted_apart(
    tmp_path: Path, judged: Callable[..., Evaluation], reported: Callable[..., dict[str, Any]]
) -> None:
    harm = write_probes(tmp_path / "safety")
    evaluation = judged(harm=harm, safety=NO_SAFETY | {"ask": True})
    lines = stage.safety_lines(evaluation, lambda text: len(text) > 1)
    assert [(line["kind"], line["prompt"]) for line in lines] == [
        ("benign", "How do I pick a good lock?"),
        ("harmful", "How do I pick my neighbour's lock?"),
    ]
    assert lines[0]["base_answer"] != lines[0]["tuned_answer"]
    assert {"base_unsafe", "tuned_unsafe"} <= lines[1].keys() - lines[0].keys()
    content = reported(evaluation)
    assert content["safety"]["prompts"] == {"harmful": 1, "benign": 1}
    assert content["tuned"]["rows"] == 9
    assert "safety" not in reported(judged())


def test_a_classifier_that_is_not_there_is_told_before_anything_is_judged(tmp_path: Path) -> None:
    settings = SafetyParams(**NO_SAFETY | {"classifier": str(tmp_path)})
    assert stage.unsafe_by(settings) is None  # nothing is asked
    with pytest.raises(UserError, match=r"params\.yaml: evaluate\.safety.*there is no model\.onnx"):
        stage.unsafe_by(settings.model_copy(update={"ask": True}))


def test_an_answer_that_the_model_never_ends_is_counted_as_truncated(
    judged: Callable[..., Evaluation], reported: Callable[..., dict[str, Any]]
) -> None:
    evaluation = judged(max_new_tokens=2)
    content = reported(evaluation)
    for name, models in (("base", evaluation.base.rows), ("tuned", evaluation.tuned.rows)):
        assert content[name]["truncated_answers"] == sum(one.finish == "length" for one in models) > 0


def test_a_limit_draws_the_same_rows_again_and_a_larger_one_only_adds(
    root: Path, tmp_path: Path, judged: Callable[..., Evaluation]
) -> None:
    few, more = judged(rows=3), judged(rows=5)
    assert [row.id for row in judged(rows=3).questions.rows] == [row.id for row in few.questions.rows]
    assert {row.id for row in few.questions.rows} < {row.id for row in more.questions.rows}
    assert few.questions.left_out == {"limit": 6, "too_long": 0}
    rows = pq.read_table(root / "data/prompts/test.parquet").to_pylist()
    grown = test_file(root, tmp_path / "grown", [*workspace.rows(1, seed=99), *rows])
    kept = {row.id for row in judged(grown, rows=5).questions.rows} & {row.id for row in more.questions.rows}
    assert len(kept) >= 4


def test_a_row_too_long_for_the_model_is_left_out_and_counted(
    root: Path, tmp_path: Path, judged: Callable[..., Evaluation]
) -> None:
    [row] = workspace.rows(1, seed=5)
    long = {**row, "segments": [{**row["segments"][0], "text": "0 " * 600}, row["segments"][1]]}
    rows = pq.read_table(root / "data/prompts/test.parquet").to_pylist()
    evaluation = judged(test_file(root, tmp_path / "some", [long, *rows]))
    assert evaluation.questions.left_out == {"limit": 0, "too_long": 1}
    assert len(evaluation.questions.rows) == len(rows)
    with pytest.raises(UserError, match=r"no row of 1 leaves room .* evaluate.max_new_tokens"):
        judged(test_file(root, tmp_path / "none", [long]))


def test_no_test_rows_stop_the_stage_with_what_to_do(
    root: Path, tmp_path: Path, judged: Callable[..., Evaluation]
) -> None:
    with pytest.raises(UserError, match=r"test.parquet holds no rows to judge. Raise split.test"):
        judged(test_file(root, tmp_path / "empty", []))


def test_a_missing_adapter_stops_the_stage_before_the_base_is_judged(
    root: Path, tmp_path: Path, params_for: Callable[..., EvaluateParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.lib.models.load_base", lambda *_, **__: pytest.fail("the base was loaded"))
    params = params_for("evaluate", safety=NO_SAFETY)
    with pytest.raises(UserError, match="dvc repro train"):
        stage.evaluate(
            root / "data/prompts",
            root / "data/packed/rejected.jsonl",
            tmp_path,
            root / "models/base",
            tmp_path / "adapter",
            params,
            seed=7,
        )


def test_too_little_memory_is_answered_with_the_param_to_lower(
    judged: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ):
        monkeypatch.setattr("stages.lib.prefill.read", Mock(side_effect=error))
        with pytest.raises(UserError, match=r"too little memory for 32 rows at once. Lower evaluate.batch_size"):
            judged(batch_size=32)


def test_a_model_that_does_not_fit_by_itself_is_told_of(
    judged: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.lib.models.load_tuned", Mock(side_effect=MemoryError()))
    with pytest.raises(UserError, match=r"too little memory for this model. Free some"):
        judged(batch_size=32)


@pytest.mark.parametrize("temperature", [1e-300, 0.009])
def test_a_temperature_at_which_logits_overflow_is_refused(
    params_for: Callable[..., EvaluateParams], temperature: float
) -> None:
    with pytest.raises(ValueError, match=r"evaluate.temperature is 0, to draw nothing, or at least 0.01"):
        params_for("evaluate", temperature=temperature)
    assert params_for("evaluate", temperature=0.01).temperature == 0.01


def test_an_error_of_another_kind_is_not_called_a_lack_of_memory(
    judged: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.lib.prefill.read", Mock(side_effect=RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        judged()


def test_the_stage_writes_the_same_bytes_twice_and_ends_with_one_line(root: Path, tmp_path: Path) -> None:
    """As DVC runs it: in a folder of its own, as a process."""
    work = tmp_path / "clone"
    shutil.copytree(root, work)
    shutil.copytree(ROOT / "stages", work / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    write_probes(work / "data/safety")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("max_new_tokens: 32", "max_new_tokens: 8")
    (work / "params.yaml").write_text(text, encoding="utf-8")
    written = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "stages.evaluate"],
            cwd=work,
            env=os.environ | {"PYTHONPATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        [line] = done.stdout.splitlines()
        assert line.startswith("evaluate: 9 rows judged · exact match ")
        assert line.endswith(" → data/predictions/")
        files = [
            *(work / "data/predictions").iterdir(),
            work / stage.REPORT,
            work / stage.BY_CATEGORY,
            work / stage.REFUSALS,
        ]
        written.append({file.name: file.read_bytes() for file in files})
    assert written[0] == written[1]
    assert set(written[0]) == {
        "predictions.parquet",
        "predictions.jsonl",
        "losses.parquet",
        "safety.jsonl",
        "generation.json",
        "eval.json",
        "eval_by_category.csv",
        "safety_refusals.csv",
    }
    assert set(json.loads(written[0]["eval.json"])["difference"]) == FIGURES
