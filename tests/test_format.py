"""format: what the model reads, row by row, and the file that says how."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stages import format as stage
from stages.lib import artifacts, records
from stages.lib.errors import UserError
from stages.lib.pinned import BASE
from stages.lib.prompts import SCHEMA
from tests.bases import LLAMA2, LLAMA3, QWEN3, SMOL, byte_level, write_base

ROOT = Path(__file__).resolve().parent.parent
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eot_id|>")


def a_record(number: int, *said: str, system: str | None = None, field: str | None = None) -> dict[str, Any]:
    """A conversation of `said`, user first; `field` is an alpaca row's input, which ends the last question."""
    messages = [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(said)]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    row = {"id": f"id-{number}", "source": "rows.json", "line": number, "messages": messages, "input": field}
    return row | {"category": "orders", "tags": [], "weight": 1.0, "constraints": None, "group": f"group-{number}"}


@pytest.fixture
def formatted(tmp_path: Path, params_for: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """`formatted([record, …], template="alpaca")` runs the stage in tmp_path; its rows come back with the metrics."""

    def make(train: list[dict[str, Any]], *, chat_template: str | None = None, **params: Any) -> dict[str, Any]:
        write_base(
            tmp_path / "base",
            byte_level(*SPECIAL),
            chat_template=chat_template,
            bos="<|im_start|>",
            eos="<|endoftext|>",
        )
        splits, out = tmp_path / "splits", tmp_path / "prompts"
        splits.mkdir(exist_ok=True)
        out.mkdir(exist_ok=True)
        schema = records.SCHEMA.append(pa.field("group", pa.string()))
        for name, rows in (("train", train), ("validation", train[:1]), ("test", [])):
            artifacts.write_parquet(splits / f"{name}.parquet", pa.Table.from_pylist(rows, schema=schema))
        settings = params_for("format", **{"system": None, **params})
        metrics = stage.format_splits(splits, tmp_path / "base", out, settings)
        table = artifacts.read_parquet(out / "train.parquet", made_by="format")
        assert table.schema == SCHEMA
        return {"metrics": metrics, "rows": table.to_pylist(), "out": out}

    return make


def test_a_row_holds_the_prompt_the_answer_and_where_it_came_from(formatted):
    (row,) = formatted([a_record(1, "Read it. \n\nNo. 7", "7", field="No. 7")], template="alpaca")["rows"]
    prompt = "### Instruction:\nRead it. \n\n### Input:\nNo. 7\n\n### Response:\n"
    assert row == {
        "id": "id-1",
        "category": "orders",
        "group": "group-1",
        "segments": [
            {"text": prompt, "trained": False, "literal": False},
            {"text": "7<|endoftext|>", "trained": True, "literal": False},
        ],
        "question": "Read it. \n\nNo. 7",
        "prompt": prompt,
        "reference": "7",
        "weight": 1.0,
        "constraints": None,
    }


def test_the_prompt_is_what_stands_before_the_last_answer(formatted):
    (row,) = formatted([a_record(1, "Hi", "Hello", "And?", "Bye")], chat_template=SMOL, template="chatml")["rows"]
    assert row["prompt"] == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
        "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert row["reference"] == "Bye"
    assert row["question"] == "User: Hi\n\nAssistant: Hello\n\nUser: And?"


@pytest.mark.parametrize(
    ("system", "own", "beginning"),
    [
        ("Be brief.", None, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user"),
        ("Be brief.", "Be rude.", "<|im_start|>system\nBe rude.<|im_end|>\n<|im_start|>user"),
        (None, None, "<|im_start|>user"),
    ],
)
def test_a_row_gets_the_system_text_of_the_params_only_if_it_brings_none(system, own, beginning, formatted):
    (row,) = formatted([a_record(1, "Hi", "Hello", system=own)], template="chatml", system=system)["rows"]
    assert row["prompt"].startswith(beginning)


def test_the_template_that_was_chosen_travels_with_the_rows(formatted):
    out = formatted([a_record(1, "Hi", "Hello")], chat_template=SMOL, template="auto")["out"]
    assert json.loads((out / "template.json").read_text()) == {
        "template": "tokenizer",
        "chat_template": SMOL,
        "bos": "<|im_start|>",
        "eos": "<|endoftext|>",
        "pad": None,
        "lead": "",
        "stop": ["<|im_end|>", "<|endoftext|>"],
    }


@pytest.mark.parametrize("said", [("Hi", "Hello", "Be brief."), ("您好", "您好！", "请简短回答。")], ids=["en", "zh"])
def test_every_row_is_kept_or_rejected_with_its_place_and_the_templates_own_reason(formatted, said):
    question, answer, system = said
    rows = [a_record(1, question, answer), a_record(2, question, answer, system=system)]
    result = formatted(rows, chat_template=LLAMA2)
    assert result["metrics"]["rows"] == {"read": 3, "kept": 2, "rejected": 1}
    assert result["metrics"]["rejected"] == {"template-refused": 1}
    (reject,) = map(json.loads, (result["out"] / "rejected.jsonl").read_text().splitlines())
    assert (reject["source"], reject["line"], reject["code"]) == ("rows.json", 2, "template-refused")
    assert reject["reason"] == "this template knows no system text"
    assert "1 rejected (1 template-refused)" in stage.summary(result["metrics"])


def test_a_template_that_refuses_every_training_row_stops_the_stage_with_the_reason(formatted):
    sentence = "can write none of the 1 training rows. The first is rows.json:1: this template knows no system text"
    with pytest.raises(UserError, match=sentence):
        formatted([a_record(1, "Hi", "Hello", system="Be brief.")], chat_template=LLAMA2)


def test_a_system_text_of_the_params_that_the_template_refuses_is_named_before_any_row_is_read(formatted):
    with pytest.raises(UserError, match=r"this template knows no system text\. .* format\.system to null"):
        formatted([a_record(1, "Hi", "Hello")], chat_template=LLAMA2, system="Be brief.")


def test_no_training_rows_at_all_stop_the_stage(formatted):
    with pytest.raises(UserError, match=r"train.parquet holds no rows"):
        formatted([])


def test_trained_and_untrained_answers_are_counted(formatted):
    result = formatted([a_record(1, "Hi", "Hello", "And?", "Bye")], chat_template=QWEN3)
    assert result["metrics"]["train"] == {"rows": 1, "turns": 1, "untrained_turns": 1, "context_turns": 0}


def test_an_answer_of_weight_0_is_written_but_not_trained(formatted):
    row = a_record(1, "Hi", "Hello", "And?", "Bye", system="Be brief.") | {"weight": 0.5}
    row["messages"][2]["weight"] = 0
    result = formatted([row], chat_template=SMOL, template="chatml")
    (written,) = result["rows"]
    assert [segment["text"] for segment in written["segments"] if segment["trained"]] == ["Bye<|im_end|>"]
    assert "Hello" in written["prompt"] == written["segments"][0]["text"]
    assert (written["reference"], written["weight"]) == ("Bye", 0.5)
    assert result["metrics"]["train"] == {"rows": 1, "turns": 1, "untrained_turns": 0, "context_turns": 1}


def test_constraints_travel_with_the_row_and_change_nothing_that_the_model_reads(formatted):
    plain = a_record(1, "Hi", "Hello")
    (without,) = formatted([plain])["rows"]
    assert formatted([plain | {"constraints": '{"words":1}'}])["rows"] == [without | {"constraints": '{"words":1}'}]


def test_the_same_rows_give_the_same_bytes(formatted):
    """With a template that would ask the clock."""
    rows = [a_record(1, "Hi <|eot_id|>", "Hello"), a_record(2, "退款？", "已批准")]
    once = {path.name: path.read_bytes() for path in formatted(rows, chat_template=LLAMA3)["out"].iterdir()}
    again = {path.name: path.read_bytes() for path in formatted(rows, chat_template=LLAMA3)["out"].iterdir()}
    assert once == again
    assert set(once) == {"train.parquet", "validation.parquet", "test.parquet", "template.json", "rejected.jsonl"}


def test_the_stage_reads_and_writes_where_the_pipeline_expects_it(formatted, tmp_path, monkeypatch, capsys):
    formatted([a_record(1, "Hi", "Hello", "And?", "Bye")], chat_template=QWEN3)
    (tmp_path / "data").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "splits").rename(tmp_path / stage.SPLITS)
    (tmp_path / "base").rename(tmp_path / BASE)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    stage.main()
    assert (stage.PROMPTS / "train.parquet").is_file()
    assert artifacts.read_json(stage.REPORT, made_by="format")["template"] == "tokenizer"
    printed = capsys.readouterr()
    assert "2 read · 2 written with the template tokenizer · 0 rejected → data/prompts/" in printed.out
    assert "1 earlier answers are not trained" in printed.err
