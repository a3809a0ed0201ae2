"""Merging: gates that hold, weights that compute what was judged, a folder that any program can load."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from stages import evaluate as evaluate_stage
from stages import merge as stage
from stages import train as train_stage
from stages.lib import artifacts, models
from stages.lib.ending import read_ending
from stages.lib.errors import UserError
from stages.lib.figures import SCHEMA
from stages.lib.pinned import load_pinned
from stages.lib.tokens import load_tokenizer
from stages.params.merge import Gate
from tests import workspace

REPORT = {"difference": {"exact_match": 0.25, "bits_per_byte": -0.5}, "tuned": {"rows": 12}, "signature": {"bleu": "x"}}


def tuned_workspace(root: Path, kind: str, method: str, **lora: Any) -> Path:
    workspace.make(root, kind)
    lora = workspace.LORA | lora
    settings = workspace.params("train", method=method, lr=5e-3, max_steps=4, epochs=9, lora=lora)
    (root / "models/adapter").mkdir()
    train_stage.train(
        root / "data/packed", root / "models/base", root / "models/adapter", root / "state", settings, seed=7
    )
    return root


GREEDY = {"max_new_tokens": 6, "temperature": 0.0, "top_p": 1.0, "seed": 7}


def merge(root: Path, dtype: str = "auto", settings: dict[str, Any] = GREEDY) -> dict[str, Any]:
    """Merge, compared on what the tuned model answers here and now."""
    pinned, tokenizer = load_pinned(root / "models/base"), load_tokenizer(root / "models/base")
    ending = read_ending(root / "data/prompts/template.json", pinned, tokenizer)
    rows = judged(root, ending, tokenizer, settings)
    (root / "models/merged").mkdir(parents=True, exist_ok=True)
    return stage.merge(
        root / "models/base", root / "models/adapter", rows, ending, root / "models/merged", dtype, settings
    )


def judged(root: Path, ending: Any, tokenizer: Any, settings: dict[str, Any]) -> list[stage.Judged]:
    from stages.lib.generation import Sampling, generate
    from stages.lib.prompts import Segment

    table = artifacts.read_parquet(root / "data/prompts/test.parquet", made_by="format").to_pylist()
    examples = tokenizer.encode([[Segment(**one) for one in row["segments"]] for row in table])
    base = root / "models/base"
    model = models.load_tuned(load_pinned(base), root / "models/adapter", torch.float32, base=base)
    prompts = [example.prompt for example in examples]
    sampling = Sampling.of(settings["temperature"], settings["top_p"], settings["seed"])
    answers = generate(model, prompts, ending.stops, ending.decode, 1, 6, sampling=sampling)
    texts = [ending.without_lead(answer.text) for answer in answers]
    return [stage.Judged(example, text) for example, text in zip(examples, texts, strict=True)]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_the_merged_model_answers_as_the_judged_one_did(tmp_path: Path, kind: str, method: str) -> None:
    """Field fault 25 for qlora: the update goes into the full-precision base, never into 4 bits."""
    root = tuned_workspace(tmp_path, kind, method)

    compared = merge(root)

    assert compared["max_logit_difference"] < 1e-3
    assert compared["same_greedy_texts"] == 1.0
    assert compared["dtype"] == "float32"
    assert compared["compared_rows"] == 8


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried …")], ids=repr)
def test_where_memory_holds_few_rows_they_are_answered_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Who had to lower evaluate.batch_size could judge, and not merge."""
    from stages.lib import generation

    tried, generate = [], generation.generate

    def little(*given: Any, **named: Any) -> Any:
        tried.append(given[4])
        if given[4] > 1:
            raise error
        return generate(*given, **named)

    root = tuned_workspace(tmp_path, "llama", "lora")
    monkeypatch.setattr(generation, "generate", little)
    assert merge(root)["same_greedy_texts"] == 1.0
    assert tried == [1, 8, 1]  # judged, and merged


