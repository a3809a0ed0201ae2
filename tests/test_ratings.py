"""What people prefer: a simulated rater's own rate, whatever stood left or right, and no surer than it is."""

import csv
import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import ratings as stage
from stages import sheet
from stages.lib.errors import UserError
from stages.lib.rating_files import Rating
from tests.rated import as_csv, filled, pair, swapped, write_predictions, write_ratings

ROOT = Path(__file__).resolve().parent.parent
FOUND = [pair(number) for number in range(300)]


def told(sheets, found=FOUND, resamples=400):
    """The report on sheets as raters filled them in, and what was counted."""
    ratings = [
        Rating(rater, f"{rater}.csv:{line}", row["item"], {name: cell for name, cell in row.items() if name != "item"})
        for rater, rows in sheets.items()
        for line, row in enumerate(rows, start=2)
    ]
    counted = stage.count(ratings, found)
    return stage.report(counted, found, resamples, 7), counted


def prefers(share, seed=0, tie=0.0):
    """A rater who prefers the tuned model in this share of the rows that are no ties."""
    draw = random.Random(seed)

    def rate(one):
        if draw.random() < tie:
            return {"better": "same"}
        return {"better": "tuned" if draw.random() < share else "base"}

    return rate


def test_a_rater_who_prefers_the_tuned_model_in_four_of_five_rows_is_found_to():
    content, _ = told({"anna": filled(FOUND, prefers(0.8))})

    assert content["win_rate"] == pytest.approx(0.8, abs=0.05)
    assert content["interval"]["win_rate"]["low"] < content["win_rate"] < content["interval"]["win_rate"]["high"]
    assert 0.07 < content["interval"]["win_rate"]["high"] - content["interval"]["win_rate"]["low"] < 0.12
    assert content["p"] < 0.01
    assert content["wins"] + content["losses"] == content["rows"]["rated"] == 300
    assert "alpha" not in content["agreement"]  # one rater agrees with nobody


def test_raters_at_random_show_no_preference_and_no_agreement():
    sheets = {
        name: filled(FOUND, prefers(0.5, seed=seed, tie=0.2)) for seed, name in enumerate(("anna", "ben", "cleo"))
    }
    content, _ = told(sheets)

    assert content["agreement"]["alpha"] == pytest.approx(0, abs=0.07)
    assert content["agreement"]["rows"] == 300
    assert content["interval"]["win_rate"]["low"] < 0.5 < content["interval"]["win_rate"]["high"]
    assert content["p"] > 0.05


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = 0
    for seed in range(100):
        content, _ = told({"anna": filled(FOUND[:100], prefers(0.7, seed=seed))}, FOUND[:100])
        held += content["interval"]["win_rate"]["low"] <= 0.7 <= content["interval"]["win_rate"]["high"]
    assert 88 <= held <= 100


choices = st.fixed_dictionaries(
    {},
    optional={"better": st.sampled_from(["tuned", "base", "same"])}
    | {
        f"{model}_{mark}": st.sampled_from(["yes", "no"]) for model in ("tuned", "base") for mark in ("safe", "follows")
    },
)
FEW = FOUND[:12]


@settings(deadline=None, max_examples=40)
@given(st.lists(choices, min_size=12, max_size=12), st.integers(0, 1000), st.integers(0, 1000))
def test_which_answer_stood_left_changes_nothing(given_, one, other):
    """Sheets of two seeds show the same rows in another order; what was meant is read from both."""
    opinion = {row.id: given for row, given in zip(FEW, given_, strict=True)}
    reports = [told({"anna": filled(FEW, lambda row: opinion[row.id], seed)}, FEW, 100)[0] for seed in (one, other)]
    assert reports[0] == reports[1]


@settings(deadline=None, max_examples=40)
@given(st.lists(choices, min_size=12, max_size=12), st.integers(0, 1000))
def test_had_the_models_exchanged_their_answers_every_figure_would_be_the_other_models(given_, seed):
    opinion = {row.id: given for row, given in zip(FEW, given_, strict=True)}
    sheets = {"anna": filled(FEW, lambda row: opinion[row.id], seed)}
    content, mirrored = told(sheets, FEW, 100)[0], told(sheets, [swapped(row) for row in FEW], 100)[0]

    assert (content["wins"], content["ties"]) == (mirrored["losses"], mirrored["ties"])
    assert (content["base"], content["tuned"]) == (mirrored["tuned"], mirrored["base"])
    if "win_rate" in content:
        assert content["win_rate"] == pytest.approx(1 - mirrored["win_rate"], abs=2e-6)
    assert content["ratings"] == mirrored["ratings"]


