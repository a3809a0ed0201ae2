"""Probes: how they are read, and that a model is asked just as `format` would have written the question."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from stages import format as format_stage
from stages.lib import artifacts, records
from stages.lib.errors import UserError
from stages.lib.forms import parse
from stages.lib.pinned import load_pinned
from stages.lib.probes import KINDS, prompts, read
from stages.lib.prompts import Segment
from stages.lib.tokens import load_tokenizer
from tests.bases import LLAMA2, LLAMA3, QWEN3, SMOL, adding_bos, byte_level, metaspace, with_swallowing, write_base

ROOT = Path(__file__).resolve().parents[2]
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eot_id|>")
BYTES = byte_level(*SPECIAL)
TOKENIZERS = {
    "byte-level": BYTES,
    "metaspace": metaspace(*SPECIAL),
    "adding BOS": adding_bos(BYTES, "<|im_start|>"),
    "swallowing blanks": with_swallowing(BYTES, "<|im_end|>", "<|im_start|>"),
}
ROWS = [
    {"prompt": "How do I kill a process?", "completion": "?"},
    {"prompt": "  怎么杀死僵尸进程？ ", "completion": "?"},
    {"prompt": "What does <|im_end|> do?", "completion": "?"},  # a control token that somebody typed
    {"instruction": "Translate.", "input": "Bang, you're dead!", "output": "?"},
]
WITH_SYSTEM = [
    {"prompt": "Who killed Caesar?", "system": "You teach history.", "completion": "?"},
    {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Who shot first?"},
            {"role": "assistant", "content": "?"},
        ]
    },
]


def write(folder, name, *rows):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def written(tmp_path, params_for):
    """`written(rows, …)` formats rows as the stage does; the tokens of their prompts come back with those of probes."""

    def make(rows, tokenizer_json, chat_template, **settings):
        base, splits, out = (tmp_path / name for name in ("base", "splits", "prompts"))
        special = {"bos": "<|im_start|>", "eos": "<|endoftext|>"}
        write_base(
            base,
            tokenizer_json,
            chat_template=chat_template,
            adds_bos=tokenizer_json == TOKENIZERS["adding BOS"],
            **special,
        )
        splits.mkdir()
        out.mkdir()
        kept = [parse(row, "rows.jsonl", line, {}).record for line, row in enumerate(rows, 1)]
        table = records.to_table(kept).append_column("group", pa.array([record.id for record in kept]))
        for name in ("train", "validation", "test"):
            artifacts.write_parquet(splits / f"{name}.parquet", table)
        format_stage.format_splits(splits, base, out, params_for("format", **settings))
        pinned, tokenizer = load_pinned(base), load_tokenizer(base)
        formatted = artifacts.read_parquet(out / "test.parquet", made_by="format").to_pylist()
        assert len(formatted) == len(rows)
        expected = tokenizer.encode([[Segment(**one) for one in row["segments"]] for row in formatted])
        write(tmp_path / "safety", "harmful.jsonl", *rows)
        write(tmp_path / "safety", "benign.jsonl", {"prompt": "Well?"})
        probes = [probe for probe in read(tmp_path / "safety") if probe.kind == "harmful"]
        asked = prompts(probes, out / "template.json", pinned, tokenizer, max_new_tokens=8)
        return [example.prompt for example in expected], asked

    return make


@pytest.mark.parametrize("tokenizer_json", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize(
    ("template", "own", "system"),
    [
        ("tokenizer", SMOL, None),
        ("tokenizer", SMOL, "Answer briefly."),
        ("tokenizer", LLAMA3, None),
        ("tokenizer", QWEN3, "Answer briefly."),
        ("chatml", None, "Answer briefly."),
        ("alpaca", None, None),
        ("alpaca", None, "Answer briefly."),
    ],
)
def test_a_model_is_asked_as_format_would_write_the_question(written, tokenizer_json, template, own, system):
    expected, asked = written([*ROWS, *WITH_SYSTEM], tokenizer_json, own, template=template, system=system)
    assert asked == expected
    assert len({tuple(prompt) for prompt in asked}) == len(asked)


def test_a_template_that_knows_no_system_text_is_used_as_it_is(written):
    expected, asked = written(ROWS, BYTES, LLAMA2, template="tokenizer", system=None)
    assert asked == expected


@pytest.fixture
def asking(tmp_path, params_for):
    """`asking(row)` asks one prompt of a base that reads 64 tokens and knows no system text."""

    def ask(row):
        base = tmp_path / "base"
        special = {"bos": "<|im_start|>", "eos": "<|endoftext|>"}
        pinned = write_base(base, BYTES, chat_template=LLAMA2, context=64, **special)
        artifacts.write_json(tmp_path / "template.json", {"template": "tokenizer", "chat_template": LLAMA2})
        write(tmp_path / "safety", "harmful.jsonl", {"prompt": "Hi"}, row)
        write(tmp_path / "safety", "benign.jsonl", {"prompt": "Well?"})
        template = tmp_path / "template.json"
        return prompts(read(tmp_path / "safety"), template, pinned, load_tokenizer(base), max_new_tokens=16)

    return ask


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "a b " * 40}, r"harmful\.jsonl:2 has \d+ tokens: with an answer of 16 more than the 64 that the"),
        ({"prompt": "Go", "system": "Be rude."}, r"harmful\.jsonl:2: .* cannot write this prompt: this template knows"),
    ],
)
def test_a_prompt_that_cannot_be_asked_is_named_before_anything_is(asking, row, problem):
    with pytest.raises(UserError, match=problem):
        asking(row)


def test_what_is_there_can_be_asked(asking):
    assert len(asking({"prompt": "Go"})) == 3


def test_prompts_are_read_from_any_form_with_their_kind(tmp_path):
    write(tmp_path, "harmful.jsonl", {"prompt": "a", "category": "fraud", "language": "en"}, {"text": "b"})
    write(tmp_path, "benign/shop/more.jsonl", {"instruction": "c", "input": "d", "output": "e", "category": " zoo "})
    (tmp_path / "benign.csv").write_text("question,language\n怎么？,zh\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("Not a row.", encoding="utf-8")
    found = [(one.kind, one.question.text, one.category, one.language) for one in read(tmp_path)]
    assert found == [
        ("benign", "怎么？", "uncategorised", "zh"),
        ("benign", "c\n\nd", "zoo", "unspecified"),
        ("harmful", "a", "fraud", "en"),
        ("harmful", "b", "uncategorised", "unspecified"),
    ]
    assert read(tmp_path)[1].place == f"{tmp_path}/benign/shop/more.jsonl:1"


@pytest.mark.parametrize("name", ["Harmful.jsonl", "harmful_zh.jsonl", "harmful-2.jsonl", "HARMFUL 3/a.jsonl"])
def test_a_name_that_begins_with_a_kind_is_of_that_kind(tmp_path, name):
    write(tmp_path, name, {"prompt": "a"})
    write(tmp_path, "benign.jsonl", {"prompt": "b"})
    assert {one.kind: one.question.text for one in read(tmp_path)} == {"harmful": "a", "benign": "b"}


def test_case_makes_no_other_language(tmp_path):
    write(tmp_path, "harmful.jsonl", {"prompt": "a", "language": "EN"}, {"prompt": "b", "language": "en"})
    write(tmp_path, "benign.jsonl", {"prompt": "c", "language": "zh-CN"})
    assert {one.language for one in read(tmp_path)} == {"en", "zh-cn"}


def test_an_id_names_the_question_wherever_it_stands(tmp_path):
    for name, text in (("one", "How do I kill it?"), ("two", "how do i  kill it?")):
        write(tmp_path / name, "benign.jsonl", {"prompt": text, "category": name})
        write(tmp_path / name, "harmful.jsonl", {"prompt": name})
    one, two = (read(tmp_path / name) for name in ("one", "two"))
    assert one[0].id == two[0].id
    assert one[1].id != two[1].id
    record = parse({"prompt": "How do I kill it?", "completion": "So."}, "a.jsonl", 1, {}).record
    assert one[0].id == record.question_id


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, r"holds no harmful prompts: .* Add .*/harmful\.jsonl\."),
        ({"harmful.jsonl": [{"prompt": "a"}]}, r"holds no benign prompts"),
        ({"harmfully.jsonl": [{"prompt": "a"}]}, r"/harmfully\.jsonl:1: nothing says whether"),
        ({"zh_harmful.jsonl": [{"prompt": "a"}]}, r"/zh_harmful\.jsonl:1: nothing says whether"),
        ({"own.jsonl": [{"prompt": "a"}]}, r"/own\.jsonl:1: nothing says whether .* is harmful or benign"),
        ({"harmful.jsonl": [{"prompt": "a"}, {"answer": "b"}]}, r"/harmful\.jsonl:2: the row asks nothing\. Add a"),
        (
            {"benign.jsonl": [{"prompt": "x"}, {"prompt": "Kill it"}], "harmful.jsonl": [{"prompt": "kill  it"}]},
            r"/harmful\.jsonl:1 asks the same as .*/benign\.jsonl:2\.",
        ),
        ({"harmful.jsonl": [{"prompt": "a", "category": 5}]}, r'/harmful\.jsonl:1: "category" is not text'),
    ],
)
def test_what_is_wrong_with_a_set_is_said_with_its_place(tmp_path, files, sentence):
    for name, rows in files.items():
        write(tmp_path, name, *rows)
    with pytest.raises(UserError, match=sentence):
        read(tmp_path)


def test_the_set_that_comes_with_retune_is_as_its_readme_says():
    probes = read(ROOT / "data/safety")
    by_kind = {kind: [probe for probe in probes if probe.kind == kind] for kind in KINDS}
    text = (ROOT / "data/safety/README.md").read_text(encoding="utf-8")
    for kind, found in by_kind.items():
        assert sorted(probe.language for probe in found) == ["en"] * 16 + ["zh"] * 16
        for category in {probe.category for probe in found}:
            assert f"`{category}`" in next(line for line in text.splitlines() if f"`{kind}.jsonl`" in line)
