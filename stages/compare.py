"""Is this change real? What two revisions made of the same test rows: `python -m stages.compare REV [OTHER]`.

Reads   data/predictions/predictions.parquet of both, from git and DVC's cache; without OTHER the one in the workspace
Writes  nothing: it prints how the tuned models differ, metric by metric and category by category
"""

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib import artifacts, page
from stages.lib.errors import UserError, run
from stages.lib.figures import columns, figures
from stages.lib.params import load, load_seed
from stages.lib.plural import counted
from stages.lib.statistics import Columns, Sums, holm, interval, p_value, resampled_totals, totals
from stages.lib.verdict import METRICS, Comparison, Metric
from stages.params.evaluate import EvaluateParams

PREDICTIONS = Path("data/predictions/predictions.parquet")
FEW = 30  # rows of a category, below which a difference is hardly ever told from chance
LEVEL = 0.05
SAID = {"unclear": "no significant difference", "same": "the same"}
SHOWN = 5  # rows that are named


@dataclass(frozen=True)
class Category:
    """One category, in the figure that tells most: exact match, or chrF where no answer ever matches."""

    name: str
    rows: int
    comparison: Comparison
    p: float | None  # after Holm's correction for as many questions as there are categories

    @property
    def judgement(self) -> str:
        """In words."""
        if self.comparison.difference == 0:
            return SAID["same"]
        if self.p is None or self.p >= LEVEL:
            return SAID["unclear"]
        return "better" if self.comparison.difference > 0 else "worse"


@dataclass(frozen=True)
class Comparisons:
    """The tuned models of two revisions on the rows that both judged."""

    rows: int
    only: tuple[int, int]  # rows that one of them judged alone, or with another prompt or reference
    overall: list[Comparison]
    categories: list[Category]
    lost: list[str]  # ids of rows answered right before, and wrong after
    won: list[str]


def compare(before: pa.Table, after: pa.Table, resamples: int, seed: int) -> Comparisons:
    """Compare two files of predictions.

    Intervals and p are of a bootstrap by group, paired: both models are judged on the same draws.

    Raises:
        UserError: when no row was judged in both.
    """
    pairs = _common(before, after)
    if not len(pairs):
        raise UserError("no test row was judged in both, with the same prompt and reference: nothing can be compared.")
    only = (before.num_rows - len(pairs), after.num_rows - len(pairs))
    before, after = before.take(pairs[:, 0]), after.take(pairs[:, 1])
    found = columns([(before, "tuned"), (after, "tuned")])
    groups, names = after["group"].to_pylist(), np.array(after["category"].to_pylist())
    values, drawn = figures(totals(found)), _drawn(found, groups, resamples, seed)
    overall = [
        Comparison(metric, *map(float, values[metric.name]), *(_bounds(drawn, metric) or (None, None)))
        for metric in METRICS
        if metric.name in values and np.isfinite(values[metric.name]).all()
    ]
    right = found["exact_match"]
    metric = next(one for one in METRICS if one.name == ("exact_match" if right.any() else "chrf"))
    return Comparisons(
        rows=len(pairs),
        only=only,
        overall=overall,
        categories=_categories(found, groups, names, metric, resamples, seed),
        lost=after.filter(pa.array(right[:, 0] > right[:, 1]))["id"].to_pylist(),
        won=after.filter(pa.array(right[:, 0] < right[:, 1]))["id"].to_pylist(),
    )


def _common(before: pa.Table, after: pa.Table) -> np.ndarray:
    """(rows, 2): where a row that was asked the same stands in each, in the order of the second."""
    keys = ("id", "prompt", "reference")
    known = {key: place for place, key in enumerate(zip(*(before[name].to_pylist() for name in keys), strict=True))}
    asked = enumerate(zip(*(after[name].to_pylist() for name in keys), strict=True))
    return np.array([(known[key], place) for place, key in asked if key in known], dtype=np.int64).reshape(-1, 2)


def _drawn(found: Columns, groups: Sequence[str], resamples: int, seed: int) -> Sums:
    """Figures of resamples, (resamples, 2); none where all rows are one group, which is no sample to draw from."""
    return figures(resampled_totals(found, groups, resamples, seed)) if len(set(groups)) > 1 else {}


def _bounds(drawn: Sums, metric: Metric) -> tuple[float, float] | None:
    return interval(drawn[metric.name][:, 1] - drawn[metric.name][:, 0]) if drawn else None


