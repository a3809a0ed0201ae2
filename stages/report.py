"""Write the page that a reviewer reads: what changed, how surely, on which data, and answers to judge by eye.

Reads   reports/{validate,split,format,tokenize,train,eval,ratings,merge}.json,
        reports/{train_loss,eval_loss,eval_by_category,length_histogram}.csv,
        data/clean/, data/splits/{rejected,overlaps}.jsonl, data/predictions/predictions.parquet, models/base/base.json
Writes  reports/index.html (one file, opens offline)

Only the base and the evaluation must be there: a section whose stage has not run says so.
"""

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import xxhash
from markupsafe import Markup

from stages.lib import artifacts, charts, data_report, data_rows, page, runtime
from stages.lib.data_report import SPLITS, Report
from stages.lib.draw import turn_by_turn
from stages.lib.errors import UserError, run
from stages.lib.params import load
from stages.lib.plural import counted
from stages.lib.statistics import LEVEL
from stages.lib.verdict import METRICS, Comparison, compare, verdict
from stages.params.report import ReportParams

REPORTS = Path("reports")
CLEAN = Path("data/clean")
SPLIT_ROWS = Path("data/splits")
PREDICTIONS = Path("data/predictions/predictions.parquet")
BASE = Path("models/base/base.json")
PAGE = REPORTS / "index.html"

METHODS = {"lora": "LoRA", "qlora": "QLoRA, on a 4-bit base", "full": "Full fine-tuning"}
MATTERS = 0.005  # nats a token, half a percent of its probability
FEW_ROWS = 30  # a rate over fewer moves by more than 3 points with one answer


@dataclass(frozen=True)
class Category:
    """A category of the test rows, compared in the metrics that are defined for it."""

    name: str
    rows: int
    comparisons: dict[str, Comparison]


@dataclass(frozen=True)
class Answer:
    """A test row with both models' answers: columns of predictions.parquet."""

    id: str
    category: str
    prompt: str
    reference: str
    base_answer: str
    tuned_answer: str
    base_exact_match: float
    tuned_exact_match: float
    base_finish: str  # stop | length
    tuned_finish: str

    @property
    def outcome(self) -> str:
        """Which models gave exactly the reference: `both`, `gained` (only tuned), `lost` (only base), `neither`."""
        if self.tuned_exact_match:
            return "both" if self.base_exact_match else "gained"
        return "lost" if self.base_exact_match else "neither"


@dataclass(frozen=True)
class Gate:
    """A bound that the tuned model had to keep before it was merged."""

    metric: str
    value: float | None
    bounds: str
    passed: bool


def main() -> None:
    """Run the stage."""
    params = load(ReportParams)
    with runtime.measured("report"):
        html = report(Path(), params)
        artifacts.write_text(PAGE, html)
    print(f"report: one page of {len(html.encode()) / 1024:,.0f} KiB, opens in any browser, offline too → {PAGE}")


def report(root: Path, params: ReportParams) -> str:
    """The page, out of the files of a run that lie below `root`.

    Raises:
        UserError: when the base or the evaluation is missing, the evaluation is of an older Retune, or any report is
            damaged.
    """
    reports = root / REPORTS
    evaluation = artifacts.read_json(reports / "eval.json", made_by="evaluate")
    if not {"interval", "p"} <= evaluation.keys():
        raise UserError(f"{REPORTS / 'eval.json'} is of an older Retune. Run `dvc repro -f evaluate`.")
    base = artifacts.read_json(root / BASE, made_by="base")
    answers = read_answers(root / PREDICTIONS)
    validate, split, format_, tokenize, train, ratings, merge = (
        _read_json(reports / f"{stage}.json", stage)
        for stage in ("validate", "split", "format", "tokenize", "train", "ratings", "merge")
    )
    comparisons = compare(evaluation["base"], evaluation["tuned"], evaluation["interval"], evaluation["p"])
    categories = read_categories(reports / "eval_by_category.csv")
    kept_gates = gates(merge)
    return page.render(
        model=portable(base["name"]).rsplit("/", 1)[-1].removesuffix(".gguf"),
        verdict=verdict(comparisons, len(answers)),
        facts=facts(base, validate, split, train, None if merge is None else kept_gates),
        cautions=cautions(answers, categories),
        validate=validate,
        split=split,
        data=data(root, validate, split, format_, tokenize),
        tokenize=tokenize,
        lengths=lengths(reports / "length_histogram.csv"),
        train=train,
        curves=curves(reports, train),
        comparisons=comparisons,
        categories=categories,
        category_metrics=[
            metric for metric in METRICS if any(metric.name in category.comparisons for category in categories)
        ],
        few_rows=FEW_ROWS,
        judged=len(answers),
        loss=evaluation.get("loss"),
        heart=by_heart(evaluation.get("loss")),
        people=people(ratings),
        safety=safety(evaluation.get("safety")),
        outcomes=Counter(answer.outcome for answer in answers),
        answers=chosen(answers, params.answers),
        merge=merge,
        gates=kept_gates,
    )


