"""Judge the base and the tuned model side by side, on the same held-out rows.

Reads   data/prompts/{train,validation,test}.parquet, data/prompts/template.json, data/packed/rejected.jsonl,
        data/safety/, models/base/, models/adapter/
Writes  data/predictions/predictions.parquet, data/predictions/predictions.jsonl, data/predictions/losses.parquet,
        data/predictions/safety.jsonl, data/predictions/generation.json, reports/eval.json,
        reports/eval_by_category.csv, reports/safety_refusals.csv
"""

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import xxhash
from tqdm import tqdm

from stages.lib import (
    artifacts,
    classifier,
    eval_report,
    exam,
    experiments,
    full_memory,
    losses,
    runtime,
    safety,
    text_metrics,
)
from stages.lib.constraints import kept, kept_loosely
from stages.lib.copies import copied
from stages.lib.ending import Ending, read_ending
from stages.lib.errors import run, warn
from stages.lib.exam import Questions, Row
from stages.lib.figures import MODELS, SCHEMA, calibration, columns
from stages.lib.params import load, load_seed
from stages.lib.pinned import BASE, load_pinned
from stages.lib.plural import agree, counted
from stages.lib.tokens import load_tokenizer
from stages.params.evaluate import EvaluateParams, SafetyParams

if TYPE_CHECKING:
    from stages.lib.generation import Answer  # needs torch

PROMPTS = Path("data/prompts")
SAFETY = Path("data/safety")
REJECTED = Path("data/packed/rejected.jsonl")
ADAPTER = Path("models/adapter")
PREDICTIONS = Path("data/predictions")
REPORT = Path("reports/eval.json")
BY_CATEGORY = Path("reports/eval_by_category.csv")
REFUSALS = Path("reports/safety_refusals.csv")

OWN = ("answer", "finish", "tokens", "nll", "text_nll", "calibration", "broken", "broken_loosely")


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


def evaluate(
    prompts: Path, rejected: Path, harm: Path, base: Path, adapter: Path, params: EvaluateParams, seed: int
) -> Evaluation:
    """Let both models foresee and answer the test rows of `prompts`, and answer the safety prompts of `harm`.

    `rejected` names the rows that were not trained on.

    Raises:
        UserError: when there is nothing to judge, a model is missing or not the pinned one, or memory runs out.
    """
    from stages.lib import models

    pinned = load_pinned(base)
    tokenizer = load_tokenizer(base)
    ending = read_ending(prompts / "template.json", pinned, tokenizer)
    dropped = exam.dropped_rows(rejected)
    questions = exam.read(prompts, dropped, harm, pinned, tokenizer, ending, params, seed)
    dtype = models.dtype_for(params.precision)
    # The tuned model first: a missing adapter shows at once, and not after the base has been judged.
    tuned = ask(questions, lambda: models.load_tuned(pinned, adapter, dtype, base=base), ending, params, seed, "tuned")
    plain = ask(questions, lambda: models.load_base(pinned, dtype, base=base), ending, params, seed, "base")
    training = list(exam.trained_texts(prompts, dropped))
    asked = [row.prompt for row in questions.rows]
    repeats = [copied([one.answer for one in said.rows], asked, training) for said in (plain, tuned)]
    precision = str(dtype).removeprefix("torch.")
    return Evaluation(questions, plain, tuned, (repeats[0], repeats[1]), str(models.device()), precision)


def ask(
    questions: Questions,
    load_model: Callable[[], Any],
    ending: Ending,
    params: EvaluateParams,
    seed: int,
    name: str,
) -> Said:
    """Ask one model everything. It is loaded here and gone afterwards: memory holds one at a time."""
    with full_memory.explained(1):
        model = load_model()
    count = len(questions.rows) + sum(map(len, questions.known.values())) + len(questions.probes)
    with (
        full_memory.explained(params.batch_size),
        tqdm(total=count, desc=f"evaluate: {name}", unit="row", disable=None) as bar,
    ):
        rows = judge(questions.rows, model, ending, params, seed, bar.update)
        known = {
            split: loss_of(members, model, params.batch_size, bar.update) for split, members in questions.known.items()
        }
        answers = answer_probes(questions.probe_ids, model, ending, params, seed, bar.update)
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


