"""tokenize: rows of tokens that hold whole examples, and figures that add up."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from stages import tokenize as stage
from stages.lib import artifacts, packing
from stages.lib.errors import UserError
from stages.lib.labels import IGNORED
from stages.lib.pinned import BASE
from stages.lib.prompts import SCHEMA
from stages.lib.tokens import load_tokenizer
from tests.bases import byte_level, write_base

ROOT = Path(__file__).resolve().parent.parent
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def a_row(number: int, question: str = "Hi", answer: str = "Hello", weight: float = 1.0) -> dict[str, Any]:
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    segments = [
        {"text": prompt, "trained": False, "literal": False},
        {"text": f"{answer}<|im_end|>", "trained": True, "literal": False},
    ]
    row = {"id": f"id-{number}", "category": "orders", "group": f"group-{number}", "segments": segments}
    return row | {"prompt": prompt, "reference": answer, "weight": weight}


@pytest.fixture
def tokenized(tmp_path: Path, params_for: Callable[..., Any]) -> Callable[..., SimpleNamespace]:
    """`tokenized([row, …], max_length=64)` runs the stage in tmp_path; what it wrote comes back."""

    def make(
        train: list[dict[str, Any]],
        *,
        validation: list[dict[str, Any]] | None = None,
        eos: str | None = "<|endoftext|>",
        pad: str | None = None,
        vocab_size: int | None = None,
        seed: int = 7,
        **params: Any,
    ) -> SimpleNamespace:
        base, prompts, out = tmp_path / "base", tmp_path / "prompts", tmp_path / "packed"
        write_base(base, byte_level(*SPECIAL), eos=eos, pad=pad, context=256, vocab_size=vocab_size)
        prompts.mkdir(exist_ok=True)
        out.mkdir(exist_ok=True)
        for name, rows in (("train", train), ("validation", validation or []), ("test", [])):
            artifacts.write_parquet(prompts / f"{name}.parquet", pa.Table.from_pylist(rows, schema=SCHEMA))
        template = {"template": "chatml", "stop": ["<|im_end|>", "<|endoftext|>", "### End"]}
        artifacts.write_json(prompts / "template.json", template)
        params = params_for("tokenize", **{"max_length": 64} | params)
        splits = stage.tokenize(prompts, base, out, params, seed)
        return SimpleNamespace(
            figures=stage.metrics(splits, params.max_length),
            histogram=stage.histogram(splits, params.max_length),
            manifest=json.loads((out / "manifest.json").read_text()),
            packed=artifacts.read_arrow(out / "train.arrow", made_by="tokenize").to_pylist(),
            rejected=[json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()],
            tokenizer=load_tokenizer(base),
            out=out,
        )

    return make


def documents(packed: list[dict[str, Any]]) -> dict[str, tuple[list[int], list[int]]]:
    """Ids and labels of each example, taken out of its row again."""
    found = {}
    for row in packed:
        start = 0
        for id_, length in zip(row["example_ids"], row["seq_lengths"], strict=True):
            found[id_] = (row["input_ids"][start : start + length], row["labels"][start : start + length])
            start += length
    return found


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("pad", [None, "<|endoftext|>"], ids=["no pad", "pad = eos"])
def test_the_last_label_of_every_completion_is_its_end(pad, pack, tokenized):
    """Field faults 12 and 13: whatever pads, the token that ends an answer is trained."""
    done = tokenized([a_row(1), a_row(2, answer="The order 4711")], pad=pad, pack=pack)
    end = done.tokenizer.token_id("<|im_end|>")
    answers = {
        id_: [label for label in labels if label != IGNORED] for id_, (_, labels) in documents(done.packed).items()
    }
    assert {id_: labels[-1] for id_, labels in answers.items()} == {"id-1": end, "id-2": end}
    assert {id_: done.tokenizer.decode(labels) for id_, labels in answers.items()} == {
        "id-1": "Hello",
        "id-2": "The order 4711",
    }
    assert done.manifest["pad_token_id"] == done.tokenizer.token_id("<|endoftext|>")


def test_generation_is_told_every_token_and_text_that_ends_an_answer(tokenized):
    manifest = tokenized([a_row(1)]).manifest
    assert manifest["stop_token_ids"] == [2, 0]  # <|im_end|>, <|endoftext|>
    assert manifest["stop_texts"] == ["### End"]


def test_nothing_left_to_learn_stops_the_stage_with_counts(tokenized):
    """Field fault 15."""
    with pytest.raises(
        UserError,
        match=r"tokenize.max_length is 8, but each of the 3 training rows is longer: the "
        r"shortest has \d+ tokens, the longest \d+",
    ):
        tokenized([a_row(1), a_row(2, question="Hi " * 9), a_row(3)], max_length=8)


def test_no_rows_at_all_stop_the_stage(tokenized):
    with pytest.raises(UserError, match=r"train.parquet holds no rows"):
        tokenized([])


@pytest.mark.parametrize("word", ["order ", "订单号"])
def test_rows_over_the_limit_are_dropped_whole_counted_and_listed(tokenized, word):
    """Field faults 15 and 16: nothing is cut, and the figures add up."""
    rows = [a_row(1), a_row(2, question=word * 30), a_row(3)]
    done = tokenized(rows, validation=[a_row(4, answer=word * 30)], max_length=40)
    assert done.figures["truncated"]["rows"] == 0
    assert done.figures["dropped"]["rows"] == 2
    assert done.figures["train"]["rows"] == done.figures["train"]["examples"] + done.figures["train"]["dropped"] == 3
    assert done.figures["validation"]["examples"] == 0
    assert {id_: len(ids) for id_, (ids, _) in documents(done.packed).items()}.keys() == {"id-1", "id-3"}
    assert [(one["record"]["id"], one["code"], one["line"]) for one in done.rejected] == [
        ("id-2", "too-many-tokens", 2),
        ("id-4", "too-many-tokens", 1),
    ]
    assert all(one["detail"]["tokens"] > one["detail"]["limit"] == 40 for one in done.rejected)


@pytest.mark.parametrize("pack", [True, False])
def test_no_row_of_tokens_tears_an_example(pack, tokenized):
    """Field fault 16: each example of a packed row has its prompt, its answer and its end."""
    rows = [a_row(number, question="order " * (number % 7), answer="4711 " * (number % 5)) for number in range(40)]
    done = tokenized(rows, max_length=96, pack=pack)
    assert all(len(row["input_ids"]) <= 96 for row in done.packed)
    read = {id_: done.tokenizer.decode(ids, control=True) for id_, (ids, _) in documents(done.packed).items()}
    assert read == {row["id"]: row["prompt"] + row["reference"] + "<|im_end|>" for row in rows}
    assert (max(len(row["seq_lengths"]) for row in done.packed) > 1) is pack


@pytest.mark.parametrize("pack", [True, False])
def test_every_example_keeps_its_weight_and_those_that_have_one_are_counted(pack, tokenized):
    weights = {f"id-{number}": (0.1, 1.0, 2.5)[number % 3] for number in range(20)}
    rows = [a_row(number, question="order " * (number % 7), weight=weights[f"id-{number}"]) for number in range(20)]
    done = tokenized([*rows, a_row(99, question="order " * 60, weight=3.0)], validation=rows[1:2], pack=pack)
    found = {id_: weight for row in done.packed for id_, weight in zip(row["example_ids"], row["weights"], strict=True)}
    assert found == pytest.approx(weights)
    assert done.figures["train"]["weighted_examples"] == 13
    assert done.figures["validation"]["weighted_examples"] == 0
    assert "· 13 with a weight of their own" in stage.summary(done.figures, 64)
    assert "weight" not in stage.summary(tokenized(rows[1:2]).figures, 64)


def test_a_row_of_just_max_length_is_kept(tokenized):
    (length,) = tokenized([a_row(1)]).packed[0]["seq_lengths"]
    assert tokenized([a_row(1)], max_length=length).figures["dropped"]["rows"] == 0
    assert tokenized([a_row(1)], max_length=256).manifest["max_length"] == 256  # all that the base can read


@pytest.mark.parametrize(
    ("eos", "pad", "filler"),
    [
        ("<|endoftext|>", "<|im_start|>", "<|im_start|>"),
        ("<|im_end|>", None, "<|im_end|>"),
        (None, None, "<|endoftext|>"),  # id 0
    ],
)
def test_rows_are_padded_with_pad_else_eos_else_the_first_token(eos, pad, filler, tokenized):
    done = tokenized([a_row(1)], eos=eos, pad=pad)
    assert done.manifest["pad_token_id"] == done.tokenizer.token_id(filler)


def test_a_row_longer_than_the_base_can_read_is_refused_by_name(tokenized):
    with pytest.raises(UserError, match="max_length is 257, but tiny reads at most 256 tokens"):
        tokenized([a_row(1)], max_length=257)


def test_the_manifest_vouches_for_the_files(tokenized):
    done = tokenized([a_row(number) for number in range(9)], validation=[a_row(99)])
    for name in ("train", "validation", "test"):
        entry = done.manifest["splits"][name]
        assert entry["sha256"] == artifacts.sha256(done.out / entry["file"])
        table = artifacts.read_arrow(done.out / entry["file"], made_by="tokenize")
        assert table.schema == packing.SCHEMA
        assert table.num_rows == entry["rows"]
        assert sum(len(row["seq_lengths"]) for row in table.to_pylist()) == entry["examples"]
        assert sum(len(row["input_ids"]) for row in table.to_pylist()) == entry["tokens"]
        trained = sum(label != IGNORED for row in table.to_pylist() for label in row["labels"])
        assert trained == entry["trained_tokens"] == done.figures[name]["trained_tokens"]
    assert done.manifest["tokenizer_sha256"] == artifacts.sha256(done.out.parent / "base" / "tokenizer.json")
    assert (done.out / "template.json").read_bytes() == (done.out.parent / "prompts" / "template.json").read_bytes()


def test_fill_is_the_share_of_real_tokens_and_absent_where_there_are_none(tokenized):
    figures = tokenized([a_row(number) for number in range(9)]).figures
    train = figures["train"]
    assert train["fill"] == pytest.approx(train["tokens"] / (train["bins"] * 64), abs=1e-4)
    assert "fill" not in figures["test"]


def test_the_histogram_counts_every_row_once(tokenized):
    done = tokenized([a_row(1), a_row(2), a_row(3, question="order " * 60)], validation=[a_row(4)])
    bars = list(csv.DictReader(done.histogram.splitlines()))
    assert {
        name: sum(int(bar["rows"]) for bar in bars if bar["split"] == name) for name in ("train", "validation")
    } == {
        "train": 3,
        "validation": 1,
    }
    assert max(int(bar["tokens_from"]) for bar in bars) >= 64  # those that were dropped are seen too


@pytest.mark.parametrize(("tokens", "width"), [(18, 1), (25, 2), (90, 5), (180, 10)])
def test_the_bars_of_the_histogram_are_as_narrow_as_the_rows_are_short(tokenized, tokens, width):
    """Three bars between 0 and max_length would say nothing of rows that are all short."""
    split = stage.Split(lengths=[3, tokens], examples=packing.EXAMPLES.empty_table(), bins=[], rejected=[])
    bars = list(csv.DictReader(stage.histogram({"train": split}, limit=512).splitlines()))
    assert {int(bar["tokens_to"]) - int(bar["tokens_from"]) + 1 for bar in bars} == {width}
    assert int(bars[-1]["tokens_from"]) <= tokens <= int(bars[-1]["tokens_to"])


def test_the_same_rows_give_the_same_bytes_and_another_seed_another_order(tokenized):
    rows = [a_row(number, question="order " * (number % 7)) for number in range(40)]
    read = lambda done: {path.name: path.read_bytes() for path in done.out.iterdir()}  # noqa: E731
    once, again, other = (read(tokenized(rows, seed=seed)) for seed in (7, 7, 8))
    assert once == again
    assert once["train.arrow"] != other["train.arrow"]


def test_the_stage_reads_and_writes_where_the_pipeline_expects_it(tokenized, tmp_path, monkeypatch, capsys):
    tokenized([a_row(1), a_row(2, question="order " * 60)])
    (tmp_path / "data").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "prompts").rename(tmp_path / stage.PROMPTS)
    (tmp_path / "base").rename(tmp_path / BASE)
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(params.replace("max_length: 512", "max_length: 64"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    stage.main()
    assert artifacts.read_json(stage.PACKED / "manifest.json", made_by="tokenize")["max_length"] == 64
    assert artifacts.read_json(stage.REPORT, made_by="tokenize")["dropped"]["rows"] == 1
    assert stage.HISTOGRAM.read_text().startswith("split,tokens_from,tokens_to,rows\ntrain,")
    assert "2 read · 1 kept · 1 longer than 64 tokens → data/packed/rejected.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["stages.format", "stages.tokenize"])
def test_the_stage_starts_without_the_heavy_libraries(module):
    """They take seconds to import, and every `dvc repro` would pay."""
    heavy = ("torch", "transformers", "trl", "datasets", "pandas")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_token_that_the_model_has_no_embedding_for_is_named_with_its_row(tokenized):
    with pytest.raises(
        UserError, match=r"train\.parquet: the row id-1 needs the token 'assis' \(number 390\), but .* for 300 only"
    ):
        tokenized([a_row(1)], vocab_size=300)


def test_padding_is_a_token_that_the_model_knows(tokenized):
    done = tokenized([a_row(1)], pad="<|spare|>")
    assert done.manifest["pad_token_id"] == done.tokenizer.token_id("<|endoftext|>")
