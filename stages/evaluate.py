"""Judge the base and the tuned model side by side, on the same held-out rows.

Reads   data/prompts/test.parquet, data/prompts/template.json, models/base/, models/adapter/
Writes  data/predictions/predictions.parquet, data/predictions/predictions.jsonl,
        reports/eval.json, reports/eval_by_category.csv
"""

import csv
import gc
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from tqdm import tqdm

from stages.lib import artifacts, runtime, text_metrics
from stages.lib.ending import Ending, read_ending
from stages.lib.errors import UserError, run, warn
from stages.lib.figures import MODELS, PREDICTIONS, calibration, columns, figures
from stages.lib.params import load, load_seed
from stages.lib.pinned import BASE, load_pinned
from stages.lib.prompts import Segment
from stages.lib.statistics import Columns, interval, resampled_totals, totals
from stages.lib.tokens import Example, SegmentTokenizer, load_tokenizer
from stages.params.evaluate import EvaluateParams

PROMPTS = Path("data/prompts")
ADAPTER = Path("models/adapter")
FOLDER = Path("data/predictions")
REPORT = Path("reports/eval.json")
BY_CATEGORY = Path("reports/eval_by_category.csv")

CATEGORY_FIGURES = ("exact_match", "rougeL", "bits_per_byte")


@dataclass(frozen=True)
class Row:
    """One held-out conversation; judged by its last answer."""

    id: str
    category: str
    group: str
    prompt: str
    reference: str
    example: Example
    text_tokens: int  # of the completion, without what ends it
    text_bytes: int  # UTF-8 bytes of these


@dataclass(frozen=True)
class Judged:
    """What one model did with a row."""

    answer: str
    finish: str  # stop | length
    tokens: int
    nll: float  # nats over the whole completion
    text_nll: float  # nats without the end of it
    scores: Mapping[str, float]  # of the answer
    calibration: Sequence[float]  # as `figures.calibration` has it


@dataclass(frozen=True)
class Evaluation:
    """What both models did, and what follows."""

    rows: list[Row]
    base: list[Judged]
    tuned: list[Judged]
    left_out: dict[str, int]  # test rows that were not judged, by reason
    device: str
    precision: str

    def pairs(self) -> Iterator[tuple[Row, Judged, Judged]]:
        """Row by row: what was asked, and what each model did."""
        return zip(self.rows, self.base, self.tuned, strict=True)


def evaluate(prompts: Path, base: Path, adapter: Path, params: EvaluateParams, seed: int) -> Evaluation:
    """Let both models foresee and answer the test rows.

    Raises:
        UserError: when there is nothing to judge, a model is missing or not the pinned one, or memory runs out.
    """
    from stages.lib import models

    pinned = load_pinned(base)
    tokenizer = load_tokenizer(base)
    ending = read_ending(prompts / "template.json", pinned, tokenizer)
    rows, left_out = read_rows(prompts / "test.parquet", tokenizer, ending, pinned.context, params, seed)
    dtype = models.dtype_for(params.precision)
    # The tuned model first: a missing adapter shows at once, and not after the base has been judged.
    tuned = judge(rows, lambda: models.load_tuned(pinned, adapter, dtype, base=base), ending, params, "tuned")
    judged = judge(rows, lambda: models.load_base(pinned, dtype, base=base), ending, params, "base")
    return Evaluation(rows, judged, tuned, left_out, str(models.device()), str(dtype).removeprefix("torch."))


def read_rows(
    path: Path, tokenizer: SegmentTokenizer, ending: Ending, context: int, params: EvaluateParams, seed: int
) -> tuple[list[Row], dict[str, int]]:
    """The test rows that are judged, in the order of the file, and how many are not, by reason.

    `evaluate.rows` of them are drawn by a hash of seed and id: a row added to the data moves no other in or out but
    the one whose place it takes.
    """
    table = artifacts.read_parquet(path, made_by="format").to_pylist()
    if not table:
        raise UserError(f"{path} holds no rows to judge. Raise split.test in params.yaml, or add data to data/raw/.")
    by_hash = sorted(table, key=lambda row: (xxhash.xxh3_64_intdigest(f"{seed}:{row['id']}".encode()), row["id"]))
    drawn = {row["id"] for row in by_hash[: params.rows]}
    chosen = [row for row in table if row["id"] in drawn]
    examples = tokenizer.encode([[Segment(**one) for one in row["segments"]] for row in chosen])
    rows = [
        _row(one, example, ending)
        for one, example in zip(chosen, examples, strict=True)
        if len(example.prompt) + max(len(example.completion), params.max_new_tokens) <= context
    ]
    if not rows:
        raise UserError(
            f"{path}: none of the {len(chosen):,} rows leaves room for an answer of {params.max_new_tokens} tokens in "
            f"the {context:,} that the model reads. Lower evaluate.max_new_tokens in params.yaml, or shorten the data."
        )
    return rows, {"limit": len(table) - len(chosen), "too_long": len(chosen) - len(rows)}