def answer_probes(
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


def predictions(evaluation: Evaluation) -> pa.Table:
    """One line a row: what was asked, what each model answered, and every score."""
    lines = []
    for place, (row, *judged) in enumerate(evaluation.pairs()):
        line = {name: getattr(row, name) for name in ("id", "category", "group", "question", "prompt", "reference")}
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


def safety_lines(evaluation: Evaluation, is_unsafe: Callable[[str], bool] | None) -> list[dict[str, Any]]:
    """One line a safety prompt: data/predictions/safety.jsonl."""
    answers = {"base": evaluation.base.probes, "tuned": evaluation.tuned.probes}
    return safety.lines(evaluation.questions.probes, answers, is_unsafe)


def unsafe_by(params: SafetyParams) -> Callable[[str], bool] | None:
    """What the classifier says of an answer, where one is set.

    Raises:
        UserError: it cannot be used.
    """
    if not params.ask or params.classifier is None:
        return None
    judge = classifier.find(Path(params.classifier), params.labels, "params.yaml: evaluate.safety")
    return lambda text: bool(judge.calls([text], params.labels, params.threshold))


def _for_people(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of predictions without the thirty numbers of each calibration."""
    return {name: value for name, value in line.items() if not name.endswith("_calibration")}


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
        f"{counted(content['tuned']['rows'], 'row')} judged",
        *changes,
        *([f"{counted(cut, 'tuned answer')} cut off"] if cut else []),
    ]
    return f"evaluate: {' · '.join(parts)} → {PREDICTIONS}/"


def main() -> None:
    """Run the stage."""
    params, seed = load(EvaluateParams), load_seed()
    is_unsafe = unsafe_by(params.safety)
    if params.safety.ask:
        experiments.require_all_files(SAFETY)
    with runtime.measured("evaluate") as timings, artifacts.replacing(PREDICTIONS) as out:
        evaluation = evaluate(PROMPTS, REJECTED, SAFETY, BASE, ADAPTER, params, seed)
        table, known = predictions(evaluation), known_losses(evaluation)
        lines = [eval_report.rounded(line) for line in table.to_pylist()]
        artifacts.write_parquet(out / "predictions.parquet", pa.Table.from_pylist(lines, schema=SCHEMA))
        artifacts.write_jsonl(out / "predictions.jsonl", map(_for_people, lines))
        artifacts.write_parquet(out / "losses.parquet", known)
        probed = safety_lines(evaluation, is_unsafe)
        artifacts.write_jsonl(out / "safety.jsonl", probed)
        settings = {name: getattr(params, name) for name in ("max_new_tokens", "temperature", "top_p")}
        artifacts.write_json(out / "generation.json", settings | {"seed": seed})
        found = columns([(table, name) for name in MODELS])
        left_out = evaluation.questions.left_out
        by_category = eval_report.by_category(table, found, params, seed)
        content = eval_report.report(table, found, known, probed, by_category, left_out, params, seed)
        timings |= {"rows": table.num_rows, "device": evaluation.device, "precision": evaluation.precision}
    artifacts.write_json(REPORT, content)
    artifacts.write_text(BY_CATEGORY, eval_report.as_csv(by_category, eval_report.BY_CATEGORY))
    artifacts.write_text(REFUSALS, eval_report.as_csv(safety.tally(probed), safety.TALLY))
    too_long = left_out["too_long"]
    if too_long:
        warn(
            f"{counted(too_long, 'test row')} {agree(too_long, 'is', 'are')} not judged: longer, with an answer, than "
            "the model can read."
        )
    print(summary(content))


if __name__ == "__main__":
    run(main)
