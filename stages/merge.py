"""Fold the tuned weights into the base, prove that nothing changed on the way, and ship only what passes the gates.

Reads   models/base/, models/adapter/, data/prompts/ (test rows, template), data/predictions/, reports/eval.json
Writes  models/merged/ : safetensors, tokenizer, chat template; plain `AutoModelForCausalLM.from_pretrained` loads it
        reports/merge.json
"""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from tqdm import tqdm

from stages.lib import artifacts, full_memory, runtime, worst_rows
from stages.lib.ending import Ending, read_ending
from stages.lib.errors import UserError, run, warn
from stages.lib.params import load
from stages.lib.pinned import BASE, Pinned, load_pinned
from stages.lib.plural import counted
from stages.lib.prompts import Segment
from stages.lib.statistics import FEWEST
from stages.lib.tokens import Example, SegmentTokenizer, load_tokenizer
from stages.params.merge import Gate, MergeParams

if TYPE_CHECKING:
    import torch

ADAPTER = Path("models/adapter")
PROMPTS = Path("data/prompts")
PREDICTIONS = Path("data/predictions/predictions.parquet")
GENERATION = Path("data/predictions/generation.json")
EVAL = Path("reports/eval.json")
MERGED = Path("models/merged")
REPORT = Path("reports/merge.json")

COMPARED = 16  # test rows whose logits and greedy answers are compared
# How far folding an update into rounded weights may move a logit: it grows with the step of the type.
TOLERANCE = {"float32": 1e-2, "float16": 0.25, "bfloat16": 1.0}
ALIKE = 0.9  # share of the same greedy answers, below which a warning is due


@dataclass(frozen=True)
class Judged:
    """One test row, and what the tuned model answered when it was judged."""

    example: Example
    answer: str


def gates(report: Mapping[str, Any], predictions: pa.Table, wanted: Sequence[Gate]) -> dict[str, Any]:
    """Hold every gate against reports/eval.json.

    Returns:
        By metric: its value, and the bounds that it kept.

    Raises:
        UserError: naming each gate that failed, by how much, and on which rows of the predictions. A model that got
            worse is not shipped by accident.
    """
    outcome: dict[str, Any] = {}
    failures = []
    for gate in wanted:
        value = _figure(report, gate.metric)
        bounds = {name: bound for name in ("at_least", "at_most") if (bound := getattr(gate, name)) is not None}
        outcome[gate.metric] = outcome.get(gate.metric, {}) | {"value": value, **bounds, "passed": True}
        if "at_least" in bounds and value < bounds["at_least"]:
            wrong = f"{gate.metric} is {value:g}, {bounds['at_least'] - value:g} below {bounds['at_least']:g}"
        elif "at_most" in bounds and value > bounds["at_most"]:
            wrong = f"{gate.metric} is {value:g}, {value - bounds['at_most']:g} above {bounds['at_most']:g}"
        else:
            continue
        rows = worst_rows.in_words(worst_rows.worst_rows(predictions.to_pylist(), gate.metric))
        failures.append(f"{wrong} ({rows})" if rows else wrong)
    if failures:
        raise UserError(
            f"the model was not merged, because {'; '.join(failures)}. The gates stand in params.yaml: merge.gates, "
            f"the figures in {EVAL}, the rows in {PREDICTIONS.with_suffix('.jsonl')}. Improve the model, or change the "
            "gate if it asks too much."
        )
    return outcome


def _figure(report: Mapping[str, Any], metric: str) -> float:
    value = _at(report, metric)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(
            f"params.yaml: merge.gates names {metric}, which {EVAL} does not hold as a number. Either no figure has "
            "that name (one is difference.exact_match), or it is not defined on these test rows: infinite, or an "
            f"interval of fewer than {FEWEST} groups of like rows. Then raise split.test, or take the gate out."
        )
    return value


def _at(report: Any, path: str) -> Any:
    """What stands at a path of keys; a key, such as a category, may hold points itself."""
    if not isinstance(report, Mapping):
        return None
    if path in report:
        return report[path]
    inner = (_at(report[key], path.removeprefix(f"{key}.")) for key in report if path.startswith(f"{key}."))
    return next((value for value in inner if value is not None), None)