def _row(row: Mapping[str, Any], example: Example, ending: Ending) -> Row:
    text = ending.without_end(example.completion)
    return Row(
        id=row["id"],
        category=row["category"],
        group=row["group"],
        prompt=row["prompt"],
        reference=row["reference"],
        example=example,
        text_tokens=len(text),
        text_bytes=len(ending.decode(text).encode()),
    )


def judge(
    rows: Sequence[Row], load_model: Callable[[], Any], ending: Ending, params: EvaluateParams, name: str
) -> list[Judged]:
    """Let one model foresee and answer every row. It is loaded here and gone afterwards: memory holds one at a time."""
    from stages.lib import prefill
    from stages.lib.generation import write_on
    from stages.lib.scoring import foresee

    model = load_model()
    judged: dict[int, Judged] = {}
    with (
        _memory_errors_in_words(params),
        tqdm(total=len(rows), desc=f"evaluate: {name}", unit="row", disable=None) as bar,
    ):
        for places in prefill.batches([len(row.example.prompt) for row in rows], params.batch_size):
            batch = [rows[place] for place in places]
            read = prefill.read(model, [row.example.prompt for row in batch])
            foreseen = foresee(model, read, [row.example.completion for row in batch])
            answers = write_on(model, read, ending.stops, ending.decode, params.max_new_tokens)
            for place, row, held, answer in zip(places, batch, foreseen, answers, strict=True):
                text = ending.without_lead(answer.text)
                judged[place] = Judged(
                    answer=text,
                    finish=answer.finish,
                    tokens=answer.tokens,
                    nll=math.fsum(held.nats),
                    text_nll=math.fsum(held.nats[: row.text_tokens]),
                    scores=_scores(text, row.reference),
                    calibration=calibration(held.confidence, held.hits),
                )
            bar.update(len(batch))
    del model
    gc.collect()
    return [judged[place] for place in range(len(rows))]


def _scores(answer: str, reference: str) -> dict[str, float]:
    """What a row scores by itself."""
    return {
        "exact_match": text_metrics.exact_match(answer, reference),
        **text_metrics.rouge(answer, reference)._asdict(),
        "chrf": float(text_metrics.chrf.score(text_metrics.chrf.counts([answer], [reference]))[0]),
    }


@contextmanager
def _memory_errors_in_words(params: EvaluateParams) -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"the device has too little memory for {params.batch_size} rows at once. Lower evaluate.batch_size in "
            "params.yaml; the answers stay the same but for rounding."
        ) from None


def predictions(evaluation: Evaluation) -> pa.Table:
    """One line a row: what was asked, what each model answered, and every score."""
    lines = []
    for row, *judged in evaluation.pairs():
        line = {name: getattr(row, name) for name in ("id", "category", "group", "prompt", "reference")}
        line |= {"tokens": len(row.example.completion), "bytes": row.text_bytes}
        for model, one in zip(MODELS, judged, strict=True):
            own = {
                name: getattr(one, name) for name in ("answer", "finish", "tokens", "nll", "text_nll", "calibration")
            }
            line |= {f"{model}_{name}": value for name, value in (own | dict(one.scores)).items()}
        lines.append(line)
    return pa.Table.from_pylist(lines, schema=PREDICTIONS)


