"""Let people judge: a blind sheet of both models' answers side by side: `python -m stages.sheet [--rows N]`.

Reads   data/predictions/predictions.parquet
Writes  data/sheets/for_raters/{sheet.html,sheet.csv}, which do not tell which model wrote what;
        data/sheets/key.csv, which does

What raters send back goes to data/ratings/, where stages/ratings.py reads it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from stages.lib import artifacts, pairs, sheet_page, spreadsheet
from stages.lib.errors import UserError, run
from stages.lib.pairs import Pair
from stages.lib.params import load_seed
from stages.lib.plural import agree, counted
from stages.lib.questions import COLUMNS, ITEM, REFERENCE
from stages.lib.sheet_page import Row

FOLDER = Path("data/sheets")


def sheet(drawn: Sequence[Pair], out: Path, seed: int, with_reference: bool) -> None:
    """Write the sheet of these pairs, and its key, into a folder."""
    shown = [(pair, pairs.tuned_is_a(pair, seed)) for pair in drawn]
    rows = [
        Row(
            pair.item(first),
            pair.category,
            pair.question,
            *pair.shown(first),
            pair.reference if with_reference else None,
        )
        for pair, first in shown
    ]
    artifacts.write_text(out / "for_raters" / "sheet.html", sheet_page.render(rows))
    columns = [name for name in COLUMNS if with_reference or name != REFERENCE]
    artifacts.write_text(out / "for_raters" / "sheet.csv", spreadsheet.table(columns, map(_cells, rows)))
    key = [
        {ITEM: row.item, "A": "tuned" if first else "base", "B": "base" if first else "tuned", "id": pair.id}
        for row, (pair, first) in zip(rows, shown, strict=True)
    ]
    artifacts.write_text(out / "key.csv", spreadsheet.table(list(key[0]), key))


def _cells(row: Row) -> dict[str, str]:
    texts = {"category": row.category, "prompt": row.prompt, "answer A": row.a, "answer B": row.b}
    if row.reference is not None:
        texts[REFERENCE] = row.reference
    return {ITEM: row.item} | {name: spreadsheet.as_text(text) for name, text in texts.items()}


def choices(found: Sequence[Pair]) -> list[Pair]:
    """The pairs that can be rated.

    Raises:
        UserError: there is none.
    """
    differing = [pair for pair in found if pair.is_choice]
    if not differing:
        raise UserError(
            f"both models give the same answer to each of {counted(len(found), 'test row')}: nobody can choose between "
            "them. Look at reports/train.json: the update may have changed nothing."
        )
    return differing


def _require_no_sheet(folder: Path) -> None:
    if folder.exists():
        raise UserError(
            f"{folder} is there already, and somebody may have filled in the sheet in it. Move or delete the folder, "
            "then run this again."
        )


def _rows(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def main() -> None:
    """Draw, write, tell where it is."""
    parser = argparse.ArgumentParser(prog="python -m stages.sheet", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=_rows, default=50, help="how many pairs of answers to rate (50)")
    parser.add_argument("--reference", action="store_true", help="show the reference answer, too")
    arguments = parser.parse_args()
    _require_no_sheet(FOLDER)
    seed, found = load_seed(), pairs.read()
    differing = choices(found)
    drawn = pairs.drawn(differing, arguments.rows, seed)
    with artifacts.replacing(FOLDER) as out:
        sheet(drawn, out, seed, arguments.reference)
    same = len(found) - len(differing)
    left_out = (
        f" · {counted(same, 'row')} with the same answer from both {agree(same, 'is', 'are')} no choice" if same else ""
    )
    print(
        f"sheet: {len(drawn):,} of {counted(len(differing), 'pair')} of answers drawn{left_out} → {FOLDER}/for_raters/ "
        f"(who wrote what: {FOLDER}/key.csv)"
    )


if __name__ == "__main__":
    run(main)