def merge(
    base: Path,
    adapter: Path,
    rows: Sequence[Judged],
    ending: Ending,
    out: Path,
    dtype: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the merged model into `out`, load it again as any program would, and compare it with the judged model.

    `settings` say how its answers were written when it was judged (data/predictions/generation.json).

    Returns:
        The type of the weights, the largest difference of a logit, and the share of `rows` with the same answer.

    Raises:
        UserError: when the merged model does not compute what the judged one did.
    """
    import torch

    from stages.lib import models

    pinned = load_pinned(base)
    kind = dtype if dtype != "auto" else pinned.dtype if pinned.dtype in TOLERANCE else "float32"
    tuned = models.load_tuned(pinned, adapter, getattr(torch, kind), base=base)
    expected = [_logits(tuned, row.example) for row in rows]
    _write(tuned, pinned, ending, base, adapter, out, settings)
    del tuned
    gc.collect()  # one model in memory at a time
    shipped = models.load_shipped(out)
    moved = [
        float((_logits(shipped, row.example) - before).abs().max()) for row, before in zip(rows, expected, strict=True)
    ]
    if worst := [one for one in moved if not one <= TOLERANCE[kind]]:  # NaN is not, either
        raise UserError(
            f"the merged model's logits differ from the judged model's by up to {max(worst):.3g}, more than the "
            f"{TOLERANCE[kind]:g} that rounding to {kind} explains, so it was not kept. Set params.yaml: merge.dtype "
            "to float32; if that fails too, please report a bug."
        )
    return {
        "dtype": kind,
        "compared_rows": len(rows),
        "max_logit_difference": round(max(moved), 6),
        "same_greedy_texts": _same_texts(shipped, rows, ending, settings),
    }


def _logits(model: Any, example: Example) -> "torch.Tensor":
    """(tokens of the completion, vocabulary) in float32; a prompt's would fill the memory."""
    import torch

    with torch.inference_mode():
        ids = torch.tensor([example.ids], device=model.device)
        return model(input_ids=ids, logits_to_keep=len(example.completion) + 1).logits[0].float().cpu()


def _write(
    tuned: Any, pinned: Pinned, ending: Ending, base: Path, adapter: Path, out: Path, settings: Mapping[str, Any]
) -> None:
    """Fold and save, with what a server needs: chat template, and every token at which an answer stops."""
    from transformers import GenerationConfig

    from stages.lib import models

    token = load_tokenizer(base).token_id
    model = tuned.merge_and_unload() if hasattr(tuned, "merge_and_unload") else tuned
    drawn = {name: settings[name] for name in ("temperature", "top_p")} if settings["temperature"] else {}
    model.generation_config = GenerationConfig(  # as it was judged
        do_sample=bool(drawn),
        **drawn,
        bos_token_id=token(pinned.bos),
        eos_token_id=list(ending.stops.ids) or None,
        pad_token_id=token(pinned.pad or pinned.eos),
    )
    model.save_pretrained(out)
    models.save_tokenizer(base, (adapter / "chat_template.jinja").read_text(encoding="utf-8"), out)


def _same_texts(model: Any, rows: Sequence[Judged], ending: Ending, settings: Mapping[str, Any]) -> float:
    """Share of rows that the merged model answers letter by letter as the judged one did."""
    from transformers import GenerationConfig

    from stages.lib.generation import Answer, Sampling, generate
    from stages.lib.memory import is_out

    model.generation_config = GenerationConfig()  # its own settings would be filled in where ours say nothing
    prompts = [row.example.prompt for row in rows]
    sampling = Sampling.of(settings["temperature"], settings["top_p"], settings["seed"])

    def answer(batch_size: int) -> list[Answer]:
        with tqdm(total=len(rows), desc="merge: compare", unit="row", disable=None) as bar:
            return generate(
                model,
                prompts,
                ending.stops,
                ending.decode,
                batch_size,
                settings["max_new_tokens"],
                sampling,
                done=bar.update,
            )

    try:
        answers = answer(len(rows))
    except Exception as error:
        if not is_out(error):
            raise
        answers = answer(1)  # who judged in small batches can merge, too
    same = sum(ending.without_lead(one.text) == row.answer for one, row in zip(answers, rows, strict=True))
    return round(same / len(rows), 4)


def read_judged(prompts: Path, predictions: pa.Table, tokenizer: SegmentTokenizer) -> list[Judged]:
    """The first rows that evaluate judged, with what the tuned model answered."""
    judged = predictions.slice(0, COMPARED).to_pylist()
    rows = artifacts.read_parquet(prompts / "test.parquet", made_by="format").select(["id", "segments"]).to_pylist()
    segments = {row["id"]: [Segment(**one) for one in row["segments"]] for row in rows}
    examples = tokenizer.encode([segments[one["id"]] for one in judged])
    return [Judged(example, one["tuned_answer"]) for example, one in zip(examples, judged, strict=True)]


def main() -> None:
    """Run the stage."""
    params = load(MergeParams)
    predictions = artifacts.read_parquet(PREDICTIONS, made_by="evaluate")
    settings = artifacts.read_json(GENERATION, made_by="evaluate")
    outcome = gates(artifacts.read_json(EVAL, made_by="evaluate"), predictions, params.gates)
    pinned, tokenizer = load_pinned(BASE), load_tokenizer(BASE)
    ending = read_ending(PROMPTS / "template.json", pinned, tokenizer)
    rows = read_judged(PROMPTS, predictions, tokenizer)
    with runtime.measured("merge"), artifacts.replacing(MERGED) as out, full_memory.explained(1):
        compared = merge(BASE, ADAPTER, rows, ending, out, params.dtype, settings)
    artifacts.write_json(REPORT, compared | {"gates": outcome})
    if compared["same_greedy_texts"] < ALIKE:
        warn(
            f"only {compared['same_greedy_texts']:.0%} of {len(rows)} answers of the merged model are those that were "
            f"judged: {compared['dtype']} rounds. Set params.yaml: merge.dtype to float32 to ship what was judged."
        )
    passed = f"{counted(len(params.gates), 'gate')} passed" if params.gates else "no gate is set"
    print(
        f"merge: {passed} · logits moved by at most {compared['max_logit_difference']:g} · "
        f"{compared['same_greedy_texts']:.0%} of {len(rows)} answers the same → {MERGED}"
    )


if __name__ == "__main__":
    run(main)