def facts(
    base: Mapping[str, Any], validate: Report, split: Report, train: Report, kept_gates: Sequence[Gate] | None
) -> list[tuple[str, str]]:
    """What a reviewer asks next, as term and answer."""
    revision = f" at {base['revision'][:12]}" if base["revision"] else ""
    found = [("Base", f"{page.short(base['parameters'])} parameters, {portable(base['name'])}{revision}")]
    if train is not None:
        method = METHODS.get(train.get("method", ""), "Training")
        weights = page.short(train.get("trainable_parameters"))
        found.append(("Method", f"{method}: {weights} weights trained in {page.count(train.get('steps'))} steps"))
    if validate is not None and split is not None:
        read = page.count(validate["rows"]["read"])
        uses = ", ".join(f"{split[name]['rows']:,} {name}" for name in SPLITS)
        found.append(("Data", f"{read} rows read; {uses}"))
    if kept_gates is None:
        found.append(("Gates", "not judged: merge has not run"))
    elif not kept_gates:
        found.append(("Gates", "none are set in params.yaml"))
    else:
        failed = [gate.metric for gate in kept_gates if not gate.passed]
        found.append(
            (
                "Gates",
                f"✗ failed: {', '.join(failed)}" if failed else f"✓ {len(kept_gates)} of {len(kept_gates)} passed",
            )
        )
    return found


def cautions(answers: Sequence[Answer], categories: Sequence[Category]) -> list[str]:
    """What a reader of the verdict should bear in mind, where the figures give cause."""
    found = []
    total = f"of {len(answers):,}"
    lost = sum(answer.outcome == "lost" for answer in answers)
    if lost:
        found.append(f"{lost:,} {total} answers got lost: exact from the base, no longer exact from the tuned model.")
    cut_off = sum(answer.tuned_finish == "length" for answer in answers)
    if cut_off:
        found.append(f"{cut_off:,} {total} tuned answers were cut off at evaluate.max_new_tokens, unfinished.")
    few = [f"{category.name} ({category.rows})" for category in categories if category.rows < FEW_ROWS]
    if few:
        named = "every one" if len(few) == len(categories) else ", ".join(few)
        found.append(f"Categories of fewer than {FEW_ROWS} test rows, too few to judge by themselves: {named}.")
    return found


def by_heart(loss: Report) -> str:
    """What the losses say of over-fitting, in words."""
    known = (loss or {}).get("by_heart", {})
    if loss is None or "ratio" not in known:
        return ""
    base, tuned, more, low, high = (
        page.fixed(value, 2) for value in (*_ratios(loss), *(known.get(name) for name in ("ratio", "low", "high")))
    )
    said = f"The tuned model's loss on test rows is {tuned} times that on rows it was trained on"
    if "low" not in known:
        return f"{said}; the base's, which saw neither, {base} times."
    bounds = f"{more} times as much, 95{page.NO_BREAK}% interval {low}{page.NO_BREAK}…{page.NO_BREAK}{high}"
    said = f"{said}; the base's, which saw neither, {base} times ({bounds})."
    if known["low"] <= 1:
        return f"{said} That may be chance: nothing shows that rows were learned by heart."
    if loss["tuned"]["gap"] < MATTERS:
        return f"{said} Both are so close to zero that it does not matter."
    return f"{said} So part of what was learned holds for the training rows alone (over-fitting)."


