"""Pairs of answers, and sheets of them as raters send them back."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.lib import artifacts, pairs
from stages.lib.pairs import Pair
from stages.lib.questions import COLUMNS


def pair(number: int, **changed: Any) -> Pair:
    """A test row that the base answers in one way and the tuned model in another."""
    row = {"id": f"r{number:03}", "category": f"c{number % 3}", "group": f"g{number}", "prompt": f"Which? {number}"}
    row |= {"question": f"Which one? {number}"}
    row |= {"reference": f"this {number}", "base_answer": f"that {number}", "tuned_answer": f"this {number}"}
    return Pair(**row | changed)


def swapped(one: Pair) -> Pair:
    """The same row, had the models given each other's answer."""
    return Pair(**vars(one) | {"base_answer": one.tuned_answer, "tuned_answer": one.base_answer})


def write_predictions(root: Path, found: Iterable[Pair]) -> None:
    path = root / pairs.PREDICTIONS
    path.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_parquet(path, pa.Table.from_pylist([vars(one) for one in found]))


def filled(found: Iterable[Pair], rate: Callable[[Pair], Mapping[str, str]], seed: int = 7) -> list[dict[str, str]]:
    """A sheet's rows after a rater went over them; `rate` speaks of `tuned` and `base`, as no rater can."""
    rows = []
    for one in found:
        first = pairs.tuned_is_a(one, seed)
        names = {"tuned": "A" if first else "B", "base": "B" if first else "A"}
        given = {}
        for question, choice in rate(one).items():
            model, _, mark = question.partition("_")
            given[f"{names[model]}_{mark}" if model in names else question] = names.get(choice, choice)
        rows.append({"item": one.item(first)} | given)
    return rows


def as_csv(rows: Iterable[Mapping[str, str]], columns: Iterable[str] = COLUMNS, **dialect: Any) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), **dialect)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_ratings(root: Path, rater: str, rows: Iterable[Mapping[str, str]]) -> None:
    path = root / f"data/ratings/{rater}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_csv(rows).encode())