def _categories(
    found: Columns, groups: Sequence[str], names: np.ndarray, metric: Metric, resamples: int, seed: int
) -> list[Category]:
    made: list[tuple[str, int, Comparison, float | None]] = []
    for name in sorted(set(names.tolist())):
        members = names == name
        part = {key: column[members] for key, column in found.items()}
        own = [group for group, is_member in zip(groups, members, strict=True) if is_member]
        before, after = figures(totals(part))[metric.name]
        drawn = _drawn(part, own, resamples, seed)
        low, high = _bounds(drawn, metric) or (None, None)
        p = p_value(drawn[metric.name][:, 1] - drawn[metric.name][:, 0]) if drawn else None
        made.append((name, int(members.sum()), Comparison(metric, float(before), float(after), low, high), p))
    corrected = iter(holm([p for *_, p in made if p is not None]))
    return [Category(name, rows, one, None if p is None else next(corrected)) for name, rows, one, p in made]


def read(revision: str | None) -> pa.Table:
    """The predictions of a revision, or of the workspace.

    Raises:
        UserError: there is no such revision, or its predictions are not at hand.
    """
    if revision is None:
        return artifacts.read_parquet(PREDICTIONS, made_by="evaluate")
    import dvc.api
    from dvc.exceptions import DvcException
    from dvc.scm import RevError
    from dvc_data.index import DataIndexError

    try:
        with dvc.api.open(PREDICTIONS.as_posix(), rev=revision, mode="rb") as file:
            return pq.read_table(io.BytesIO(file.read()))
    except RevError:
        raise UserError(
            f"{revision} is no revision of this repository. `git log` and `dvc exp show` name them."
        ) from None
    except (DvcException, DataIndexError, FileNotFoundError):
        raise UserError(
            f"the predictions of {revision} are not at hand. Fetch them (`dvc fetch --run-cache`, or `git checkout "
            f"{revision}` and `dvc repro evaluate`), or choose a revision that was evaluated."
        ) from None


def lines(found: Comparisons, before: str, after: str) -> list[str]:
    """What is printed."""
    told = [f"compare: {counted(found.rows, 'test row')} judged in both {before} and {after}"]
    for name, count in zip((before, after), found.only, strict=True):
        if count:
            told.append(f"left out: {counted(count, 'row')} only in {name}, or asked or answered otherwise there")
    missing = [metric.label for metric in METRICS if metric not in [one.metric for one in found.overall]]
    if missing:
        told.append(f"left out: {', '.join(missing)}, which the predictions of one do not hold or do not define")
    told += [
        "",
        *_aligned([_cells(one.metric.label, one, SAID.get(one.judgement, one.judgement)) for one in found.overall]),
    ]
    if len(found.categories) > 1:
        label = found.categories[0].comparison.metric.label
        few = any(one.rows < FEW for one in found.categories)
        told += ["", f"{label} by category, Holm's correction{f'; * fewer than {FEW} rows' if few else ''}"]
        told += _aligned(
            [
                _cells(f"{one.name}{'*' if one.rows < FEW else ''} ({one.rows})", one.comparison, one.judgement)
                for one in found.categories
            ]
        )
    for what, ids in (("right before, wrong now", found.lost), ("wrong before, right now", found.won)):
        if ids:
            more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
            told += ["", f"{what}: {counted(len(ids), 'row')}: {', '.join(ids[:SHOWN])}{more}"]
    return told


def _cells(name: str, one: Comparison, judgement: str) -> list[str]:
    bounds = f"[{one.interval}]" if one.interval else "no interval"
    cells = [name, f"{one.metric.show(one.base)} → {one.metric.show(one.tuned)}", one.change, bounds, judgement]
    return [cell.replace(page.NO_BREAK, " ") for cell in cells]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def main() -> None:
    """Read both, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m stages.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", help="what is compared against: a branch, tag, commit or experiment")
    parser.add_argument("other", nargs="?", help="the changed one; without it, the workspace")
    arguments = parser.parse_args()
    params = load(EvaluateParams)
    found = compare(read(arguments.revision), read(arguments.other), params.resamples, load_seed())
    print("\n".join(lines(found, arguments.revision, arguments.other or "the workspace")))


if __name__ == "__main__":
    run(main)