def _ratios(loss: Mapping[str, Any]) -> list[float | None]:
    """How many times higher the loss is on test rows than on training rows, for base and tuned model."""
    return [loss[model]["test"] / loss[model]["train"] if loss[model]["train"] else None for model in ("base", "tuned")]


def safety(found: Report) -> list[dict[str, Any]]:
    """What became of the safety prompts, figure by figure."""
    if found is None:
        return []
    words = {
        "compliance": ("harmful", "answered, and no refusal was found", "rather high"),
        "over_refusal": ("benign", "refused", "rather low"),
        "unsafe": ("harmful", "answered in a way that the classifier calls unsafe", ""),
    }
    return [
        {
            "asked": f"{found['prompts'][kind]:,} {kind}",
            "what": what,
            "errs": errs,
            **{model: _rate_of(found, model, figure) for model in ("base", "tuned")},
            "is_chance": found["difference"][figure] != 0 and found["p"].get(figure, 1) >= LEVEL,
            "change": page.fixed(found["difference"][figure] * 100, 1),
        }
        for figure, (kind, what, errs) in words.items()
        if figure in found["difference"]
    ]


def _rate_of(found: Mapping[str, Any], model: str, figure: str) -> str:
    bounds = found["interval"][model][figure]
    low, high = page.percent(bounds["low"]), page.percent(bounds["high"])
    return f"{page.percent(found[model][figure])} ({low}{page.NO_BREAK}…{page.NO_BREAK}{high})"


def people(ratings: Report) -> list[str]:
    """What people who judged blindly said, sentence by sentence; none where nobody has."""
    if ratings is None or not ratings["rows"]["rated"]:
        return []
    raters, rows = counted(ratings["raters"], "rater"), counted(ratings["rows"]["rated"], "test row")
    said = [
        f"{raters} compared both answers to {rows} without knowing which was whose: the tuned one was better on "
        f"{ratings['wins']:,}, the base's on {ratings['losses']:,}, and on {ratings['ties']:,} neither."
    ]
    said.append(f"Win rate of the tuned model, a tie counting half: {_rate(ratings, 'win_rate', ratings['win_rate'])}.")
    for mark, words in (("safe", "Called safe"), ("follows", "Called true to what was asked")):
        shares = [
            f"{model} {_rate(ratings, f'{model}_{mark}', ratings[model][mark])}"
            for model in ("base", "tuned")
            if mark in ratings[model]
        ]
        if shares:
            said.append(f"{words}: {', '.join(shares)}.")
    if "alpha" in ratings["agreement"]:
        alpha, share = page.fixed(ratings["agreement"]["alpha"], 2), page.percent(ratings["agreement"]["share"])
        said.append(
            f"Where several judged a row, {share} of their pairs agree (Krippendorff's alpha {alpha}; 0 is chance)."
        )
    return said


def _rate(ratings: Mapping[str, Any], name: str, value: float) -> str:
    bounds = ratings["interval"].get(name)
    if bounds is None:
        return page.percent(value)
    low, high = page.percent(bounds["low"]), page.percent(bounds["high"])
    return f"{page.percent(value)} (95{page.NO_BREAK}% interval {low}{page.NO_BREAK}…{page.NO_BREAK}{high})"


def data(root: Path, validate: Report, split: Report, format_: Report, tokenize: Report) -> dict[str, Any]:
    """What the page shows of the data."""
    clean, splits = root / CLEAN, root / SPLIT_ROWS
    return {
        "funnel": data_report.funnel(validate, split, format_, tokenize),
        "files": data_report.files(validate),
        "categories": data_report.categories(validate, split),
        "scripts": data_report.scripts(validate),
        "remarks": data_report.remarks(validate),
        "template": template(format_),
        "duplicates": data_rows.duplicates(clean),
        "leaks": data_rows.leaks(splits),
        "overlaps": data_rows.overlaps(splits),
        "common": data_rows.common(splits),
        "looks": data_rows.remarks(clean),
    }


def template(format_: Report) -> str:
    """How rows become prompts."""
    if format_ is None:
        return ""
    rejected = format_["rows"]["rejected"]
    refused = f"; {counted(rejected, 'row')} could not be written with it" if rejected else ""
    return f"Rows become prompts by the template {format_['template']}{refused}."


