"""How far an evaluation's intervals and p can be believed: `python -m benchmarks.coverage [--experiments N]`.

The predictions of the workspace (`dvc repro evaluate` first) are taken for all the questions there are, so that the
truth is known. In each experiment as many groups of like rows are drawn from them, with replacement, and judged by
themselves: how often does the 95 % interval of a figure hold the truth? Then the two models change places by the toss
of a coin for each group, so that they are equally good: how often does p say that they are not?
"""

import argparse
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from stages.lib import artifacts
from stages.lib.errors import UserError, run
from stages.lib.figures import FIGURES, MODELS, columns, figures
from stages.lib.losses import losses
from stages.lib.paired import Difference, corrected, differences
from stages.lib.statistics import FEWEST, LEVEL, Columns

PREDICTIONS = Path("data/predictions/predictions.parquet")
LOSSES = Path("data/predictions/losses.parquet")
HEART = "by_heart"
ANY = "any of them"


def experiments(found: Columns, known: pa.Table, count: int, resamples: int, seed: int) -> dict[str, Counter[str]]:
    """Of `count` experiments, how many gave each figure an interval, held the truth, and called nothing a change.

    Args:
        found: `figures.columns`, summed by group of like rows: (groups, 2, …).
        known: as `losses.SCHEMA`.
        count: of experiments.
        resamples: behind each interval and p.
        seed: of what is drawn.
    """
    groups = len(found["rows"])
    random = np.random.default_rng(seed)

    def judged(part: Columns) -> dict[str, Difference]:
        each_its_own = [str(place) for place in range(groups)]
        return differences(part, each_its_own, figures, len(FIGURES), resamples, int(random.integers(1 << 30)))

    def heart(part: pa.Table) -> dict[str, float]:
        found: dict[str, float] = losses(part, resamples, int(random.integers(1 << 30))).get("by_heart", {})
        return found

    truth = {name: one.values[1] - one.values[0] for name, one in judged(found).items()}
    truth[HEART] = heart(known).get("ratio", math.nan)  # without training rows there is none
    told: dict[str, Counter[str]] = {"bounded": Counter(), "held": Counter(), "called": Counter()}
    for _ in tqdm(range(count), desc="coverage", unit="experiment"):
        drawn = random.integers(0, groups, groups)
        part = {name: column[drawn] for name, column in found.items()}
        bounds = {name: one.bounds for name, one in judged(part).items()}
        if {"low", "high"} <= (by_heart := heart(redrawn(known, random))).keys():
            bounds[HEART] = by_heart["low"], by_heart["high"]
        for name, pair in bounds.items():
            if pair is not None:
                told["bounded"][name] += 1
                told["held"][name] += pair[0] <= truth[name] <= pair[1]
        moved = np.flatnonzero(random.integers(0, 2, groups))
        for column in part.values():
            column[moved] = column[moved, ::-1]
        chance = {name: one for name, one in judged(part).items() if one.p is not None}
        told["called"].update(name for name, one in chance.items() if is_called(one))
        told["called"][ANY] += any(map(is_called, corrected(chance).values()))
    return told


def is_called(one: Difference) -> bool:
    """Whether a difference is called more than chance."""
    return one.p is not None and one.p < LEVEL


def redrawn(known: pa.Table, random: np.random.Generator) -> pa.Table:
    """As many groups of each split, drawn with replacement; one that was drawn twice is two groups."""
    parts = []
    for split in known["split"].unique().to_pylist():
        part = known.filter(pc.equal(known["split"], split))
        by_group: dict[str, list[int]] = {}
        for place, group in enumerate(part["group"].to_pylist()):
            by_group.setdefault(group, []).append(place)
        members = list(by_group.values())
        drawn = [members[place] for place in random.integers(0, len(members), len(members))]
        names = [str(number) for number, places in enumerate(drawn) for _ in places]
        part = part.take([place for places in drawn for place in places])
        parts.append(part.set_column(part.schema.get_field_index("group"), "group", pa.array(names)))
    return pa.concat_tables(parts)


def by_group(found: Columns, groups: list[str]) -> dict[str, np.ndarray]:
    """Each column, summed over the rows of each group."""
    names, places = np.unique(groups, return_inverse=True)
    return {
        name: np.stack([column[places == place].sum(axis=0) for place in range(len(names))])
        for name, column in found.items()
    }


def lines(told: dict[str, Counter[str]], count: int) -> list[str]:
    """A table in Markdown."""
    rows = [
        f"| {name.replace('_', ' ')} | {_share(told['held'][name], told['bounded'][name])} | "
        f"{_share(told['called'][name], count) if name in FIGURES else '–'} |"
        for name in told["bounded"]
    ]
    return [
        "| figure | intervals that hold the truth | equal models called different |",
        "|---|---|---|",
        *rows,
        f"| {ANY}, after Holm | – | {_share(told['called'][ANY], count)} |",
    ]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def main() -> None:
    """Draw, judge, count, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1000, help="behind each interval and p")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    table = artifacts.read_parquet(PREDICTIONS, made_by="evaluate")
    groups = table["group"].to_pylist()
    if len(set(groups)) < FEWEST:
        raise UserError(f"{PREDICTIONS} has fewer than {FEWEST} groups of like rows. Raise split.test.")
    found = by_group(columns([(table, model) for model in MODELS]), groups)
    known = artifacts.read_parquet(LOSSES, made_by="evaluate")
    told = experiments(found, known, arguments.experiments, arguments.resamples, arguments.seed)
    print(f"{len(found['rows'])} groups of like rows, {arguments.experiments:,} experiments")
    print("\n".join(lines(told, arguments.experiments)))


if __name__ == "__main__":
    run(main)