@pytest.mark.parametrize("adapter", ["rslora", "dora", "pissa", "a head of its own", "head and embedding"])
def test_every_kind_of_adapter_is_merged_into_what_was_judged(tmp_path: Path, adapter: str) -> None:
    """Field fault 26: a head that was trained apart from the embedding it was tied to stays apart."""
    root = tuned_workspace(tmp_path, "llama", "lora", **workspace.ADAPTERS[adapter])

    compared = merge(root)

    assert compared["max_logit_difference"] < 1e-3
    assert compared["same_greedy_texts"] == 1.0
    tied = json.loads((root / "models/merged/config.json").read_text())["tie_word_embeddings"]
    assert tied == (adapter not in ("a head of its own", "head and embedding"))


def test_any_program_loads_the_merged_model_and_knows_where_to_stop(tmp_path: Path) -> None:
    """Also met: servers run on to the limit when generation_config lacks the template's terminator."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root = tuned_workspace(tmp_path, "llama", "lora")
    merge(root)
    merged = root / "models/merged"

    model = AutoModelForCausalLM.from_pretrained(merged, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(merged, local_files_only=True)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )

    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert text.endswith("<|im_start|>assistant\n")
    assert model.generation_config.eos_token_id in (end, [end])
    assert model.config.vocab_size == 400  # field fault 27: as many rows as the base, whatever the tokenizer knows
    assert {file.suffix for file in merged.iterdir()} == {".json", ".jinja", ".safetensors"}
    for file in merged.glob("*.json"):
        assert str(tmp_path) not in file.read_text(encoding="utf-8"), file.name


@pytest.mark.parametrize("method", ["lora", "full"])
def test_how_the_base_liked_to_sample_changes_neither_training_nor_judging_nor_the_shipped_model(
    tmp_path: Path, method: str
) -> None:
    """A penalty would forbid answers that stand in the question; `min_p` without sampling cannot even be saved."""
    from transformers import AutoModelForCausalLM

    settings = {"temperature": 0.6, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 50.0, "num_beams": 4}
    model = workspace.save_tiny_model(tmp_path / "origin")
    (model / "generation_config.json").write_text(json.dumps(settings))
    root = tuned_workspace(tmp_path, "llama", method)

    assert merge(root)["same_greedy_texts"] == 1.0
    shipped = AutoModelForCausalLM.from_pretrained(root / "models/merged", local_files_only=True).generation_config
    assert not shipped.do_sample
    assert {name: getattr(shipped, name) for name in settings} == dict.fromkeys(settings)


def test_a_merged_model_that_computes_no_numbers_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN compares as neither larger nor smaller than a tolerance; here it stands in one row of many."""
    root = tuned_workspace(tmp_path, "llama", "lora")
    original = stage._logits
    asked = []

    def logits(model: Any, example: Any) -> torch.Tensor:
        asked.append(example)
        return original(model, example) * (float("nan") if len(asked) == 12 else 1.0)

    monkeypatch.setattr(stage, "_logits", logits)
    with pytest.raises(UserError, match="differ from the judged model's by up to nan"):
        merge(root)


def test_a_model_that_was_judged_by_drawn_answers_is_compared_and_shipped_as_such(tmp_path: Path) -> None:
    root = tuned_workspace(tmp_path, "llama", "lora")

    compared = merge(root, settings=GREEDY | {"temperature": 0.8, "top_p": 0.9})

    assert compared["same_greedy_texts"] == 1.0
    shipped = json.loads((root / "models/merged/generation_config.json").read_text(encoding="utf-8"))
    assert (shipped["do_sample"], shipped["temperature"], shipped["top_p"]) == (True, 0.8, 0.9)


def test_a_smaller_type_is_named_and_its_rounding_measured(tmp_path: Path) -> None:
    root = tuned_workspace(tmp_path, "llama", "lora")

    compared = merge(root, "bfloat16")

    assert compared["dtype"] == "bfloat16"
    assert 0 < compared["max_logit_difference"] < 1


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    root = tuned_workspace(tmp_path, "llama", "lora")
    origin = json.loads((root / "models/adapter/retune.json").read_text())
    origin["base"]["weights"]["model.safetensors"] = "0" * 64
    (root / "models/adapter/retune.json").write_text(json.dumps(origin))

    with pytest.raises(UserError, match="was trained on another base"):
        merge(root)


