"""Question rows: each with its place, and a sentence for each that cannot be asked."""

import json

import pytest

from stages.lib.errors import UserError
from stages.lib.question_rows import read


def test_every_row_comes_with_its_place_and_what_it_says(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.jsonl").write_text('{"prompt": "c?", "category": "x"}\n', encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps([{"question": "a?"}, {"question": "b?"}]), encoding="utf-8")
    assert [(one.place, one.row, one.question.text) for one in read(tmp_path, "")] == [
        ("a.json:1", {"question": "a?"}, "a?"),
        ("a.json:1 (row 2 of the line)", {"question": "b?"}, "b?"),
        ("sub/b.jsonl:1", {"prompt": "c?", "category": "x"}, "c?"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"answer": "4"}', "the row asks nothing. Add a question"),
        ('{"prompt": "a?",}', "comma"),
        ('"a?"', "the row asks nothing. Add a question"),
    ],
)
def test_a_row_that_cannot_be_asked_says_why_and_what_waits_for_it(tmp_path, line, reason):
    (tmp_path / "a.jsonl").write_text(f'{{"prompt": "a?"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"/a\.jsonl:2: .*\. Until then it cannot be sung\.") as raised:
        list(read(tmp_path, "it cannot be sung"))
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "question\n怎么？\n".encode("gbk"),
            "is not UTF-8. Save the file as UTF-8 (in a spreadsheet: CSV UTF-8). Until",
        ),
        (b"", "the file holds no row. Fill or remove the file. Until"),
    ],
)
def test_a_file_that_cannot_be_read_says_how_it_is_mended(tmp_path, content, sentence):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError) as raised:
        list(read(tmp_path, "it cannot be sung"))
    assert sentence in str(raised.value)


def test_a_file_that_is_passed_over_is_named_and_a_folder_need_not_be_there(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("Well?", encoding="utf-8")
    assert list(read(tmp_path, "")) == []
    assert "notes.txt was not read: only .json" in capsys.readouterr().err
    assert list(read(tmp_path / "none", "")) == []