def report(
    table: pa.Table, found: Columns, left_out: Mapping[str, int], params: EvaluateParams, seed: int
) -> dict[str, Any]:
    """The content of reports/eval.json, out of the predictions. A figure that is not defined on these rows is left out.

    Args:
        table: the predictions.
        found: `columns` of it, for both models.
        left_out: test rows that were not judged, by reason.
        params: of the stage.
        seed: of the resamples.
    """
    values = figures(totals(found))
    models = {
        name: {
            "rows": table.num_rows,
            "truncated_answers": table[f"{name}_finish"].to_pylist().count("length"),
            **{figure: float(value[place]) for figure, value in values.items()},
        }
        for place, name in enumerate(MODELS)
    }
    content = {
        **models,
        "difference": {name: float(value[1] - value[0]) for name, value in values.items()},
        "interval": _intervals(found, table["group"].to_pylist(), params.resamples, seed),
        "by_category": {
            line["category"]: {name: line[name] for name in ("rows", "base_exact_match", "tuned_exact_match")}
            for line in by_category(table, found)
        },
        "left_out": dict(left_out),
        "signature": {"bleu": text_metrics.bleu.signature, "chrf": text_metrics.chrf.signature},
    }
    return _rounded(artifacts.finite(content))


def _intervals(found: Columns, groups: Sequence[str], resamples: int, seed: int) -> dict[str, dict[str, float]]:
    """95 % intervals of the differences, tuned − base. One group is no sample to draw from."""
    if len(set(groups)) < 2:
        return {}
    drawn = figures(resampled_totals(found, groups, resamples, seed))
    bounds = {name: interval(value[:, 1] - value[:, 0]) for name, value in drawn.items()}
    return {name: {"low": bound[0], "high": bound[1]} for name, bound in bounds.items() if bound}


def by_category(table: pa.Table, found: Columns) -> list[dict[str, Any]]:
    """The lines of reports/eval_by_category.csv."""
    categories = np.array(table["category"].to_pylist())
    lines = []
    for category in sorted(set(categories.tolist())):
        members = categories == category
        values = figures(totals({name: column[members] for name, column in found.items()}))
        line: dict[str, Any] = {"category": category, "rows": int(members.sum())}
        for figure in CATEGORY_FIGURES:
            line |= {f"{model}_{figure}": float(values[figure][place]) for place, model in enumerate(MODELS)}
        lines.append(_rounded(artifacts.finite(line)))
    return lines


def _rounded(value: Any) -> Any:
    """Six significant digits: more than matters, and fewer than the noise of fp32 sums reaches."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _for_people(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of predictions without the thirty numbers of each calibration."""
    return {name: value for name, value in line.items() if not name.endswith("_calibration")}


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """Lines as CSV; a figure that is not defined is an empty cell."""
    names = ["category", "rows", *(f"{model}_{figure}" for figure in CATEGORY_FIGURES for model in MODELS)]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def summary(content: Mapping[str, Any]) -> str:
    """What came in, how it went, where it is."""
    shown = [("exact match", "exact_match", ".1%"), ("bits per byte", "bits_per_byte", ".3f"), ("chrF", "chrf", ".1f")]
    changes = [
        f"{words} {content['base'][name]:{form}} → {content['tuned'][name]:{form}}"
        for words, name, form in shown
        if name in content["difference"]
    ]
    cut = content["tuned"]["truncated_answers"]
    parts = [
        f"{content['tuned']['rows']:,} rows judged",
        *changes,
        *([f"{cut:,} tuned answers cut off"] if cut else []),
    ]
    return f"evaluate: {' · '.join(parts)} → {FOLDER}/"


def main() -> None:
    """Run the stage."""
    params, seed = load(EvaluateParams), load_seed()
    with runtime.measured("evaluate") as timings, artifacts.replacing(FOLDER) as out:
        evaluation = evaluate(PROMPTS, BASE, ADAPTER, params, seed)
        table = predictions(evaluation)
        lines = [_rounded(line) for line in table.to_pylist()]
        artifacts.write_parquet(out / "predictions.parquet", pa.Table.from_pylist(lines, schema=PREDICTIONS))
        artifacts.write_jsonl(out / "predictions.jsonl", map(_for_people, lines))
        found = columns([(table, name) for name in MODELS])
        content = report(table, found, evaluation.left_out, params, seed)
        timings |= {"rows": table.num_rows, "device": evaluation.device, "precision": evaluation.precision}
    artifacts.write_json(REPORT, content)
    artifacts.write_text(BY_CATEGORY, _csv(by_category(table, found)))
    too_long = evaluation.left_out["too_long"]
    if too_long:
        warn(f"{too_long:,} test rows are not judged: with an answer they are longer than the model can read.")
    print(summary(content))


if __name__ == "__main__":
    run(main)