def test_a_missing_adapter_is_named(tmp_path: Path) -> None:
    root = workspace.make(tmp_path)

    with pytest.raises(UserError, match=r"retune\.json is missing\. Run `dvc repro train`"):
        models.load_tuned(load_pinned(root / "models/base"), root / "models/adapter", torch.float32)


NO_ROWS = pa.Table.from_pylist([], schema=SCHEMA)


def gate(metric: str, **bounds: float) -> Gate:
    return Gate(metric=metric, **bounds)


def test_gates_that_hold_are_written_down() -> None:
    outcome = stage.gates(
        REPORT, NO_ROWS, [gate("difference.exact_match", at_least=0.2), gate("tuned.rows", at_most=12)]
    )

    assert outcome["difference.exact_match"] == {"value": 0.25, "at_least": 0.2, "passed": True}
    assert outcome["tuned.rows"] == {"value": 12, "at_most": 12, "passed": True}


def test_two_gates_on_one_figure_are_both_written_down() -> None:
    outcome = stage.gates(REPORT, NO_ROWS, [gate("tuned.rows", at_least=2), gate("tuned.rows", at_most=20)])
    assert outcome == {"tuned.rows": {"value": 12, "at_least": 2, "at_most": 20, "passed": True}}
    with pytest.raises(ValidationError, match="no figure is at_least more than it is at_most"):
        gate("tuned.rows", at_least=2, at_most=1)


def test_a_gate_finds_a_category_with_points_in_its_name() -> None:
    report = {"by_category": {"v1": {"rows": 1}, "v1.2": {"rows": 2}, "v1.2.3": {"rows": 3}}}
    for name, rows in (("v1", 1), ("v1.2", 2), ("v1.2.3", 3)):
        wanted = [gate(f"by_category.{name}.rows", at_least=rows, at_most=rows)]
        assert stage.gates(report, NO_ROWS, wanted)[f"by_category.{name}.rows"]["value"] == rows


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ([gate("difference.exact_match", at_least=0.5)], "difference.exact_match is 0.25, 0.25 below 0.5"),
        ([gate("difference.bits_per_byte", at_most=-1.0)], "difference.bits_per_byte is -0.5, 0.5 above -1"),
        ([gate("tuned.rows", at_least=20), gate("tuned.rows", at_most=3)], "8 below 20; tuned.rows is 12, 9 above 3"),
        ([gate("difference.bleu", at_least=0.0)], "merge.gates names difference.bleu"),
        ([gate("signature.bleu", at_least=0.0)], "does not hold as a number"),
    ],
)
def test_a_failing_gate_stops_the_merge_and_says_by_how_much(wanted: list[Gate], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence.replace(".", r"\.")):
        stage.gates(REPORT, NO_ROWS, wanted)


def test_the_columns_that_merge_reads_are_those_that_evaluate_writes() -> None:
    """The contract between the two, in the one place where a rename would break it silently."""
    assert stage.PREDICTIONS.parent == evaluate_stage.PREDICTIONS
    assert stage.GENERATION.parent == evaluate_stage.PREDICTIONS
    assert stage.PROMPTS == evaluate_stage.PROMPTS


def test_a_failing_gate_names_the_rows() -> None:
    lines = [
        {"id": f"r{place}", "category": "refund", "base_exact_match": base, "tuned_exact_match": tuned}
        for place, (base, tuned) in enumerate([(1.0, 1.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
    ]
    with pytest.raises(UserError, match=r"is 0\.25, 0\.25 below 0\.5 \(rows: r2 \(refund\), r1 \(refund\)\)\."):
        stage.gates(REPORT, pa.Table.from_pylist(lines), [gate("difference.exact_match", at_least=0.5)])
