"""The rows behind a figure of reports/eval.json that is not good enough."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

SHOWN = 5

_LOSSES = {"perplexity": ("nll", "tokens"), "bits_per_byte": ("text_nll", "bytes")}
_SCORES = {"exact_match": 1, "rouge1": 1, "rouge2": 1, "rougeL": 1, "rougeLsum": 1, "chrf": 100}  # the best of each
_BROKEN = {
    "prompt_strict": "broken",
    "instruction_strict": "broken",
    "prompt_loose": "broken_loosely",
    "instruction_loose": "broken_loosely",
}


class Fault(NamedTuple):
    """A row on which the tuned model is not as good as can be."""

    id: str
    category: str
    lost: float  # by how much it is worse than the base
    short: float  # by how much it is worse than can be


def worst_rows(lines: Sequence[Mapping[str, Any]], metric: str) -> list[Fault]:
    """The rows that drag a figure down, the worst first; none where it is no sum over single rows.

    Args:
        lines: of predictions.
        metric: where the figure stands, e.g. `difference.exact_match` or `by_category.refund.tuned_chrf`. Of a
            difference those rows come first that the tuned model lost against the base.
    """
    place, _, rest = metric.partition(".")
    category, _, rest = rest.rpartition(".") if place == "by_category" else ("", "", rest)
    shortfall = _shortfall(rest.removeprefix("tuned.").removeprefix("tuned_").partition(".")[0])
    if shortfall is None or "base" in (place, *rest.split(".")) or rest.startswith("base_"):
        return []
    found = []
    for line in lines:
        if not category or line["category"] == category:
            base, tuned = shortfall(line, "base"), shortfall(line, "tuned")
            found.append(Fault(line["id"], line["category"], tuned - base, tuned))
    by_loss = place in ("difference", "interval")
    return sorted(
        (fault for fault in found if fault.short > 0),
        key=lambda fault: (*((-fault.lost,) if by_loss else ()), -fault.short, fault.id),
    )


def _shortfall(figure: str) -> Callable[[Mapping[str, Any], str], float] | None:
    """By how much a model's answer to a row is worse than can be, in this figure."""
    if figure in _LOSSES:
        nats, size = _LOSSES[figure]
        return lambda line, model: line[f"{model}_{nats}"] / max(line[size], 1)
    if figure in _SCORES:
        return lambda line, model: _SCORES[figure] - line[f"{model}_{figure}"]
    if figure in _BROKEN:
        return lambda line, model: len(line[f"{model}_{_BROKEN[figure]}"])
    if figure == "copied":
        return lambda line, model: float(line[f"{model}_copied"])
    if figure == "truncated_answers":
        return lambda line, model: float(line[f"{model}_finish"] == "length")
    return None


def in_words(faults: Sequence[Fault]) -> str:
    """`worst of 19 rows: 3f2a… (amount), …`, or nothing."""
    if not faults:
        return ""
    named = ", ".join(f"{fault.id} ({fault.category})" for fault in faults[:SHOWN])
    return f"worst of {len(faults):,} rows: {named}" if len(faults) > SHOWN else f"rows: {named}"
