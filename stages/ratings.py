"""What people who judged blindly prefer, how surely, and how far they agree.

Reads   data/ratings/, data/predictions/predictions.parquet
Writes  reports/ratings.json

A rating names the question and the two texts in the order in which they stood (stages/lib/pairs.py). So it is read
without the key of its sheet, whatever the seed is by now, and one of answers that are no longer given is noticed.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib import agreement, artifacts, experiments, pairs, rating_files, runtime
from stages.lib.errors import run, warn
from stages.lib.paired import differences
from stages.lib.pairs import Pair
from stages.lib.params import load, load_seed
from stages.lib.plural import counted
from stages.lib.questions import BETTER, MARKS
from stages.lib.rating_files import Rating
from stages.lib.statistics import FEWEST, Columns, Sums, interval, low_and_high, resampled_totals, totals
from stages.params.evaluate import EvaluateParams

RATINGS = Path("data/ratings")
REPORT = Path("reports/ratings.json")

MODELS = ("base", "tuned")
SCORES = {"tuned": 1.0, "same": 0.5, "base": 0.0}  # of the tuned model; a tie is half a win
SHOWN = 3  # places that a warning names
MANY = 10  # rows, of which two raters seldom say the same


@dataclass(frozen=True)
class Vote:
    """A rating in terms of the models."""

    pair: Pair
    better: str | None  # base | tuned | same
    marks: Mapping[tuple[str, str], bool]  # by model and mark: whether the answer is safe, whether it follows


@dataclass(frozen=True)
class Counted:
    """The ratings that count, and the places of those that do not."""

    raters: int
    votes: list[Vote]
    stale: list[str]  # of answers that the present models do not give
    repeated: list[str]  # rated again by the same rater further down
    unrated: int  # rows on which nobody said which answer is better
    alike: list[tuple[str, str]]  # raters who say the same of many rows, in everything


def count(ratings: Iterable[Rating], found: Iterable[Pair]) -> Counted:
    """Find out what each rating is of. Of a pair that a rater judged twice, the later rating counts."""
    known = {pair.item(first): (pair, first) for pair in found if pair.is_choice for first in (True, False)}
    kept: dict[tuple[str, str], tuple[Rating, Vote]] = {}
    stale, repeated, unrated = [], [], 0
    for rating in ratings:
        unrated += BETTER not in rating.choices
        if not rating.choices:
            continue
        if rating.item not in known:
            stale.append(rating.place)
            continue
        pair, tuned_is_a = known[rating.item]
        key = (rating.rater, pair.id)
        if key in kept:
            repeated.append(kept[key][0].place)
        kept[key] = rating, _vote(rating, pair, tuned_is_a)
    by_rater: dict[str, dict[str, Mapping[str, str]]] = {}
    for (rater, name), (rating, _) in kept.items():
        by_rater.setdefault(rater, {})[name] = rating.choices
    alike = [
        (one, other)
        for one, other in itertools.combinations(by_rater, 2)
        if by_rater[one] == by_rater[other] and len(by_rater[one]) >= MANY
    ]
    return Counted(len(by_rater), [vote for _, vote in kept.values()], stale, repeated, unrated, alike)


def _vote(rating: Rating, pair: Pair, tuned_is_a: bool) -> Vote:
    models = {"A": "tuned", "B": "base"} if tuned_is_a else {"A": "base", "B": "tuned"}
    better = rating.choices.get(BETTER)
    marks = {
        (model, mark): rating.choices[f"{name}_{mark}"] == "yes"
        for name, model in models.items()
        for mark in MARKS
        if f"{name}_{mark}" in rating.choices
    }
    return Vote(pair, models.get(better, better) if better else None, marks)


def report(ratings: Counted, found: Sequence[Pair], resamples: int, seed: int) -> dict[str, Any]:
    """The content of reports/ratings.json. A figure that is not defined on these ratings is left out."""
    by_pair: dict[str, list[Vote]] = {}
    for vote in ratings.votes:
        by_pair.setdefault(vote.pair.id, []).append(vote)
    rated = [by_pair[name] for name in sorted(by_pair)]
    preferences = [Counter(vote.better for vote in votes if vote.better) for votes in rated]
    counts = np.array([[one[value] for value in SCORES] for one in preferences], dtype=np.int64).reshape(
        -1, len(SCORES)
    )
    lead = counts[:, 0] - counts[:, 2]
    columns = _columns(rated)
    groups = [votes[0].pair.group for votes in rated]
    drawn = _drawn(columns, groups, resamples, seed)
    values = figures(totals(columns)) if rated else {}
    p = _p(columns["win_rate"], groups, resamples, seed)
    judged = counts.sum(axis=1) > 0
    content = {
        "raters": ratings.raters,
        "rows": {"rated": int(judged.sum()), "same_answer": sum(not pair.is_choice for pair in found)},
        "ratings": {
            "counted": len(ratings.votes),
            "stale": len(ratings.stale),
            "repeated": len(ratings.repeated),
            "unrated": ratings.unrated,
        },
        "wins": int((lead > 0).sum()),
        "ties": int((judged & (lead == 0)).sum()),
        "losses": int((lead < 0).sum()),
        "win_rate": values.get("win_rate"),
        "p": p,
        "agreement": {
            "rows": int((counts.sum(axis=1) > 1).sum()),
            "alpha": agreement.alpha(counts),
            "share": agreement.share(counts),
        },
        **{model: {mark: values.get(f"{model}_{mark}") for mark in MARKS} for model in MODELS},
        "difference": {mark: values.get(f"difference_{mark}") for mark in MARKS},
        "interval": {name: _bounds(value, len(set(groups))) for name, value in drawn.items()},
    }
    return artifacts.finite(_plain(content))


def _columns(rated: Sequence[Sequence[Vote]]) -> Columns:
    """Of each figure (pairs, 2), to be summed: what its raters say on average, and whether any of them says something.

    A pair that many rated counts once.
    """
    said: dict[str, list[list[float]]] = {
        "win_rate": [[SCORES[vote.better] for vote in votes if vote.better] for votes in rated]
    }
    for model in MODELS:
        for mark in MARKS:
            key = (model, mark)
            said[f"{model}_{mark}"] = [
                [float(vote.marks[key]) for vote in votes if key in vote.marks] for votes in rated
            ]
    return {
        name: np.array([[np.mean(one), 1.0] if one else [0.0, 0.0] for one in of_pairs]).reshape(-1, 2)
        for name, of_pairs in said.items()
    }


def figures(sums: Sums) -> Sums:
    """Means over pairs, out of sums: of all pairs, or of each resample; NaN where nobody said anything."""
    with np.errstate(all="ignore"):
        found = {name: value[..., 0] / value[..., 1] for name, value in sums.items()}
    return found | {f"difference_{mark}": found[f"tuned_{mark}"] - found[f"base_{mark}"] for mark in MARKS}


def _drawn(columns: Columns, groups: Sequence[str], resamples: int, seed: int) -> Sums:
    """Figures of resamples of whole groups; none where there are too few groups."""
    return figures(resampled_totals(columns, groups, resamples, seed)) if len(set(groups)) >= FEWEST else {}


def _p(won: NDArray[np.float64], groups: Sequence[str], resamples: int, seed: int) -> float | None:
    """How often models that change places, group by group, are preferred as unevenly; `won` as `_columns` has it."""
    if not won[:, 1].any():
        return None  # nobody said which answer is better
    both = {"won": np.stack([won[:, 1] - won[:, 0], won[:, 0]], axis=1)}
    return differences(both, groups, lambda sums: sums, 1, resamples, seed)["won"].p


def _bounds(values: NDArray[np.float64], groups: int) -> dict[str, float] | None:
    """The 95 % interval; none where all resamples agree, as where all answers are safe: that is not certainty."""
    bounds = interval(values, groups)
    return None if bounds is None or np.ptp(values) == 0 else low_and_high(bounds)


def _plain(value: Any) -> Any:
    """Six decimals, as Python's own numbers: more than such counts can tell."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return round(float(value), 6) if isinstance(value, float | np.ndarray | np.floating) else value


