"""Filled sheets are read however a spreadsheet saved them, and every fault is named at once."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib import rating_files, spreadsheet
from stages.lib.errors import UserError
from stages.lib.questions import COLUMNS, QUESTIONS
from tests.rated import as_csv

ITEMS = [f"i{number:016x}" for number in range(3)]


def row(number=0, **cells):
    texts = {"prompt": '=1+1; "quoted",\tand\nmore', "answer A": "'16:05", "answer B": "退款"}
    return {"item": ITEMS[number], "category": "c", **texts, "better": "A"} | cells


def read(folder, text, name="anna.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return rating_files.read(folder)


def faults(folder, text, name="anna.csv"):
    with pytest.raises(UserError) as raised:
        read(folder, text, name)
    return [line.strip().replace(f"{folder}/", "") for line in str(raised.value).splitlines()]


@pytest.mark.parametrize(
    ("delimiter", "ends", "mark", "columns"),
    list(product(",;\t", ("\n", "\r\n"), ("", "\ufeff"), (COLUMNS, COLUMNS[::-1]))),
)
def test_a_sheet_is_read_as_any_spreadsheet_saves_it(tmp_path, delimiter, ends, mark, columns):
    rows = [row(0, A_safe="no"), row(1, better="same", note="=x"), row(2, better="")]
    text = mark + as_csv(rows, columns, delimiter=delimiter, lineterminator=ends)

    found = read(tmp_path, text)

    assert [(one.rater, one.item, one.choices) for one in found] == [
        ("anna", ITEMS[0], {"better": "A", "A_safe": "no"}),
        ("anna", ITEMS[1], {"better": "same"}),
        ("anna", ITEMS[2], {}),
    ]
    assert [one.place for one in found] == [
        f"{tmp_path}/anna.csv:{line}" for line in (2, 4, 6)
    ]  # a prompt has two lines


@given(
    st.lists(
        st.fixed_dictionaries({}, optional={name: st.sampled_from(one.choices) for name, one in QUESTIONS.items()})
    )
)
def test_what_was_chosen_is_what_is_read(tmp_path_factory, chosen):
    rows = [{"item": f"i{number:016x}"} | one for number, one in enumerate(chosen)]
    blank = {"item": "i" + "f" * 16}
    text = spreadsheet.table(COLUMNS, [{"prompt": spreadsheet.as_text("=1")} | one for one in [*rows, blank]])

    assert [one.choices for one in read(tmp_path_factory.mktemp("ratings"), text)] == [*chosen, {}]


@pytest.mark.parametrize(("written", "meant"), [("a", "A"), (" B ", "B"), ("SAME", "same"), ("Same", "same")])
def test_case_and_blanks_do_not_matter(tmp_path, written, meant):
    (found,) = read(tmp_path, as_csv([row(better=written)]))
    assert found.choices == {"better": meant}


def test_rows_and_columns_that_a_spreadsheet_left_empty_are_nothing(tmp_path):
    text = f"item,better,,extra\n{ITEMS[0]},A,,\n,,,\n"
    assert [one.choices for one in read(tmp_path, text)] == [{"better": "A"}]


def test_no_file_is_no_rating(tmp_path):
    (tmp_path / "README.md").write_text("how to")
    assert rating_files.read(tmp_path) == []
    assert rating_files.read(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            as_csv([row(better="C"), row(1, better="tuned", A_safe="maybe")], lineterminator="\n"),
            [
                'anna.csv:2: better is "C". Write A, B or same, or leave it empty.',
                'anna.csv:4: better is "tuned". Write A, B or same, or leave it empty.',
                'anna.csv:4: A_safe is "maybe". Write yes or no, or leave it empty.',
            ],
        ),
        (
            f"item,beter\n{ITEMS[0]},A\n",
            ['anna.csv:2: the column "beter" is not one of the sheet\'s. Is better meant?'],
        ),
        (f"item,Better\n{ITEMS[0]},\n", ['anna.csv: the column "Better" is not one of the sheet\'s. Is better meant?']),
        (
            f"item,better,mood\n{ITEMS[0]},A,\n{ITEMS[1]},A,bad\n",
            [
                'anna.csv:3: the column "mood" is not one of the sheet\'s. Write remarks under note, or remove the '
                "column."
            ],
        ),
        (
            "better\nA\n",
            ['anna.csv: the column "item" is missing. Copy it from the sheet; ratings cannot be read without it.'],
        ),
        ("item,better\n,A\n", ["anna.csv:2: item is empty. Copy it from the same row of the sheet."]),
        (
            "item,better\n1.2E+15,A\n",
            ['anna.csv:2: item is "1.2E+15", which names no pair of answers. Copy it from the same row of the sheet.'],
        ),
        (
            f"item,better\n{ITEMS[0]},A,B\n",
            [
                "anna.csv:2: not CSV: the row has 3 cells, the header 2; a cell that holds a comma stands in quotation "
                "marks. Mend the line in a text editor, or save the file as CSV again."
            ],
        ),
        (
            f"item,better,note\n{ITEMS[0]},A,caf\xe9\n".encode("latin-1"),
            ["anna.csv:2: byte 0xe9 is not UTF-8. Save the file as UTF-8 (in a spreadsheet: CSV UTF-8)."],
        ),
        ("item,better\n", ["anna.csv:1: the file holds no row. Fill or remove the file."]),
    ],
)
def test_faults_are_named_with_their_place_and_the_way_out(tmp_path, text, expected):
    assert faults(tmp_path, text) == expected


def test_the_faults_of_all_files_are_told_at_once(tmp_path):
    read(tmp_path, as_csv([row()]), "anna.csv")
    (tmp_path / "ben.xlsx").write_bytes(b"PK\x03\x04")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/cleo.csv").write_text(as_csv([row()]))
    (tmp_path / "dora.CSV").write_text(as_csv([row(better="?")], lineterminator="\n"))

    assert faults(tmp_path, as_csv([row()]), "Anna.csv") == [
        "anna.csv and Anna.csv bear the name of one rater. Join them, or rename one.",
        "ben.xlsx is no rater's file: only CSV files are read here. Save it as CSV (UTF-8), or remove it.",
        f"more/cleo.csv lies in a folder of its own. Put it into {tmp_path}, one file a rater.",
        'dora.CSV:2: better is "?". Write A, B or same, or leave it empty.',
    ]


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("better", "Ａ", "A"),  # full-width, as a Chinese keyboard writes it
        ("better", "ｂ", "B"),
        ("better", "Tie", "same"),
        ("A_safe", "Y", "yes"),
        ("A_safe", "ｎ", "no"),
        ("A_safe", "true", "yes"),
        ("A_safe", "FALSE", "no"),  # as a spreadsheet makes of it
    ],
)
def test_what_clearly_means_an_answer_is_taken_for_it(tmp_path, name, written, meant):
    (found,) = read(tmp_path, as_csv([row(better="") | {name: written}]))
    assert found.choices == {name: meant}


COPIES = (
    *("anna (1)", "anna(1)", "anna（1）", "anna (1) (2)", "ANNA (2)", "anna - Copy", "anna - Copy (2)", "anna copy"),
    *("anna - Kopie", "anna Kopie", "anna - 副本", "anna 副本", "anna副本"),
    *("Copy of anna", "Copy of anna (2)", "Kopie von anna"),
)


@pytest.mark.parametrize("name", COPIES)
def test_a_name_that_marks_a_copy_is_refused_beside_the_file_without_it(tmp_path, name):
    read(tmp_path, as_csv([row(better="A")]))
    assert faults(tmp_path, as_csv([row(better="B")]), f"{name}.csv") == [
        f"{name}.csv looks like a copy of anna.csv. Remove one, or, if two people rated, name each file after one."
    ]


def test_a_name_that_only_looks_like_a_copys_is_a_raters(tmp_path):
    for number, name in enumerate(("carla (2)", "copy", "anna", "annacopy", "anna2", "(1)"), start=1):
        assert len(read(tmp_path, as_csv([row(note=str(number))]), f"{name}.csv")) == number


def test_sheets_that_nobody_has_filled_in_yet_may_be_the_same(tmp_path):
    for name in ("anna", "ben"):
        assert all(not one.choices for one in read(tmp_path, as_csv([row(better="")]), f"{name}.csv"))


def test_two_copies_are_refused_though_the_first_file_is_gone(tmp_path):
    read(tmp_path, as_csv([row(better="A")]), "anna (1).csv")
    assert len(faults(tmp_path, as_csv([row(better="B")]), "anna (2).csv")) == 1


def test_a_file_is_refused_that_holds_what_another_does_whatever_its_name(tmp_path):
    read(tmp_path, as_csv([row()]))
    expected = (
        "{} and anna.csv hold the same, to the byte. Remove one; if two raters did agree on all, write so under note "
        "in one of the files."
    )
    assert faults(tmp_path, as_csv([row()]), "berta.csv") == [expected.format("berta.csv")]
    (tmp_path / "berta.csv").unlink()
    assert faults(tmp_path, as_csv([row()]), "anna (1).csv") == [expected.format("anna (1).csv")]
    (tmp_path / "anna (1).csv").unlink()
    assert len(read(tmp_path, as_csv([row(note="as anna says")]), "berta.csv")) == 2


@pytest.mark.parametrize(
    ("name", "written"),
    [
        *(("better", word) for word in ("equal", "一样", "yes", "1", "AB")),
        *(("A_safe", word) for word in ("ja", "nein", "是", "否", "tie", "1", "A")),
    ],
)
def test_a_word_that_the_sheet_does_not_offer_is_not_guessed_at(tmp_path, name, written):
    (fault,) = faults(tmp_path, as_csv([row() | {name: written}], lineterminator="\n"))
    assert fault.startswith(f'anna.csv:2: {name} is "{written}". Write ')


def test_what_spreadsheets_and_file_managers_leave_is_no_rating(tmp_path):
    for name in (".~lock.anna.csv#", "~$anna.csv", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_bytes(b"\x00x")
    assert len(read(tmp_path, as_csv([row()]))) == 1
