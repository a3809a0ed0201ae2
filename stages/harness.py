"""Does another judge find the same? `python -m stages.harness [--base] [--tasks NAME,…]` asks lm-evaluation-harness.

Reads   models/merged/, models/base/, data/prompts/ (test rows, template), data/predictions/predictions.parquet,
        reports/eval.json
Writes  reports/harness.json
"""

import argparse
import gc
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.lib import artifacts, full_memory, harness
from stages.lib.ending import Ending, read_ending
from stages.lib.errors import UserError, run, warn
from stages.lib.params import load
from stages.lib.pinned import BASE, load_pinned
from stages.lib.plural import counted
from stages.lib.prompts import Segment
from stages.lib.tokens import SegmentTokenizer, load_tokenizer
from stages.params.evaluate import EvaluateParams

PROMPTS = Path("data/prompts")
PREDICTIONS = Path("data/predictions/predictions.parquet")
EVAL = Path("reports/eval.json")
MERGED = Path("models/merged")
REPORT = Path("reports/harness.json")

FIGURES = ("exact_match", "bits_per_byte", "perplexity")
NO_HUB = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
NO_CODE = "HF_EVALUATE_OFFLINE"  # `evaluate` would fetch metrics as programs, and some published tasks ask it to


@dataclass(frozen=True)
class Judged:
    """The rows that evaluate judged, and what each model answered then."""

    rows: list[harness.Row]
    answers: Mapping[str, list[str]]  # by model


def read_judged(prompts: Path, predictions: Path, tokenizer: SegmentTokenizer, ending: Ending) -> Judged:
    """The rows of data/prompts that evaluate judged, in its order.

    Raises:
        UserError: when data/prompts has changed since.
    """
    table = artifacts.read_parquet(predictions, made_by="evaluate")
    test = artifacts.read_parquet(prompts / "test.parquet", made_by="format").to_pylist()
    known = {(row["id"], row["prompt"]): [Segment(**one) for one in row["segments"]] for row in test}
    asked = list(zip(table["id"].to_pylist(), table["prompt"].to_pylist(), strict=True))
    if any(key not in known for key in asked):
        raise UserError(f"{predictions} is of other rows than {prompts / 'test.parquet'}. Run `dvc repro evaluate`.")
    segments = [known[key] for key in asked]
    ends = [text for text, token in tokenizer.added_ids.items() if token in ending.stops.ids]
    rows = [
        harness.as_row(one, example, ends) for one, example in zip(segments, tokenizer.encode(segments), strict=True)
    ]
    return Judged(rows, {model: table[f"{model}_answer"].to_pylist() for model in ("base", "tuned")})


def compared(
    found: Mapping[str, Any], judged: Mapping[str, Any], answers: Sequence[str], ending: Ending
) -> dict[str, Any]:
    """One model's figures by lm_eval, each beside what evaluate found.

    Args:
        found: what lm_eval returned.
        judged: the model's part of reports/eval.json.
        answers: what evaluate had the model answer, in the order of the rows.
        ending: how an answer starts.
    """
    values = {name.partition(",")[0]: value for task in found["results"].values() for name, value in task.items()}
    samples = sorted(found["samples"][harness.ANSWERS], key=lambda sample: sample["doc_id"])
    texts = [ending.without_lead(sample["filtered_resps"][0]) for sample in samples]
    same = sum(one == other for one, other in zip(texts, answers, strict=True))
    figures = {name: {"lm_eval": float(values[name]), "retune": judged.get(name)} for name in FIGURES}
    return figures | {"same_answers": same / len(answers)}


