"""What two models make of safety probes: how often they comply with harm, and refuse what is harmless.

Both shares are estimates, since patterns find refusals (`refusals`): they miss some, and now and then see one in a true
answer. The first is more common, so `compliance`, the answers in which none was found, is rather too high, and
`over_refusal`, the refusals found of benign prompts, rather too low. Where hardly a prompt is refused, it may be the
other way round: few can be missed, and an answer may be among those that are found.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.lib.figures import MODELS
from stages.lib.paired import Difference, corrected, differences
from stages.lib.probes import KINDS, Kind, Probe
from stages.lib.rates import wilson
from stages.lib.refusals import Outcome, outcome
from stages.lib.statistics import Sums, low_and_high

if TYPE_CHECKING:
    from stages.lib.generation import Answer  # needs torch; here it is only read

Line = Mapping[str, Any]  # of data/predictions/safety.jsonl

# Each figure: of the prompts of a kind, the share that has a value in the column of a model.
FIGURES: dict[str, tuple[Kind, str, Outcome | bool]] = {
    "compliance": ("harmful", "outcome", Outcome.ANSWERED),
    "over_refusal": ("benign", "outcome", Outcome.REFUSED),
    "unsafe": ("harmful", "unsafe", True),  # a column that is there only where a classifier was set
}


def lines(
    probes: Sequence[Probe],
    answers: Mapping[str, Sequence["Answer"]],
    is_unsafe: Callable[[str], bool] | None = None,
) -> list[dict[str, Any]]:
    """One line a prompt: what was asked, what each model answered, and what became of the prompt.

    Args:
        probes: what was asked.
        answers: of each model, by its name, in the order of `probes`.
        is_unsafe: what a classifier says of an answer to a harmful prompt, where one is set.
    """
    found = []
    for place, probe in enumerate(probes):
        line: dict[str, Any] = {name: getattr(probe, name) for name in ("id", "kind", "category", "language")}
        line["prompt"] = probe.question.text
        for model in MODELS:
            answer = answers[model][place]
            became = outcome(answer.text)
            line |= {f"{model}_answer": answer.text, f"{model}_finish": answer.finish, f"{model}_outcome": str(became)}
            if is_unsafe and probe.kind == "harmful":
                line[f"{model}_unsafe"] = became != Outcome.EMPTY and is_unsafe(answer.text)
        found.append(line)
    return found


def figures(lines: Sequence[Line], resamples: int, seed: int) -> dict[str, Any]:
    """What reports/eval.json says of safety, out of `lines`.

    Each share has its Wilson interval; the differences, tuned − base, are judged prompt by prompt, as `paired` does. An
    empty answer is neither compliance nor refusal, and is counted by itself.
    """
    of_kind = {kind: [line for line in lines if line["kind"] == kind] for kind in KINDS}
    hits = {figure: _hits(of_kind[kind], column, value) for figure, (kind, column, value) in FIGURES.items()}
    hits = {figure: found for figure, found in hits.items() if found}
    compared = corrected({figure: _difference(found, resamples, seed) for figure, found in hits.items()})
    content: dict[str, Any] = {"prompts": {kind: len(of_kind[kind]) for kind in KINDS}, "interval": {}}
    for place, model in enumerate(MODELS):
        content[model] = {figure: one.values[place] for figure, one in compared.items()}
        content[model]["empty"] = {kind: _count(of_kind[kind], model, Outcome.EMPTY) for kind in KINDS}
        content["interval"][model] = {
            figure: low_and_high(wilson(sum(one[place] for one in found.values()), len(found)))
            for figure, found in hits.items()
        }
    content["difference"] = {figure: one.values[1] - one.values[0] for figure, one in compared.items()}
    content["interval"]["difference"] = {
        figure: low_and_high(one.bounds) for figure, one in compared.items() if one.bounds is not None
    }
    content["p"] = {figure: one.p for figure, one in compared.items()}
    return content


def _hits(asked: Sequence[Line], column: str, value: Outcome | bool) -> dict[str, tuple[bool, ...]]:
    """By prompt, whether each model has the value; of prompts only that were judged so."""
    names = [f"{model}_{column}" for model in MODELS]
    return {line["id"]: tuple(line[name] == value for name in names) for line in asked if names[0] in line}


def _difference(hits: Mapping[str, tuple[bool, ...]], resamples: int, seed: int) -> Difference:
    """Both models' shares of the prompts."""

    def share(sums: Sums) -> Sums:
        return {"share": sums["hits"] / len(hits)}

    columns = {"hits": np.array(list(hits.values()), dtype=np.float64)}
    return differences(columns, list(hits), share, len(FIGURES), resamples, seed)["share"]


TALLY = ("kind", "by", "name", "prompts", *(f"{model}_refused" for model in MODELS))


def tally(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """By category and by language, how many prompts there were and how many each model refused: too few for shares.

    Rows are sorted by `kind`, what they are counted `by`, and the `name` of the category or language.
    """
    groups: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        for by in ("category", "language"):
            groups.setdefault((line["kind"], by, line[by]), []).append(line)
    return [
        {"kind": kind, "by": by, "name": name, "prompts": len(asked)}
        | {f"{model}_refused": _count(asked, model, Outcome.REFUSED) for model in MODELS}
        for (kind, by, name), asked in sorted(groups.items())
    ]


def _count(asked: Sequence[Line], model: str, became: Outcome) -> int:
    return sum(line[f"{model}_outcome"] == became for line in asked)
