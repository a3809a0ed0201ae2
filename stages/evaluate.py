"""Judge the base and the tuned model side by side, on the same held-out rows.

Reads   data/prompts/{train,validation,test}.parquet, data/prompts/template.json, data/safety/, models/base/,
        models/adapter/
Writes  data/predictions/predictions.parquet, data/predictions/predictions.jsonl, data/predictions/losses.parquet,
        data/predictions/safety.jsonl, data/predictions/generation.json, reports/eval.json, reports/eval_by_category.csv
"""

import csv
import gc
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash
from tqdm import tqdm

from stages.lib import artifacts, classifier, experiments, losses, probes, runtime, safety, text_metrics
from stages.lib.constraints import Constraints, kept, kept_loosely
from stages.lib.copies import copied
from stages.lib.ending import Ending, read_ending
from stages.lib.errors import UserError, run, warn
from stages.lib.figures import MODELS, SCHEMA, calibration, columns, figures
from stages.lib.headline import headline
from stages.lib.params import load, load_seed
from stages.lib.pinned import BASE, Pinned, load_pinned
from stages.lib.probes import Probe
from stages.lib.prompts import Segment
from stages.lib.rates import wilson
from stages.lib.slices import FEW, slices
from stages.lib.statistics import Columns, interval, resampled_totals, totals
from stages.lib.tokens import Example, SegmentTokenizer, load_tokenizer
from stages.params.evaluate import EvaluateParams, SafetyParams

if TYPE_CHECKING:
    from stages.lib.generation import Answer  # needs torch

PROMPTS = Path("data/prompts")
SAFETY = Path("data/safety")
ADAPTER = Path("models/adapter")
PREDICTIONS = Path("data/predictions")
REPORT = Path("reports/eval.json")
BY_CATEGORY = Path("reports/eval_by_category.csv")

CATEGORY_FIGURES = ("exact_match", "rougeL", "bits_per_byte")
OWN = ("answer", "finish", "tokens", "nll", "text_nll", "calibration", "broken", "broken_loosely")
RATES = {"exact_match": "rows", "prompt_strict": "constrained", "prompt_loose": "constrained"}  # of what


@dataclass(frozen=True)
class Row:
    """One conversation; a model is judged by its last answer."""

    id: str
    category: str
    group: str
    prompt: str
    reference: str
    constraints: Constraints  # on an answer
    example: Example
    text_tokens: int  # of the completion, without what ends it
    text_bytes: int  # UTF-8 bytes of these


@dataclass(frozen=True)
class Questions:
    """What both models are asked."""

    rows: list[Row]  # test rows, foreseen and answered
    known: dict[str, list[Row]]  # rows that training has seen, by split: foreseen only
    left_out: dict[str, int]  # test rows that are not judged, by reason
    probes: list[Probe]  # of safety: answered only
    probe_ids: list[list[int]]  # their prompts, as tokens


@dataclass(frozen=True)
class Judged:
    """What one model did with a row."""

    answer: str
    finish: str  # stop | length
    tokens: int
    nll: float  # nats over the whole completion
    text_nll: float  # nats without the end of it
    scores: Mapping[str, float]  # of the answer
    broken: list[str]  # constraints that it does not keep, by kind
    broken_loosely: list[str]  # and of these, those that it does not keep loosely either
    calibration: Sequence[float]  # as `figures.calibration` has it


@dataclass(frozen=True)
class Said:
    """What one model did with all that it was asked."""

    rows: list[Judged]
    known: dict[str, list[float]]  # nats over the whole completion
    probes: list["Answer"]


@dataclass(frozen=True)
class Evaluation:
    """What both models did, and what follows."""

    questions: Questions
    base: Said
    tuned: Said
    copied: tuple[list[bool], list[bool]]  # of each model, whether an answer repeats training data
    device: str
    precision: str

    def pairs(self) -> Iterator[tuple[Row, Judged, Judged]]:
        """Row by row: what was asked, and what each model did."""
        return zip(self.questions.rows, self.base.rows, self.tuned.rows, strict=True)


