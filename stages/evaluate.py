# LEAD TO helper-4: the lead wrote evaluate/scoring/generation/text_metrics/statistics/ending/logits while you were cut off.
# Keep those interfaces (merge.py uses ending.py + generation.generate + predictions columns tuned_answer/tuned_tokens/tuned_finish);
# drop prefill.py unless it fits behind them, adapt your tests to them, add the missing tests, finish quickly, delete these lines.
"""Judge the base and the tuned model side by side, on the same held-out rows.

Reads   data/prompts/test.parquet, data/prompts/template.json, models/base/, models/adapter/
Writes  data/predictions/predictions.parquet and .jsonl, reports/eval.json, reports/eval_by_category.csv
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import xxhash

from stages.lib import artifacts, runtime, statistics, text_metrics
from stages.lib.ending import Ending, read_ending
from stages.lib.errors import UserError, run
from stages.lib.params import load, load_seed
from stages.lib.pinned import BASE, load_pinned
from stages.lib.prompts import Segment
from stages.lib.tokens import Example, SegmentTokenizer, load_tokenizer
from stages.params.evaluate import EvaluateParams

PROMPTS = Path("data/prompts")
ADAPTER = Path("models/adapter")
PREDICTIONS = Path("data/predictions")
REPORT = Path("reports/eval.json")
BY_CATEGORY = Path("reports/eval_by_category.csv")

BITS = math.log(2)  # nats in a bit
ROW_FIGURES = ("exact_match", "rouge1", "rouge2", "rougeL")  # means over rows
DIGITS = 6  # of every figure in the reports: far below what matters, far above float noise


@dataclass(frozen=True)
class Row:
    """One held-out example."""

    id: str
    category: str
    group: str
    prompt: str
    reference: str
    example: Example
    text_bytes: int  # UTF-8 bytes of the completion, end tokens left out


def judge(
    rows: Sequence[Row], load_model: Callable[[], Any], ending: Ending, params: EvaluateParams, who: str
) -> pd.DataFrame:
    """Let one model foresee and answer every row.

    The model is loaded here and gone afterwards: base and tuned never share the memory.

    Returns:
        One line a row: answer, finish, nats, text_nats, and every score that a row has by itself.
    """
    from stages.lib.generation import generate
    from stages.lib.scoring import score

    model = load_model()
    foreseen = score(
        model,
        [(row.example.prompt, row.example.completion) for row in rows],
        ending.stops.ids,
        params.batch_size,
        label=f"{who}: score",
    )
    answers = generate(
        model,
        [row.example.prompt for row in rows],
        ending.stops,
        ending.decode,
        params.batch_size,
        params.max_new_tokens,
        label=f"{who}: answer",
    )
    texts = [ending.without_lead(answer.text) for answer in answers]
    return pd.DataFrame(
        [
            {
                "answer": text,
                "finish": answer.finish,
                "tokens": answer.tokens,
                "nats": seen.nats,
                "text_nats": seen.text_nats,
                **text_metrics.row_scores(text, row.reference),
            }
            for row, text, answer, seen in zip(rows, texts, answers, foreseen, strict=True)
        ]
    )


def read_rows(path: Path, tokenizer: SegmentTokenizer, ending: Ending, limit: int | None, seed: int) -> list[Row]:
    """The test rows, or `limit` of them drawn by a hash of seed and id, so that a larger limit only adds rows."""
    table = artifacts.read_parquet(path, made_by="format").to_pylist()
    if not table:
        raise UserError(
            f"{path} holds no rows, so nothing can be judged. Raise params.yaml: split.test, or add data to data/raw/."
        )
    table.sort(key=lambda row: xxhash.xxh3_128_hexdigest(f"{seed}:{row['id']}".encode()))
    table = sorted(table[:limit], key=lambda row: row["id"])
    examples = tokenizer.encode([[Segment(**one) for one in row["segments"]] for row in table])
    return [_row(row, example, ending) for row, example in zip(table, examples, strict=True)]


def _row(row: dict[str, Any], example: Example, ending: Ending) -> Row:
    return Row(
        id=row["id"],
        category=row["category"],
        group=row["group"],
        prompt=row["prompt"],
        reference=row["reference"],
        example=example,
        text_bytes=len(ending.decode(ending.without_end(example.completion)).encode()),
    )


def figures(rows: Sequence[Row], judged: pd.DataFrame) -> dict[str, Any]:
    """Every figure of one model over `rows`."""
    tokens = sum(len(row.example.completion) for row in rows)
    text_bytes = sum(row.text_bytes for row in rows)
    corpus = text_metrics.corpus_scores(list(judged["answer"]), [row.reference for row in rows])
    return {
        "rows": len(rows),
        "perplexity": _exp(math.fsum(judged["nats"]) / tokens),
        "bits_per_byte": math.fsum(judged["text_nats"]) / BITS / text_bytes if text_bytes else None,
        **{name: math.fsum(judged[name]) / len(rows) for name in ROW_FIGURES},
        **corpus,
        "truncated_answers": int((judged["finish"] == "length").sum()),
    }


def _exp(value: float) -> float | None:
    """None where the loss is so high that the figure would be infinite."""
    return math.exp(value) if value < 700 else None


def compare(
    rows: Sequence[Row], base: pd.DataFrame, tuned: pd.DataFrame, params: EvaluateParams, seed: int
) -> dict[str, Any]:
    """The content of reports/eval.json: both models, their difference (tuned − base), and how sure it is."""
    of_base, of_tuned = figures(rows, base), figures(rows, tuned)
    difference = {
        name: of_tuned[name] - of_base[name]
        for name in of_base
        if name != "rows" and of_base[name] is not None and of_tuned[name] is not None
    }
    return _rounded(
        artifacts.finite(
            {
                "base": of_base,
                "tuned": of_tuned,
                "difference": difference,
                "interval": _intervals(rows, base, tuned, params, seed),
                "by_category": {
                    category: {
                        "rows": len(places),
                        "base_exact_match": float(base["exact_match"].iloc[places].mean()),
                        "tuned_exact_match": float(tuned["exact_match"].iloc[places].mean()),
                    }
                    for category, places in _categories(rows).items()
                },
                "signature": text_metrics.signatures(),
            }
        )
    )


def _intervals(
    rows: Sequence[Row], base: pd.DataFrame, tuned: pd.DataFrame, params: EvaluateParams, seed: int
) -> dict[str, Any]:
    """95 % intervals of the differences, for every figure that is a ratio of sums over rows."""
    ones = [1.0] * len(rows)
    tokens = [float(len(row.example.completion)) for row in rows]
    bits = [row.text_bytes * BITS for row in rows]
    sources = {name: (name, ones, statistics.ratio) for name in ROW_FIGURES}
    sources["perplexity"] = ("nats", tokens, statistics.exponential)
    if sum(bits):
        sources["bits_per_byte"] = ("text_nats", bits, statistics.ratio)
    groups = [row.group for row in rows]
    found = {
        name: statistics.paired_interval(
            list(base[column]), list(tuned[column]), weights, groups, params.resamples, seed, figure
        )
        for name, (column, weights, figure) in sources.items()
    }
    return {name: {"low": one.low, "high": one.high} for name, one in found.items() if one is not None}


def by_category(rows: Sequence[Row], base: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """One line a category: rows, and the figures of both models."""
    lines = []
    for category, places in _categories(rows).items():
        some = [rows[place] for place in places]
        both = {"base": figures(some, base.iloc[places]), "tuned": figures(some, tuned.iloc[places])}
        line: dict[str, Any] = {"category": category, "rows": len(places)}
        for name in ("exact_match", "rougeL", "bits_per_byte"):
            line |= {f"{who}_{name}": both[who][name] for who in both}
        lines.append(_rounded(line))
    return pd.DataFrame(lines)


def _categories(rows: Sequence[Row]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.category, []).append(place)
    return dict(sorted(places.items()))


def predictions(rows: Sequence[Row], base: pd.DataFrame, tuned: pd.DataFrame) -> pa.Table:
    """One line a row: what was asked, what both answered, and every score."""
    known = pd.DataFrame(
        {
            "id": [row.id for row in rows],
            "category": [row.category for row in rows],
            "group": [row.group for row in rows],
            "prompt": [row.prompt for row in rows],
            "reference": [row.reference for row in rows],
            "tokens": [len(row.example.completion) for row in rows],
            "bytes": [row.text_bytes for row in rows],
        }
    )
    renamed = {"nats": "nll", "text_nats": "text_nll"}
    both = [one.rename(columns=renamed).add_prefix(f"{who}_") for who, one in (("base", base), ("tuned", tuned))]
    return pa.Table.from_pandas(pd.concat([known, *both], axis=1), preserve_index=False).replace_schema_metadata()


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, DIGITS) if isinstance(value, float) else value


def main() -> None:
    """Run the stage."""
    params, seed = load(EvaluateParams), load_seed()
    from stages.lib import models

    pinned = load_pinned(BASE)
    tokenizer = load_tokenizer(BASE)
    ending = read_ending(PROMPTS / "template.json", pinned, tokenizer)
    rows = read_rows(PROMPTS / "test.parquet", tokenizer, ending, params.rows, seed)
    dtype = models.dtype_for(params.precision)
    with runtime.measured("evaluate") as timings, artifacts.replacing(PREDICTIONS) as out:
        base = judge(rows, lambda: models.load_base(pinned, dtype), ending, params, "base")
        tuned = judge(rows, lambda: models.load_tuned(pinned, ADAPTER, dtype), ending, params, "tuned")
        table = predictions(rows, base, tuned)
        artifacts.write_parquet(out / "predictions.parquet", table)
        artifacts.write_jsonl(out / "predictions.jsonl", table.to_pylist())
        timings |= {"device": str(models.device()), "precision": str(dtype).removeprefix("torch.")}
    report = compare(rows, base, tuned, params, seed)
    artifacts.write_json(REPORT, report)
    artifacts.write_text(BY_CATEGORY, by_category(rows, base, tuned).to_csv(index=False, lineterminator="\n"))
    print(summary(report))


def summary(report: dict[str, Any]) -> str:
    """What was judged, and how it went."""
    base, tuned = report["base"], report["tuned"]
    return (
        f"evaluate: {base['rows']:,} rows · exact match {base['exact_match']:.1%} → {tuned['exact_match']:.1%} · "
        f"bits per byte {base['bits_per_byte']:.3f} → {tuned['bits_per_byte']:.3f} · "
        f"{tuned['truncated_answers']} answers cut → {PREDICTIONS}"
    )


if __name__ == "__main__":
    run(main)