def test_a_row_that_many_rated_counts_once():
    first, rest = FOUND[:1], FOUND[1:4]
    sheets = {name: filled(first, lambda _: {"better": "base"}) for name in ("ben", "cleo", "dora")}
    content, _ = told(sheets | {"anna": filled(rest, lambda _: {"better": "tuned"})})

    assert (content["wins"], content["losses"], content["win_rate"]) == (3, 1, 0.75)
    assert content["agreement"] == {"rows": 1, "share": 1.0}


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (("tuned", "tuned", "base"), ("wins", 0.666667)),
        (("tuned", "base"), ("ties", 0.5)),
        (("same", "same"), ("ties", 0.5)),
        (("tuned", "same"), ("wins", 0.75)),
        (("base",), ("losses", 0.0)),
    ],
)
def test_a_row_is_won_by_whom_more_raters_prefer_and_a_tie_is_half_a_win(said, outcome):
    sheets = {f"r{number}": filled(FOUND[:1], lambda _, one=one: {"better": one}) for number, one in enumerate(said)}
    content, _ = told(sheets)
    assert {name: content[name] for name in ("wins", "ties", "losses")} == dict.fromkeys(
        ("wins", "ties", "losses"), 0
    ) | {outcome[0]: 1}
    assert content["win_rate"] == outcome[1]


def test_safety_and_following_are_shares_of_the_rows_on_which_somebody_said_so():
    def rate(one):
        number = int(one.id[1:])
        marks = {"base_safe": "no" if number % 4 == 0 else "yes", "tuned_safe": "yes"}
        return marks | ({"tuned_follows": "yes" if number % 3 else "no"} if number < 30 else {})

    content, counted = told({"anna": filled(FOUND[:40], rate)})

    assert content["base"] == {"safe": 0.75}  # nobody said whether it follows: absent, not 0
    assert content["tuned"] == {"safe": 1.0, "follows": pytest.approx(20 / 30, abs=1e-5)}
    assert content["difference"] == {"safe": 0.25}
    assert set(content["interval"]) == {"base_safe", "tuned_follows", "difference_safe"}  # all safe is no certainty
    assert counted.unrated == 40
    assert content["rows"]["rated"] == 0


def test_raters_who_say_the_same_of_everything_are_named():
    sheet, other = filled(FOUND[:10], prefers(0.6)), filled(FOUND[:10], prefers(0.6, seed=4))
    _, counted = told({"anna": sheet, "Copy": sheet, "ben": other})
    assert counted.alike == [("anna", "Copy")]
    (remark,) = stage.remarks(counted)
    assert remark.startswith("anna and Copy say the same of all rows. If one file is a copy")
    assert told({"anna": sheet[:9], "Copy": sheet[:9]})[1].alike == []  # of a few rows, two may well


def test_a_preference_of_few_groups_has_an_honest_p():
    """Ten wins of ten: 2 of 2¹⁰."""
    for wins, p in ((3, 0.25), (6, 2 / 64), (10, 2 / 1024)):
        content, _ = told({"anna": filled(FOUND[:wins], lambda _: {"better": "tuned"})}, FOUND, 2000)
        assert content["p"] == pytest.approx(p, abs=1e-6)


def test_few_groups_of_like_rows_bear_no_interval():
    def intervals(found):
        return told({"anna": filled(found, prefers(0.6))}, found)[0]["interval"]

    assert intervals([pair(number, group=f"g{number % 9}") for number in range(90)]) == {}
    assert "win_rate" in intervals([pair(number, group=f"g{number % 10}") for number in range(90)])


def test_ratings_of_other_answers_do_not_count_and_are_told_of():
    sheet = filled(FOUND[:5], lambda _: {"better": "tuned"})
    today = [pair(0, tuned_answer="another"), pair(1, prompt="other"), *FOUND[2:5]]
    content, counted = told({"anna": sheet}, today)

    assert counted.stale == ["anna.csv:2", "anna.csv:3"]
    assert (content["rows"]["rated"], content["ratings"]["stale"]) == (3, 2)
    assert "do not give these answers: 2 ratings (anna.csv:2, anna.csv:3)" in stage.remarks(counted)[0]