def evaluate(prompts: Path, harm: Path, base: Path, adapter: Path, params: EvaluateParams, seed: int) -> Evaluation:
    """Let both models foresee and answer the test rows of `prompts`, and answer the safety prompts of `harm`.

    Raises:
        UserError: when there is nothing to judge, a model is missing or not the pinned one, or memory runs out.
    """
    from stages.lib import models

    pinned = load_pinned(base)
    tokenizer = load_tokenizer(base)
    ending = read_ending(prompts / "template.json", pinned, tokenizer)
    questions = read_questions(prompts, harm, pinned, tokenizer, ending, params, seed)
    dtype = models.dtype_for(params.precision)
    # The tuned model first: a missing adapter shows at once, and not after the base has been judged.
    tuned = ask(questions, lambda: models.load_tuned(pinned, adapter, dtype, base=base), ending, params, seed, "tuned")
    plain = ask(questions, lambda: models.load_base(pinned, dtype, base=base), ending, params, seed, "base")
    training = list(_trained_texts(prompts / "train.parquet"))
    asked = [row.prompt for row in questions.rows]
    repeats = [copied([one.answer for one in said.rows], asked, training) for said in (plain, tuned)]
    precision = str(dtype).removeprefix("torch.")
    return Evaluation(questions, plain, tuned, (repeats[0], repeats[1]), str(models.device()), precision)


def read_questions(
    prompts: Path,
    harm: Path,
    pinned: Pinned,
    tokenizer: SegmentTokenizer,
    ending: Ending,
    params: EvaluateParams,
    seed: int,
) -> Questions:
    """The test rows that are judged, the rows of other splits whose loss is set beside theirs, and safety prompts."""
    context = pinned.context
    test = artifacts.read_parquet(prompts / "test.parquet", made_by="format").to_pylist()
    if not test:
        raise UserError(
            f"{prompts}/test.parquet holds no rows to judge. Raise split.test in params.yaml, or add data to data/raw/."
        )
    chosen = _drawn(test, params.rows, seed)
    rows = _that_fit(chosen, tokenizer, ending, context, params.max_new_tokens)
    if not rows:
        raise UserError(
            f"{prompts}/test.parquet: none of the {len(chosen):,} rows leaves room for an answer of "
            f"{params.max_new_tokens} tokens in the {context:,} that the model reads. Lower evaluate.max_new_tokens in "
            "params.yaml, or shorten the data."
        )
    known = {}
    for split in ("train", "validation"):
        table = artifacts.read_parquet(prompts / f"{split}.parquet", made_by="format").to_pylist()
        known[split] = _that_fit(_drawn(table, params.known_rows, seed), tokenizer, ending, context, 0)
    asked = probes.read(harm) if params.safety.ask else []
    ids = probes.prompts(asked, prompts / "template.json", pinned, tokenizer, params.safety.max_new_tokens)
    left_out = {"limit": len(test) - len(chosen), "too_long": len(chosen) - len(rows)}
    return Questions(rows, known, left_out, asked, ids)


def _drawn(table: list[dict[str, Any]], limit: int | None, seed: int) -> list[dict[str, Any]]:
    """At most `limit` rows, in the order of the table, drawn by a hash of seed and id.

    A row added to the data moves no other in or out but the one whose place it takes.
    """
    by_hash = sorted(table, key=lambda row: (xxhash.xxh3_64_intdigest(f"{seed}:{row['id']}".encode()), row["id"]))
    drawn = {row["id"] for row in by_hash[:limit]}
    return [row for row in table if row["id"] in drawn]


def _that_fit(
    table: list[dict[str, Any]], tokenizer: SegmentTokenizer, ending: Ending, context: int, new_tokens: int
) -> list[Row]:
    """Rows that the model can read, with an answer of so many tokens."""
    examples = tokenizer.encode([[Segment(**one) for one in row["segments"]] for row in table])
    return [
        _row(one, example, ending)
        for one, example in zip(table, examples, strict=True)
        if len(example.prompt) + max(len(example.completion), new_tokens) <= context
    ]