def of_tasks(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures of published tasks, by task; the filter that answers went through is named where there was one."""
    return {
        task: {
            "version": found["versions"].get(task),
            **{
                name.removesuffix(",none").replace(",", " "): value
                for name, value in values.items()
                if isinstance(value, float)
            },
        }
        for task, values in found["results"].items()
    }


def report(
    models: Mapping[str, Any], rows: int, otherwise: int, tasks: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The content of reports/harness.json. A figure that is not defined is left out.

    Args:
        models: by model, what `compared` gave.
        rows: how many were judged.
        otherwise: rows that lm_eval cuts into other tokens.
        tasks: by model, what `of_tasks` gave.
    """
    content: dict[str, Any] = {"lm_eval": version("lm_eval"), "rows": rows, "other_tokens": otherwise, **models}
    if tasks:
        names = sorted({name for found in tasks.values() for name in found})
        content["tasks"] = {name: {model: found[name] for model, found in tasks.items()} for name in names}
    return _rounded(artifacts.finite(content))


def _rounded(value: Any) -> Any:
    """Six significant digits, as reports/eval.json has them."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def lines(content: Mapping[str, Any]) -> list[str]:
    """What is printed."""
    told = [f"harness: {counted(content['rows'], 'row')} judged by lm_eval {content['lm_eval']} → {REPORT}"]
    for model in ("base", "tuned"):
        if model not in content:
            continue
        own = content[model]
        pairs = [
            f"{name.replace('_', ' ')} {own[name]['lm_eval']:g} (Retune {own[name]['retune']:g})"
            for name in FIGURES
            if {"lm_eval", "retune"} <= own[name].keys()
        ]
        told.append(f"{model}: {' · '.join(pairs)} · {own['same_answers']:.1%} of the answers the same")
    for name, task in content.get("tasks", {}).items():
        for model in ("base", "tuned"):
            shown = [f"{figure} {value:g}" for figure, value in task.get(model, {}).items() if figure != "version"]
            if shown:
                told.append(f"{name}, {model}: {' · '.join(shown)}")
    return told


def ask(
    load_model: Callable[[], Any],
    folder: Path,
    judged: Judged,
    ending: Ending,
    params: EvaluateParams,
    published: harness.Published | None = None,
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """What lm_eval finds of one model, in our rows and in published tasks. It is loaded here and gone afterwards."""
    from stages.lib import models

    tokenizer = models.load_tokenizer(folder)
    with full_memory.explained(1):
        model = load_model()
    with full_memory.explained(params.batch_size):
        # A prompt holds its first token already where the template writes one.
        own = harness.wrap(model, tokenizer, params.batch_size, add_bos_token=False)
        found = harness.judge(own, harness.tasks(judged.rows, ending.stops, params.max_new_tokens))
        theirs = published.judge(harness.wrap(model, tokenizer, params.batch_size)) if published else None
    del model
    gc.collect()
    return found, theirs


def offline(names: Sequence[str]) -> dict[str, str]:
    """The environment in which nothing is fetched but the data of these published tasks."""
    return dict.fromkeys([NO_CODE] if names else [NO_CODE, *NO_HUB], "1")


def main() -> None:
    """Let lm_eval judge, compare, write, print."""
    parser = argparse.ArgumentParser(prog="python -m stages.harness", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", action="store_true", help="judge the pinned base, too")
    parser.add_argument(
        "--tasks", default="", metavar="NAME,…", help="tasks of lm_eval as well; their data are fetched"
    )
    arguments = parser.parse_args()
    harness.require()
    names = [name.strip() for name in arguments.tasks.split(",") if name.strip()]
    os.environ |= offline(names)  # before the libraries that heed it are imported
    from stages.lib import models

    models.hush()
    params, pinned, tokenizer = load(EvaluateParams), load_pinned(), load_tokenizer()
    ending = read_ending(PROMPTS / "template.json", pinned, tokenizer)
    judged = read_judged(PROMPTS, PREDICTIONS, tokenizer, ending)
    evaluated = artifacts.read_json(EVAL, made_by="evaluate")
    if evaluated["tuned"]["rows"] != len(judged.rows):
        raise UserError(
            f"{EVAL} is of {evaluated['tuned']['rows']:,} rows, {PREDICTIONS} of {len(judged.rows):,}: they are of two "
            "runs. Run `dvc checkout`, or `dvc repro evaluate`."
        )
    if not (MERGED / "config.json").is_file():
        raise UserError(f"{MERGED} is missing. Run `dvc repro merge` first.")
    published = harness.published(names) if names else None
    dtype = models.dtype_for(params.precision)

    def load_merged() -> Any:
        """As it ships, in the precision that evaluate judged in."""
        return models.load_shipped(MERGED).to(dtype)  # type: ignore[arg-type]  # transformers' stub of `to` lacks it

    loaders: dict[str, tuple[Path, Callable[[], Any]]] = {"tuned": (MERGED, load_merged)}
    if arguments.base:
        loaders["base"] = (BASE, lambda: models.load_base(pinned, dtype))
    found: dict[str, Any] = {}
    tasks: dict[str, Any] = {}
    for name, (folder, load_model) in loaders.items():
        ours, theirs = ask(load_model, folder, judged, ending, params, published)
        found[name] = compared(ours, evaluated[name], judged.answers[name], ending)
        if theirs:
            tasks[name] = of_tasks(theirs)
    otherwise = harness.cut_otherwise(models.load_tokenizer(MERGED), judged.rows)
    content = report(found, len(judged.rows), otherwise, tasks)
    artifacts.write_json(REPORT, content)
    if otherwise:
        warn(
            f"lm_eval reads {counted(otherwise, 'row')} as other tokens than Retune, to which a control token that "
            "somebody typed is text, and an answer has tokens of its own: figures may differ by that."
        )
    print("\n".join(lines(content)))


if __name__ == "__main__":
    run(main)