@pytest.mark.parametrize("seed", [7, 8, 9])
def test_of_answers_that_a_rater_judged_twice_the_last_rating_counts_in_whatever_order_they_stood(seed):
    sheet = filled(FOUND[:20], lambda _: {"better": "tuned"}) + filled(FOUND[:2], lambda _: {"better": "base"}, seed)
    content, counted = told({"anna": sheet})

    assert (content["wins"], content["losses"]) == (18, 2)
    assert counted.repeated == ["anna.csv:2", "anna.csv:3"]
    assert "2 ratings (anna.csv:2, anna.csv:3)" in stage.remarks(counted)[0]


def test_rows_that_nobody_rated_are_counted():
    content, counted = told({"anna": filled(FOUND[:5], lambda one: {"better": "tuned"} if one is FOUND[0] else {})})
    assert (content["rows"]["rated"], content["ratings"]["unrated"], content["ratings"]["counted"]) == (1, 4, 1)
    assert "4 rows" in stage.remarks(counted)[0]


def test_answers_that_are_the_same_are_counted_and_never_rated():
    same = pair(0, base_answer="x", tuned_answer="x ")
    content, counted = told({"anna": filled([same], lambda _: {"better": "same"})}, [same, *FOUND[1:3]])
    assert content["rows"] == {"rated": 0, "same_answer": 1}
    assert counted.stale == ["anna.csv:2"]


def run(root):
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from stages import ratings; ratings.main()"
    return subprocess.run([sys.executable, "-c", code, str(ROOT)], cwd=root, capture_output=True, text=True, check=True)


@pytest.fixture
def folder(tmp_path):
    write_predictions(tmp_path, FOUND[:40])
    (tmp_path / "data/ratings").mkdir()
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    return tmp_path


def test_where_nobody_has_rated_the_stage_says_how_to_begin(folder):
    done = run(folder)

    assert done.stderr == ""
    assert "nobody has rated these answers; `python -m stages.sheet` writes a sheet" in done.stdout
    content = json.loads((folder / "reports/ratings.json").read_text())
    assert content["raters"] == content["rows"]["rated"] == content["wins"] == 0
    assert "win_rate" not in content


def test_run_as_dvc_runs_it_the_stage_reads_files_and_writes_the_same_figures_again(folder):
    write_ratings(folder, "anna", filled(FOUND[:40], prefers(0.9)))
    write_ratings(folder, "ben", filled(FOUND[10:40], prefers(0.9, seed=1)))

    first = run(folder).stdout, (folder / "reports/ratings.json").read_bytes()
    again = run(folder).stdout, (folder / "reports/ratings.json").read_bytes()

    assert first == again
    assert "ratings: 2 raters · 40 rows rated · tuned preferred in" in first[0]
    assert json.loads(first[1])["agreement"]["rows"] == 30


def test_ratings_that_an_experiments_copy_lacks_stop_it(folder, monkeypatch, tmp_path_factory):
    main = tmp_path_factory.mktemp("main")
    write_ratings(main, "anna", filled(FOUND[:5], prefers(1)))
    monkeypatch.setenv("DVC_ROOT", str(main))
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=r"data/ratings/anna\.csv stayed behind"):
        stage.main()


def test_a_sheet_that_somebody_filled_in_and_saved_in_a_spreadsheet_is_read_rightly(folder):
    """The whole way: what the sheet shows as A and B, judged by its texts alone, comes back as base and tuned."""
    sheet.sheet(FOUND[:40], folder / "sheets", seed=3, with_reference=True)  # of another seed than the stage's
    text = (folder / "sheets/for_raters/sheet.csv").read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    for row in rows:  # the reference is the tuned model's answer here
        row["better"] = "A" if row["answer A"] == row["reference"] else "B"
        row["B_safe"] = "no" if row["answer B"] != row["reference"] else "yes"
    saved = "\ufeff" + as_csv(rows, reversed(rows[0]), delimiter=";")
    (folder / "data/ratings/anna.csv").write_bytes(saved.encode())

    run(folder)

    content = json.loads((folder / "reports/ratings.json").read_text())
    assert (content["wins"], content["losses"], content["win_rate"]) == (40, 0, 1.0)
    assert (content["base"], content["tuned"]) == ({"safe": 0.0}, {"safe": 1.0})
    assert content["interval"] == {}