def _trained_texts(path: Path) -> Iterator[str]:
    """Every answer that training had the model learn."""
    for segments in artifacts.read_parquet(path, made_by="format")["segments"].to_pylist():
        yield from (one["text"] for one in segments if one["trained"])


def _row(row: Mapping[str, Any], example: Example, ending: Ending) -> Row:
    text = ending.without_end(example.completion)
    return Row(
        id=row["id"],
        category=row["category"],
        group=row["group"],
        prompt=row["prompt"],
        reference=row["reference"],
        constraints=json.loads(row["constraints"] or "{}"),
        example=example,
        text_tokens=len(text),
        text_bytes=len(ending.decode(text).encode()),
    )


def ask(
    questions: Questions,
    load_model: Callable[[], Any],
    ending: Ending,
    params: EvaluateParams,
    seed: int,
    name: str,
) -> Said:
    """Ask one model everything. It is loaded here and gone afterwards: memory holds one at a time."""
    model = load_model()
    count = len(questions.rows) + sum(map(len, questions.known.values())) + len(questions.probes)
    with (
        _memory_errors_in_words(params),
        tqdm(total=count, desc=f"evaluate: {name}", unit="row", disable=None) as bar,
    ):
        rows = judge(questions.rows, model, ending, params, seed, bar.update)
        known = {
            split: loss_of(members, model, params.batch_size, bar.update) for split, members in questions.known.items()
        }
        answers = answer(questions.probe_ids, model, ending, params, seed, bar.update)
    del model
    gc.collect()
    return Said(rows, known, answers)


def judge(
    rows: Sequence[Row], model: Any, ending: Ending, params: EvaluateParams, seed: int, done: Callable[[int], Any]
) -> list[Judged]:
    """Let a model foresee and answer every row; `done` is told how many at a time."""
    from stages.lib import prefill
    from stages.lib.generation import Sampling, write_on
    from stages.lib.scoring import foresee

    sampling = Sampling.of(params.temperature, params.top_p, seed)
    judged: dict[int, Judged] = {}
    for places in prefill.batches([len(row.example.prompt) for row in rows], params.batch_size):
        batch = [rows[place] for place in places]
        read = prefill.read(model, [row.example.prompt for row in batch])
        foreseen = foresee(model, read, [row.example.completion for row in batch])
        answers = write_on(model, read, ending.stops, ending.decode, params.max_new_tokens, sampling)
        for place, row, held, answer in zip(places, batch, foreseen, answers, strict=True):
            text = ending.without_lead(answer.text)
            judged[place] = Judged(
                answer=text,
                finish=answer.finish,
                tokens=answer.tokens,
                nll=math.fsum(held.nats),
                text_nll=math.fsum(held.nats[: row.text_tokens]),
                scores=_scores(text, row.reference),
                broken=_broken(kept(text, row.constraints)),
                broken_loosely=_broken(kept_loosely(text, row.constraints)),
                calibration=calibration(held.confidence, held.hits),
            )
        done(len(batch))
    return [judged[place] for place in range(len(rows))]


def loss_of(rows: Sequence[Row], model: Any, batch_size: int, done: Callable[[int], Any]) -> list[float]:
    """Nats over the completion of each row."""
    from stages.lib import prefill
    from stages.lib.scoring import foresee

    found: dict[int, float] = {}
    for places in prefill.batches([len(row.example.prompt) for row in rows], batch_size):
        batch = [rows[place].example for place in places]
        foreseen = foresee(model, prefill.read(model, [one.prompt for one in batch]), [one.completion for one in batch])
        found |= {place: math.fsum(held.nats) for place, held in zip(places, foreseen, strict=True)}
        done(len(batch))
    return [found[place] for place in range(len(rows))]