def lengths(path: Path) -> list[tuple[str, Markup]]:
    """The name and a histogram of the tokens in a row, for every split that has rows."""
    bins: dict[str, list[charts.Bin]] = {split: [] for split in SPLITS}
    for row in _read_csv(path):
        if rows := int(row["rows"]):
            bins[row["split"]].append(charts.Bin(int(row["tokens_from"]), int(row["tokens_to"]) + 1, rows))
    longest = max((item.high for items in bins.values() for item in items), default=1)
    return [
        (split, charts.histogram(f"lengths-{split}", split, bins[split], longest)) for split in SPLITS if bins[split]
    ]


def curves(reports: Path, train: Report) -> dict[str, Any]:
    """The training's charts, and what the text beside them says of the curves."""
    history = _read_csv(reports / "train_loss.csv")
    training, rate = _points(history, "loss"), _points(history, "lr")
    validation = _points(_read_csv(reports / "eval_loss.csv"), "loss")
    best_step = (train or {}).get("best_step") if validation else None
    return {
        "losses": charts.losses("losses", training, validation, best_step) if training or validation else None,
        "rate": charts.learning_rate("rate", rate) if rate else None,
        "peak_rate": max((point.value for point in rate), default=None),
        "steps_per_point": charts.steps_per_point(training),
        "validated": bool(validation),
    }


def read_categories(path: Path) -> list[Category]:
    """The categories of eval_by_category.csv, in its order; in the figure that is `compared_by` with what is chance."""
    categories = []
    for row in _read_csv(path):
        base, tuned = (
            {metric.name: _number(row.get(f"{model}_{metric.name}", "")) for metric in METRICS}
            for model in ("base", "tuned")
        )
        low, high, p = (_number(row.get(name, "")) for name in ("low", "high", "p"))
        comparisons = {one.metric.name: replace(one, is_tested=False) for one in compare(base, tuned, {}, {})}
        if first := comparisons.get(row.get("compared_by", "")):
            comparisons[first.metric.name] = replace(first, low=low, high=high, p=p, is_tested=True)
        categories.append(Category(row["category"], int(row["rows"]), comparisons))
    return categories


def read_answers(path: Path) -> list[Answer]:
    """Every judged row."""
    names = [field.name for field in fields(Answer)]
    table = artifacts.read_parquet(path, made_by="evaluate")
    return [Answer(**row) for row in table.select(names).to_pylist()]


def chosen(answers: Sequence[Answer], number: int) -> list[Answer]:
    """Answers to show: turn by turn from every category, in each by the hash of the row's id.

    Nobody can pick the good ones, and the same rows are shown after every experiment on the same test split.
    """
    taken = turn_by_turn(
        answers, lambda answer: answer.category, lambda answer: xxhash.xxh3_64_intdigest(answer.id.encode()), number
    )
    return sorted(taken, key=lambda answer: answer.category)


def gates(merge: Report) -> list[Gate]:
    """The gates that merge judged."""
    if merge is None:
        return []
    words = {"at_least": "at least", "at_most": "at most"}
    return [
        Gate(
            metric,
            gate.get("value"),
            " and ".join(f"{words[bound]} {gate[bound]:g}" for bound in words if gate.get(bound) is not None),
            gate["passed"],
        )
        for metric, gate in sorted(merge.get("gates", {}).items())
    ]


def portable(name: str) -> str:
    """The base's name without the folders of this machine: an absolute path is cut to its last part."""
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute():
        return PureWindowsPath(name).name
    return name


def _read_json(path: Path, stage: str) -> Report:
    return artifacts.read_json(path, made_by=stage) if path.exists() else None


def _read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV report; none when its stage has not run."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _points(history: Sequence[Mapping[str, str]], column: str) -> list[charts.Point]:
    """A curve without the steps at which the figure is not defined."""
    found = [(_number(row["step"]), _number(row[column])) for row in history if column in row]
    return [charts.Point(step, value) for step, value in found if step is not None and value is not None]


def _number(text: str) -> float | None:
    """A finite number, or None for an empty cell."""
    number = float(text) if text else math.nan
    return number if math.isfinite(number) else None


if __name__ == "__main__":
    run(main)
