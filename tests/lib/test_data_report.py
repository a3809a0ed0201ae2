"""The data in figures: every row in one line, and the same row count wherever it is counted."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib import data_report
from stages.lib.data_report import MOST_CATEGORIES, MOST_CODES, MOST_FILES
from stages.lib.rejects import Code
from stages.split import split
from stages.validate import validate
from tests.lib.test_dedupe import text
from tests.test_validate import alpaca, write

VALIDATE = {
    "rows": {"read": 100, "kept": 90, "rejected": 10},
    "rejected": {"empty-output": 3, "near-duplicate": 7},
}
SPLIT = {
    "train": {"rows": 70},
    "validation": {"rows": 6},
    "test": {"rows": 10},
    "contaminated": {"rows": 4, "test": 1, "benchmarks": 3},
}
FORMAT = {"train": {"rows": 69}}
TOKENIZE = {"train": {"rows": 69, "dropped": 2, "examples": 67}, "validation": {"dropped": 1}}


def lines(funnel):
    return [(step.code or step.label, step.rows, step.left) for step in funnel.steps]


def ends(funnel):
    """The rows that leave the funnel, and those that come through."""
    return [step.rows for step in funnel.steps if step.kind in ("lost", "aside")] + [funnel.steps[-1].left]


def test_the_funnel_tells_what_is_lost_at_each_step_and_what_is_left():
    funnel = data_report.funnel(VALIDATE, SPLIT, FORMAT, TOKENIZE)
    assert lines(funnel) == [
        ("Read", 100, 100),
        ("near-duplicate", 7, 93),
        ("empty-output", 3, 90),
        ("Kept by validate", 90, 90),
        ("contaminated", 1, 89),
        ("contaminated", 3, 86),
        ("Validation", 6, 80),
        ("Test", 10, 70),
        ("Training split", 70, 70),
        ("template-refused", 1, 69),
        ("too-many-tokens", 2, 67),
        ("Trained on", 67, 67),
    ]
    assert funnel.gaps == []
    assert sum(ends(funnel)) == funnel.total == 100
    assert funnel.summary.replace("\u00a0", " ") == (
        "Of 100 rows, 67 (67.0 %) are trained on, 16 are set aside to judge by, and 17 were left out."
    )


ROWS = st.integers(0, 10_000)


@given(
    rejected=st.dictionaries(st.sampled_from([str(code) for code in Code]), ROWS),
    leaked=st.tuples(ROWS, ROWS),
    aside=st.tuples(ROWS, ROWS),
    lost=st.tuples(ROWS, ROWS),
    trained=st.integers(1, 10_000),
    stages=st.integers(1, 3),
)
def test_in_the_funnel_of_any_run_every_row_is_accounted_for(rejected, leaked, aside, lost, trained, stages):
    train = sum(lost) + trained
    kept = train + sum(leaked) + sum(aside)
    read = kept + sum(rejected.values())
    reports = [
        {"rows": {"read": read, "kept": kept, "rejected": read - kept}, "rejected": rejected},
        {
            "train": {"rows": train},
            "validation": {"rows": aside[0]},
            "test": {"rows": aside[1]},
            "contaminated": {"rows": sum(leaked), "test": leaked[0], "benchmarks": leaked[1]},
        },
        {"train": {"rows": train - lost[0], "dropped": lost[1], "examples": trained}},
    ]
    validated, shared, tokenized = [*reports[:stages], None, None][:3]
    funnel = data_report.funnel(validated, shared, tokenized, tokenized)
    assert funnel.gaps == []
    assert sum(ends(funnel)) == funnel.total == read
    assert all(step.rows >= 0 and step.left >= 0 for step in funnel.steps)


def test_the_funnel_of_real_stages_accounts_for_every_row(tmp_path, params_for):
    rng = random.Random(7)
    rows = [alpaca(text(rng, 20), text(rng, 8), category=f"c{number % 3}") for number in range(60)]
    rows += [rows[0], rows[1], alpaca(answer=""), alpaca("", "x")]
    raw = write(tmp_path / "raw", {"a.jsonl": rows[:30], "b/c.jsonl": rows[30:]})
    outcome = validate(raw, params_for("validate"), tmp_path / "memory")
    leaked = {"exam.jsonl:1": rows[5]["instruction"]}
    splits = split(outcome.kept, leaked, params_for("split"), 0.7, seed=7)
    funnel = data_report.funnel(outcome.metrics, splits.metrics, None, None)
    assert funnel.gaps == []
    assert sum(ends(funnel)) == funnel.total == len(rows)
    assert ("contaminated", 1) in [line[:2] for line in lines(funnel)]
    files = data_report.files(outcome.metrics)
    assert files.total.codes == outcome.metrics["rejected"]
    assert [file.name for file in files.shown] == ["b/c.jsonl", "a.jsonl"]


NEWER = {"train": {"rows": 75, "dropped": 0, "examples": 75}}


def test_one_row_is_no_plural():
    one = {"rows": {"read": 1, "kept": 1, "rejected": 0}}
    assert data_report.funnel(one, None, None, None).summary == (
        "Of 1 row, 1 (100\u00a0%) is still on the way to training, and 0 were left out."
    )


@pytest.mark.parametrize(
    ("reports", "line"),
    [
        ((VALIDATE, SPLIT | {"train": {"rows": 75}}, None, None), "Training split"),
        ((VALIDATE, SPLIT, NEWER, NEWER), "Trained on"),  # more rows than the split has
    ],
)
def test_reports_of_different_runs_are_called_so(reports, line):
    funnel = data_report.funnel(*reports)
    assert funnel.gaps == [
        f"{line}: the lines above leave 70 rows, but the reports say 75. They are of different runs; "
        "`dvc repro` makes them fit."
    ]
    assert all(step.rows > 0 for step in funnel.steps)


def test_validation_rows_that_are_too_long_are_told_of():
    notes = {step.label: step.note for step in data_report.funnel(VALIDATE, SPLIT, FORMAT, TOKENIZE).steps}
    assert "1 of them are longer than tokenize.max_length and not used" in notes["Validation"]


@pytest.mark.parametrize(
    ("reports", "first", "last"),
    [
        ((VALIDATE, None, None, None), "Read", "Kept by validate"),
        ((VALIDATE, None, None, TOKENIZE), "Read", "Kept by validate"),  # nobody knows what lies between
        ((None, SPLIT, FORMAT, TOKENIZE), "Kept by validate", "Trained on"),
        ((VALIDATE, SPLIT, None, TOKENIZE), "Read", "Trained on"),
    ],
)
def test_the_funnel_goes_as_far_as_the_stages_have_run(reports, first, last):
    funnel = data_report.funnel(*reports)
    assert (funnel.steps[0].label, funnel.steps[-1].label, funnel.gaps) == (first, last, [])


def test_where_no_stage_has_run_there_is_nothing_to_tell():
    assert data_report.funnel(None, None, None, None).steps == []
    assert data_report.files(None) is data_report.categories(None, None) is None
    assert data_report.scripts(None) == data_report.remarks(None) == []


def file_counts(**codes):
    rejected = sum(codes.values())
    named = {code.replace("_", "-"): rows for code, rows in codes.items()}
    return {"read": rejected + 5, "kept": 5, "rejected": rejected, "codes": named}


def test_many_files_are_cut_and_the_rest_is_counted():
    by_file = {f"{number:03}.json": file_counts(secret=number) for number in range(MOST_FILES + 30)}
    files = data_report.files({"by_file": by_file})
    assert [file.rejected for file in files.shown] == list(range(49, 29, -1))
    assert (files.rest.name, files.rest.rejected) == ("30 more", sum(range(30)))
    assert files.total.read == sum(file.read for file in files.shown) + files.rest.read == sum(range(50)) + 5 * 50
    assert sum(files.rest.codes.values()) == files.rest.rejected


def test_rare_reasons_share_a_column_and_no_row_is_missing_from_the_table():
    codes = [str(code) for code in Code][: MOST_CODES + 4]
    by_file = {"a": file_counts(**{code: place + 1 for place, code in enumerate(codes)}), "b": file_counts(secret=100)}
    files = data_report.files({"by_file": by_file})
    assert (files.columns[0], len(files.columns), len(files.others)) == ("secret", MOST_CODES, 5)
    for file in [*files.shown, files.total]:
        assert sum(file.by_code(files.columns, files.others)) == file.rejected


def test_a_single_rare_reason_keeps_its_name():
    codes = [str(code) for code in Code][: MOST_CODES + 1]
    files = data_report.files({"by_file": {"a": file_counts(**dict.fromkeys(codes, 1))}})
    assert (len(files.columns), files.others) == (MOST_CODES + 1, [])


def test_a_report_that_counted_no_reasons_by_file_gives_a_table_without_them():
    files = data_report.files({"by_file": {"a": {"read": 3, "kept": 1, "rejected": 2}}})
    assert (files.columns, files.others, files.total.rejected) == ([], [], 2)


def test_many_categories_are_cut_and_the_rest_is_counted():
    counts = {f"c{number}": {"train": number, "validation": 1, "test": number % 2} for number in range(300)}
    found = data_report.categories(None, {"categories": counts})
    assert len(found.shown) == MOST_CATEGORIES
    assert found.rest.name == "285 more"
    assert found.largest == 301
    for part in ("train", "validation", "test"):
        every = [*found.shown, found.rest]
        assert found.total.rows[part] == sum(one.rows[part] for one in every) == sum(c[part] for c in counts.values())


def test_categories_that_are_not_judged_or_not_taught_are_named():
    counts = {f"c{number}": {"train": 2, "validation": 0, "test": 0} for number in range(10)}
    counts |= {"exam": {"train": 0, "validation": 0, "test": 1}}
    assert data_report.categories(None, {"categories": counts}).remarks == [
        "No test row judges c0, c1, c2, c3, c4, c5, c6, c7 and 2 more.",
        "No training row teaches exam.",
    ]


def test_before_the_split_categories_are_those_of_the_kept_rows():
    found = data_report.categories({"categories": {"a": 3, "b": 4}}, None)
    assert [(one.name, dict(one.rows)) for one in found.shown] == [("b", {"kept": 4}), ("a", {"kept": 3})]
    assert found.remarks == []


def test_scripts_are_named_as_people_call_them():
    parts = data_report.scripts({"scripts": {"none": 1, "Han": 1, "Latin": 6, "other": 0}})
    assert [(part.name, part.rows, part.share) for part in parts] == [
        ("Latin", 6, 0.75),
        ("Han (Chinese)", 1, 0.125),
        ("no letters: figures, signs", 1, 0.125),
    ]


def test_a_field_that_nothing_reads_is_named():
    """`catgory` costs every row its category, and no row is rejected for it."""
    assert data_report.remarks({"unused_fields": {"catgory": 1204}}) == [
        "Fields that nothing reads, with the rows that have them: catgory 1,204."
    ]