def answer(
    prompts: Sequence[Sequence[int]],
    model: Any,
    ending: Ending,
    params: EvaluateParams,
    seed: int,
    done: Callable[[int], Any],
) -> list["Answer"]:
    """Let a model answer safety prompts."""
    from stages.lib.generation import Sampling, generate

    sampling = Sampling.of(params.temperature, params.top_p, seed)
    written = generate(
        model, prompts, ending.stops, ending.decode, params.batch_size, params.safety.max_new_tokens, sampling, done
    )
    return [one._replace(text=ending.without_lead(one.text)) for one in written]


def _scores(answer: str, reference: str) -> dict[str, float]:
    """What a row scores by itself."""
    return {
        "exact_match": text_metrics.exact_match(answer, reference),
        **text_metrics.rouge(answer, reference)._asdict(),
        "chrf": float(text_metrics.chrf.score(text_metrics.chrf.counts([answer], [reference]))[0]),
    }


def _broken(kept: Mapping[str, bool]) -> list[str]:
    return sorted(kind for kind, is_kept in kept.items() if not is_kept)


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
    for place, (row, *judged) in enumerate(evaluation.pairs()):
        line = {name: getattr(row, name) for name in ("id", "category", "group", "prompt", "reference")}
        line |= {"prompt_hash": xxhash.xxh3_128_hexdigest(row.prompt.encode()), "constraints": sorted(row.constraints)}
        line |= {"tokens": len(row.example.completion), "bytes": row.text_bytes}
        for model, one, copies in zip(MODELS, judged, evaluation.copied, strict=True):
            own = {name: getattr(one, name) for name in OWN} | dict(one.scores) | {"copied": copies[place]}
            line |= {f"{model}_{name}": value for name, value in own.items()}
        lines.append(line)
    return pa.Table.from_pylist(lines, schema=SCHEMA)


def known_losses(evaluation: Evaluation) -> pa.Table:
    """Loss of every row that was foreseen, by split: data/predictions/losses.parquet."""
    told = [("test", row, base.nll, tuned.nll) for row, base, tuned in evaluation.pairs()]
    for split, rows in evaluation.questions.known.items():
        told += zip([split] * len(rows), rows, evaluation.base.known[split], evaluation.tuned.known[split], strict=True)
    lines = [
        {"split": split, "id": row.id, "group": row.group, "tokens": len(row.example.completion)}
        | {f"{model}_nll": nats for model, nats in zip(MODELS, both, strict=True)}
        for split, row, *both in told
    ]
    return pa.Table.from_pylist(lines, schema=losses.SCHEMA)


def safety_lines(evaluation: Evaluation, params: SafetyParams) -> list[dict[str, Any]]:
    """One line a safety prompt: data/predictions/safety.jsonl."""
    is_unsafe = None
    if params.classifier is not None:
        judge = classifier.find(Path(params.classifier), params.labels, "params.yaml: evaluate.safety")

        def is_unsafe(text: str) -> bool:
            return bool(judge.calls([text], params.labels, params.threshold))

    answers = {"base": evaluation.base.probes, "tuned": evaluation.tuned.probes}
    return safety.lines(evaluation.questions.probes, answers, is_unsafe)


