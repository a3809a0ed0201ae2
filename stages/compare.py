"""Is this change real? What two revisions made of the same test rows: `python -m stages.compare REV [OTHER]`.

Reads   data/predictions/predictions.parquet of both, from git and DVC's cache; without OTHER the one in the workspace
Writes  nothing: it prints how the tuned models differ, metric by metric and category by category
"""

import argparse
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.lib import artifacts, page
from stages.lib.errors import UserError, run
from stages.lib.figures import columns, figures
from stages.lib.headline import headline
from stages.lib.paired import Difference, corrected, differences
from stages.lib.params import load, load_seed
from stages.lib.plural import counted
from stages.lib.slices import FEW, Slice, slices
from stages.lib.verdict import METRICS, Comparison, Metric
from stages.params.evaluate import EvaluateParams

PREDICTIONS = Path("data/predictions/predictions.parquet")
SAID = {"unclear": "no significant difference", "same": "the same"}
SHOWN = 5  # rows that are named


@dataclass(frozen=True)
class Comparisons:
    """The tuned models of two revisions on the rows that both judged."""

    rows: int
    only: tuple[int, int]  # rows that one of them judged alone, or with another prompt or reference
    overall: list[Comparison]
    missing: list[str]  # metrics that one of them does not hold, or that are infinite
    metric: Metric  # by which the categories are compared
    categories: list[Slice]
    lost: list[str]  # ids of rows answered right before, and wrong after
    won: list[str]

    def of_category(self, one: Slice) -> Comparison:
        """A category in the metric by which they are compared."""
        return Comparison.of(self.metric, one.difference)


def compare(before: pa.Table, after: pa.Table, resamples: int, seed: int) -> Comparisons:
    """Compare two files of predictions.

    Intervals are of a bootstrap by group, paired: both models are judged on the same draws. p is of a test in which the
    models change places group by group.

    Raises:
        UserError: when no row was judged in both.
    """
    pairs = _common(before, after)
    if not len(pairs):
        raise UserError("no test row was judged in both, with the same prompt and reference: nothing can be compared.")
    only = (before.num_rows - len(pairs), after.num_rows - len(pairs))
    before, after = before.take(pairs[:, 0]), after.take(pairs[:, 1])
    found = columns([(before, "tuned"), (after, "tuned")])
    groups = after["group"].to_pylist()
    measured = differences(found, groups, figures, len(METRICS), resamples, seed)
    asked = [metric for metric in METRICS if metric.name not in measured or _by_any_row(measured[metric.name])]
    defined = [metric for metric in asked if metric.name in measured and _is_finite(measured[metric.name])]
    fair = corrected({metric.name: measured[metric.name] for metric in defined})
    right = found["exact_match"]
    first = headline(right.flat)
    return Comparisons(
        rows=len(pairs),
        only=only,
        overall=[Comparison.of(metric, fair[metric.name]) for metric in defined],
        missing=[metric.label for metric in asked if metric not in defined],
        metric=next(metric for metric in METRICS if metric.name == first),
        categories=slices(found, groups, after["category"].to_pylist(), first, resamples, seed),
        lost=after.filter(pa.array(right[:, 0] > right[:, 1]))["id"].to_pylist(),
        won=after.filter(pa.array(right[:, 0] < right[:, 1]))["id"].to_pylist(),
    )


def _common(before: pa.Table, after: pa.Table) -> np.ndarray:
    """(rows, 2): where a row that was asked the same stands in each, in the order of the second."""
    keys = ("id", "prompt", "reference")
    known = {key: place for place, key in enumerate(zip(*(before[name].to_pylist() for name in keys), strict=True))}
    asked = enumerate(zip(*(after[name].to_pylist() for name in keys), strict=True))
    return np.array([(known[key], place) for place, key in asked if key in known], dtype=np.int64).reshape(-1, 2)


def _by_any_row(found: Difference) -> bool:
    """Whether the figure is asked by any row at all."""
    return not np.isnan(found.values).all()


def _is_finite(found: Difference) -> bool:
    return bool(np.isfinite(found.values).all())


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
    except ImportError as error:  # the plugin of a remote
        raise UserError(f"the predictions of {revision} cannot be fetched: {error}") from None
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
    if found.missing:
        told.append(f"left out: {', '.join(found.missing)}, which the predictions of one do not hold or do not define")
    told += [
        "",
        _verdict(found),
        "",
        *_aligned([_cells(one.metric.label, one) for one in found.overall]),
    ]
    if len(found.categories) > 1:
        few = f"; * fewer than {FEW} rows" if any(one.rows < FEW for one in found.categories) else ""
        told += ["", f"{found.metric.label} by category, Holm's correction{few}"]
        told += _aligned([_cells(_category(one), found.of_category(one)) for one in found.categories])
    for what, ids in (("right before, wrong now", found.lost), ("wrong before, right now", found.won)):
        if ids:
            more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
            told += ["", f"{what}: {counted(len(ids), 'row')}: {', '.join(ids[:SHOWN])}{more}"]
    return told


def _verdict(found: Comparisons) -> str:
    """The answer to the question, in one line."""
    judged = [(one.metric.label, one.judgement) for one in found.overall]
    if len(found.categories) > 1:
        of = found.metric.label
        judged += [(f"{of} in {_plain(one.name)}", found.of_category(one).judgement) for one in found.categories]
    changed = {
        judgement: ", ".join(label for label, of in judged if of == judgement) for judgement in ("better", "worse")
    }
    said = [f"{judgement} by more than chance: {labels}" for judgement, labels in changed.items() if labels]
    if not said:
        return "the same" if all(judgement == "same" for _, judgement in judged) else "no significant difference"
    return "; ".join(said)


def _category(one: Slice) -> str:
    return f"{_plain(one.name)}{'*' if one.rows < FEW else ''} ({one.rows})"


def _plain(name: str) -> str:
    return " ".join(name.split())


def _cells(name: str, one: Comparison) -> list[str]:
    bounds = f"[{one.interval}]" if one.interval else "no interval"
    cells = [
        name,
        f"{one.metric.show(one.base)} → {one.metric.show(one.tuned)}",
        one.change,
        bounds,
        SAID.get(one.judgement, one.judgement),
    ]
    return [cell.replace(page.NO_BREAK, " ") for cell in cells]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _named(revision: str) -> str:
    if not revision:
        raise argparse.ArgumentTypeError("a revision has a name")
    if ":" in revision or "^{" in revision:
        raise argparse.ArgumentTypeError(f"{revision} names a file, a folder or the like, and no revision")
    return revision


def main() -> None:
    """Read both, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m stages.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", type=_named, help="what is compared against: a branch, tag, commit or experiment")
    parser.add_argument("other", type=_named, nargs="?", help="the changed one; without it, the workspace")
    arguments = parser.parse_args()
    params = load(EvaluateParams)
    found = compare(read(arguments.revision), read(arguments.other), params.resamples, load_seed())
    print("\n".join(lines(found, arguments.revision, arguments.other or "the workspace")))


if __name__ == "__main__":
    run(main)
