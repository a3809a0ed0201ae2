"""The blind sheet: whole, deterministic, and silent about who wrote what."""

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stages import sheet as stage
from stages.lib import pairs
from stages.lib.errors import UserError
from tests.rated import pair, swapped, write_predictions

ROOT = Path(__file__).resolve().parent.parent
FOUND = [pair(number) for number in range(20)]


def written(found, out, seed=7, with_reference=False):
    stage.sheet(found, out, seed, with_reference)
    return {path.relative_to(out).as_posix(): path.read_text(encoding="utf-8") for path in out.rglob("*.*")}


def table(text):
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))


def test_sheet_page_and_key_are_of_the_same_pairs(tmp_path):
    files = written(FOUND, tmp_path)
    rows, key = table(files["for_raters/sheet.csv"]), table(files["key.csv"])

    assert [row["item"] for row in rows] == [row["item"] for row in key]
    assert re.findall(r'data-item="(\w+)"', files["for_raters/sheet.html"]) == [row["item"] for row in rows]
    for row, told, one in zip(rows, key, FOUND, strict=True):
        answers = {told[name]: row[f"answer {name}"].removeprefix("'") for name in "AB"}
        assert (told["id"], answers) == (one.id, {"base": one.base_answer, "tuned": one.tuned_answer})
        assert {row[name] for name in ("better", "A_safe", "B_safe", "A_follows", "B_follows", "note")} == {""}


def test_what_raters_get_tells_texts_and_never_models(tmp_path):
    """Had each model given the other's answer, and stood in the other's place, raters would get the same bytes."""
    files = written(FOUND, tmp_path / "one")
    with pytest.MonkeyPatch.context() as patch:
        order = pairs.tuned_is_a
        patch.setattr(pairs, "tuned_is_a", lambda one, seed: not order(one, seed))
        others = written([swapped(one) for one in FOUND], tmp_path / "other")

    for_raters = [name for name in files if name.startswith("for_raters/")]
    assert len(for_raters) == 2
    assert {name: files[name] for name in for_raters} == {name: others[name] for name in for_raters}
    assert files["key.csv"] != others["key.csv"]
    assert not re.search(r"\b(base|tuned)\b", "".join(files[name] for name in for_raters).replace("base-uri", ""))


@pytest.mark.parametrize("with_reference", [True, False])
def test_the_reference_is_in_the_sheet_only_if_it_is_asked_for(tmp_path, with_reference):
    files = written([pair(0, reference="the reference")], tmp_path, with_reference=with_reference)
    assert ("the reference" in files["for_raters/sheet.csv"]) == with_reference
    assert ("the reference" in files["for_raters/sheet.html"]) == with_reference


def test_raters_read_the_question_and_not_what_the_template_makes_of_it(tmp_path):
    found = pair(0, question="Which?", prompt="<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n")
    files = written([found], tmp_path)
    (row,) = table(files["for_raters/sheet.csv"])
    assert row["prompt"] == "Which?"
    assert "im_start" not in files["for_raters/sheet.html"]


def test_what_a_spreadsheet_would_compute_is_text(tmp_path):
    found = pair(0, category="=1+1", question="@SUM(A1)", base_answer="-1", tuned_answer="+1", reference="\t=1")
    (row,) = table(written([found], tmp_path, with_reference=True)["for_raters/sheet.csv"])
    shown = {name: row[name] for name in ("category", "prompt", "answer A", "answer B", "reference")}
    assert all(cell.startswith("'") for cell in shown.values()), shown


def run(root, *arguments):
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from stages import sheet; sheet.main()"
    return subprocess.run(
        [sys.executable, "-c", code, str(ROOT), *arguments], cwd=root, capture_output=True, text=True, check=False
    )


def test_run_by_hand_it_says_what_it_drew_and_never_overwrites_a_sheet(tmp_path):
    write_predictions(tmp_path, [*FOUND, pair(20, base_answer="this 20")])
    (tmp_path / "params.yaml").write_text("seed: 7\n")

    done = run(tmp_path, "--rows", "9")
    assert done.returncode == 0, done.stderr
    assert "9 of 20 pairs of answers drawn · 1 row with the same answer from both is no choice" in done.stdout
    sheet = tmp_path / "data/sheets/for_raters/sheet.csv"
    assert len(table(sheet.read_text(encoding="utf-8"))) == 9

    before = sheet.read_bytes()
    again = run(tmp_path)
    assert "data/sheets is there already" in again.stderr
    assert sheet.read_bytes() == before


@pytest.mark.parametrize("rows", ["0", "-3", "many", "1.5"])
def test_rows_is_a_whole_number_above_zero(tmp_path, rows):
    done = run(tmp_path, f"--rows={rows}")
    assert f"{rows} is no whole number above 0" in done.stderr


def test_models_that_answer_alike_leave_nothing_to_rate():
    with pytest.raises(UserError, match="both models give the same answer to each of 2 test rows"):
        stage.choices([pair(number, base_answer="x", tuned_answer="x") for number in range(2)])