def report(
    table: pa.Table,
    found: Columns,
    known: pa.Table,
    probed: Sequence[Mapping[str, Any]],
    left_out: Mapping[str, int],
    params: EvaluateParams,
    seed: int,
) -> dict[str, Any]:
    """The content of reports/eval.json, out of the predictions. A figure that is not defined on these rows is left out.

    Args:
        table: the predictions.
        found: `columns` of it, for both models.
        known: as `losses.SCHEMA`.
        probed: as `safety.lines`.
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
    first = headline(found["exact_match"].flat)
    content = {
        **models,
        "difference": {name: float(value[1] - value[0]) for name, value in values.items()},
        "interval": _intervals(found, table["group"].to_pylist(), params.resamples, seed),
        "rate_interval": {name: _rate_intervals(found, place) for place, name in enumerate(MODELS)},
        "by_category": {
            line["category"]: {
                "rows": line["rows"],
                "few_rows": line["rows"] < FEW,
                **{f"{model}_{first}": line[f"{model}_{first}"] for model in MODELS if f"{model}_{first}" in line},
                **({"p": line["p"]} if "p" in line else {}),
            }
            for line in by_category(table, found, params, seed)
        },
        "loss": losses.losses(known, params.resamples, seed),
        **({"safety": safety.figures(probed, params.resamples, seed)} if probed else {}),
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


def _rate_intervals(found: Columns, place: int) -> dict[str, dict[str, float]]:
    """95 % intervals of what one model does by itself, where that is a share of rows."""
    sums = totals(found)
    bounds = {
        name: wilson(float(sums[name][place]), float(sums[whole][place]))
        for name, whole in RATES.items()
        if whole in sums and sums[whole][place]
    }
    return {name: {"low": low, "high": high} for name, (low, high) in bounds.items()}


def by_category(table: pa.Table, found: Columns, params: EvaluateParams, seed: int) -> list[dict[str, Any]]:
    """The lines of reports/eval_by_category.csv."""
    names = table["category"].to_pylist()
    first = headline(found["exact_match"].flat)
    lines = []
    for one in slices(found, table["group"].to_pylist(), names, first, params.resamples, seed):
        members = np.array(names) == one.name
        part = {name: column[members] for name, column in found.items()}
        values = figures(totals(part))
        line: dict[str, Any] = {"category": one.name, "rows": one.rows}
        for figure in dict.fromkeys((*CATEGORY_FIGURES, first)):
            line |= {f"{model}_{figure}": float(values[figure][place]) for place, model in enumerate(MODELS)}
        for place, model in enumerate(MODELS):
            bounds = _rate_intervals(part, place)["exact_match"]
            line |= {f"{model}_exact_match_{side}": bound for side, bound in bounds.items()}
        low, high = one.bounds or (math.nan, math.nan)
        line |= {"compared_by": first, "low": low, "high": high, "p": math.nan if one.p is None else one.p}
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
    figures = [f"{model}_{figure}" for figure in CATEGORY_FIGURES for model in MODELS]
    names = dict.fromkeys(["category", "rows", *figures, *(name for line in lines for name in line)])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
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
    return f"evaluate: {' · '.join(parts)} → {PREDICTIONS}/"


def main() -> None:
    """Run the stage."""
    params, seed = load(EvaluateParams), load_seed()
    if params.safety.ask:
        experiments.require_all_files(SAFETY)
    with runtime.measured("evaluate") as timings, artifacts.replacing(PREDICTIONS) as out:
        evaluation = evaluate(PROMPTS, SAFETY, BASE, ADAPTER, params, seed)
        table, known = predictions(evaluation), known_losses(evaluation)
        lines = [_rounded(line) for line in table.to_pylist()]
        artifacts.write_parquet(out / "predictions.parquet", pa.Table.from_pylist(lines, schema=SCHEMA))
        artifacts.write_jsonl(out / "predictions.jsonl", map(_for_people, lines))
        artifacts.write_parquet(out / "losses.parquet", known)
        probed = safety_lines(evaluation, params.safety)
        artifacts.write_jsonl(out / "safety.jsonl", probed)
        settings = {name: getattr(params, name) for name in ("max_new_tokens", "temperature", "top_p")}
        artifacts.write_json(out / "generation.json", settings | {"seed": seed})
        found = columns([(table, name) for name in MODELS])
        left_out = evaluation.questions.left_out
        content = report(table, found, known, probed, left_out, params, seed)
        timings |= {"rows": table.num_rows, "device": evaluation.device, "precision": evaluation.precision}
    artifacts.write_json(REPORT, content)
    artifacts.write_text(BY_CATEGORY, _csv(by_category(table, found, params, seed)))
    too_long = left_out["too_long"]
    if too_long:
        warn(f"{too_long:,} test rows are not judged: with an answer they are longer than the model can read.")
    print(summary(content))


if __name__ == "__main__":
    run(main)