def remarks(ratings: Counted) -> list[str]:
    """What somebody should know who thinks that every rating counted."""
    told = []
    if ratings.stale:
        told.append(
            f"not counted, since the present models do not give these answers: {counted(len(ratings.stale), 'rating')} "
            f"({_few(ratings.stale)}). Have a new sheet rated."
        )
    if ratings.repeated:
        told.append(
            f"not counted, since the same rater judged the answers again: {counted(len(ratings.repeated), 'rating')} "
            f"({_few(ratings.repeated)}). The last one counts."
        )
    told += [
        f"{one} and {other} say the same of all rows. If one file is a copy of the other, remove it: counted as two "
        "raters, they agree too well."
        for one, other in ratings.alike
    ]
    if ratings.unrated:
        told.append(f"{counted(ratings.unrated, 'row')} of the filled sheets say nothing of which answer is better.")
    return told


def _few(places: Sequence[str]) -> str:
    more = f" and {len(places) - SHOWN:,} more" if len(places) > SHOWN else ""
    return ", ".join(places[:SHOWN]) + more


def summary(content: Mapping[str, Any]) -> str:
    """What came in, how it went, where it is."""
    if not content["raters"]:
        return (
            f"ratings: nobody has rated these answers; `python -m stages.sheet` writes a sheet to begin with → {REPORT}"
        )
    parts = [counted(content["raters"], "rater"), f"{counted(content['rows']['rated'], 'row')} rated"]
    if "win_rate" in content:
        bounds = content["interval"].get("win_rate")
        shown = f" [{bounds['low']:.1%} … {bounds['high']:.1%}]" if bounds else ", too few rows for an interval"
        parts.append(f"tuned preferred in {content['win_rate']:.1%}, ties half{shown}")
    if "alpha" in content["agreement"]:
        parts.append(f"agreement alpha {content['agreement']['alpha']:.2f}")
    return f"ratings: {' · '.join(parts)} → {REPORT}"


def main() -> None:
    """Run the stage."""
    params, seed = load(EvaluateParams), load_seed()
    experiments.require_all_files(RATINGS)
    with runtime.measured("ratings"):
        found = pairs.read()
        ratings = count(rating_files.read(RATINGS), found)
        content = report(ratings, found, params.resamples, seed)
    artifacts.write_json(REPORT, content)
    for sentence in remarks(ratings):
        warn(sentence)
    print(summary(content))


if __name__ == "__main__":
    run(main)
