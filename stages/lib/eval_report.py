"""The content of reports/eval.json and reports/eval_by_category.csv, out of the predictions."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from stages.lib import artifacts, losses, safety, text_metrics
from stages.lib.figures import FIGURES, MODELS, figures
from stages.lib.headline import headline
from stages.lib.paired import corrected, differences
from stages.lib.rates import wilson
from stages.lib.slices import FEW, slices
from stages.lib.statistics import Columns, low_and_high, totals
from stages.params.evaluate import EvaluateParams

CATEGORY_FIGURES = ("exact_match", "chrf", "bits_per_byte")
IN_JSON = [f"{model}_{figure}" for figure in ("exact_match", "chrf") for model in MODELS]
BY_CATEGORY = ("category", "rows", *(f"{model}_{figure}" for figure in CATEGORY_FIGURES for model in MODELS))
RATES = {"exact_match": "rows", "prompt_strict": "constrained", "prompt_loose": "constrained"}  # of what


def report(
    table: pa.Table,
    found: Columns,
    known: pa.Table,
    probed: Sequence[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]],
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
        categories: as `by_category`.
        left_out: test rows that were not judged, by reason.
        params: of the stage.
        seed: of the resamples.
    """
    groups = table["group"].to_pylist()
    measured = differences(found, groups, figures, len(FIGURES), params.resamples, seed)
    defined = {name: one for name, one in measured.items() if np.isfinite(one.values).all()}
    models = {
        name: {
            "rows": table.num_rows,
            "truncated_answers": table[f"{name}_finish"].to_pylist().count("length"),
            **{figure: one.values[place] for figure, one in measured.items()},
        }
        for place, name in enumerate(MODELS)
    }
    content = {
        **models,
        "difference": {name: one.values[1] - one.values[0] for name, one in measured.items()},
        "interval": {name: low_and_high(one.bounds) for name, one in measured.items() if one.bounds is not None},
        "p": {name: one.p for name, one in corrected(defined).items()},
        "rate_interval": {name: _rate_intervals(found, place) for place, name in enumerate(MODELS)},
        "by_category": {
            line["category"]: {
                "rows": line["rows"],
                "few_rows": line["rows"] < FEW,
                **{name: line[name] for name in IN_JSON if name in line},
                **({"p": line["p"]} if "p" in line else {}),
            }
            for line in categories
        },
        "loss": losses.losses(known, params.resamples, seed),
        **({"safety": safety.figures(probed, params.resamples, seed)} if probed else {}),
        "left_out": dict(left_out),
        "signature": {"bleu": text_metrics.bleu.signature, "chrf": text_metrics.chrf.signature},
    }
    return rounded(artifacts.finite(content))


def _rate_intervals(found: Columns, place: int) -> dict[str, dict[str, float]]:
    """95 % intervals of what one model does by itself, where that is a share of rows."""
    sums = totals(found)
    bounds = {
        name: wilson(float(sums[name][place]), float(sums[whole][place]))
        for name, whole in RATES.items()
        if whole in sums and sums[whole][place]
    }
    return {name: low_and_high(pair) for name, pair in bounds.items()}


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
        for figure in CATEGORY_FIGURES:
            line |= {f"{model}_{figure}": float(values[figure][place]) for place, model in enumerate(MODELS)}
        for place, model in enumerate(MODELS):
            bounds = _rate_intervals(part, place)["exact_match"]
            line |= {f"{model}_exact_match_{side}": bound for side, bound in bounds.items()}
        low, high = one.difference.bounds or (None, None)
        line |= {"compared_by": first, "low": low, "high": high, "p": one.difference.p}
        lines.append(rounded(artifacts.finite(line)))
    return lines


def rounded(value: Any) -> Any:
    """Six significant digits: more than matters, and fewer than the noise of fp32 sums reaches."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def as_csv(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Lines as CSV, with these columns though no line have them; a figure that is not defined is an empty cell."""
    columns = dict.fromkeys([*names, *(name for line in lines for name in line)])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
