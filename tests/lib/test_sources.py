"""Raw files, row by row."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib import json_rows, sources
from stages.lib.errors import UserError
from stages.lib.rejects import Code


@pytest.fixture
def read(tmp_path):
    """`read("rows.json", text)`: (line, value) of each row, or (line, code) where it was rejected."""

    def from_text(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return [(row.line, row.reject.code if row.reject else row.value) for row in sources.read(path)]

    return from_text


def test_a_row_of_an_array_stands_at_the_line_where_it_begins(read):
    assert read("rows.json", '[\n  {"a": "1"},\n\n  {"a":\n "2"}, {"a": "3"}\n]\n') == [
        (2, {"a": "1"}),
        (4, {"a": "2"}),
        (5, {"a": "3"}),
    ]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "ROWS.JSON"])
def test_json_is_read_by_its_text_not_by_its_name(read, name):
    assert read(name, '{"a": "1"}\n\n{"a": "2"}\r\n') == [(1, {"a": "1"}), (3, {"a": "2"})]
    assert read(name, '[{"a": "1"}, {"a": "2"}]') == [(1, {"a": "1"}), (1, {"a": "2"})]
    assert read(name, '{\n "a": "1"\n}\n{\n "a": "2"\n}') == [(1, {"a": "1"}), (4, {"a": "2"})]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_row(read, name):
    text = "a\n1\n" if name.endswith("csv") else '{"a": "1"}\n'
    assert [value for _, value in read(name, b"\xef\xbb\xbf" + text.encode())] == [{"a": "1"}]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"a": "1",}', "column"),
        ('{"a": "1"} and more', "text follows"),
        ('{"a": "1", "a": "2"}', '"a" stands twice'),  # every JSON library keeps the last, silently
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": 1e999}', "too large"),
        ('{"a": ' + "9" * 5000 + "}", "too large"),
        ('{"a": ' + "[" * 5000 + "]" * 5000 + "}", "nested"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "nested"),
        ('{"a": "un\tescaped"}', "line break or tab"),
    ],
)
def test_json_is_strict_and_one_bad_line_costs_one_row(tmp_path, line, said):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": "first"}}\n{line}\n{{"a": "last"}}\n', encoding="utf-8")
    first, bad, last = sources.read(path)
    assert (first.value, last.value, last.line) == ({"a": "first"}, {"a": "last"}, 3)
    assert (bad.line, bad.reject.code, bad.cut) == (2, Code.JSON_SYNTAX, False)
    assert said in bad.reject.reason


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[\n{"a": "1"},\n{"a": 2,}\n, {"a": "3"}]', 3),
        ('[\n{"a": "1"}\n{"a": "2"}\n]', 3),  # a comma is missing
        ('[\n{"a": "1"},\n]', 2),  # a comma too many
        ('[\n{"a": "1"}\n', 3),  # cut short
        ('[\n{"a": "1"}\n]\n[]', 4),
    ],
)
def test_a_broken_array_keeps_the_rows_before_the_error(tmp_path, text, line):
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    kept, bad = sources.read(path)
    assert kept.value == {"a": "1"}
    assert (bad.line, bad.reject.code, bad.cut) == (line, Code.JSON_SYNTAX, True)


MARK = "a conflict mark of git stands here: decide between the two versions and remove the marks"
SEAM = "a byte order mark stands in the middle of the file: two files were put together; remove it"


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ('[\n<<<<<<< HEAD\n{"a": "1"}\n]', MARK, 2),
        ('[{"a": "1"}\n<<<<<<< HEAD\n, {"a": "2"}\n=======\n>>>>>>> main\n]', MARK, 2),
        ('[{"a": "1"},\n<<<<<<< HEAD\n{"a": "2"}\n]', MARK, 2),
        ('[{"a": "1"}]\n>>>>>>> main\n', MARK, 2),
        ('<<<<<<< HEAD\n[{"a": "1"}]\n', MARK, 1),
        ('[{"a": "1"}]\n\ufeff[{"a": "2"}]', SEAM, 2),
        ('[{"a": "1"}\n\ufeff, {"a": "2"}]', SEAM, 2),
    ],
)
def test_a_trace_of_what_was_done_to_the_file_is_called_so_wherever_it_stands(tmp_path, text, what, line):
    (tmp_path / "rows.json").write_text(text, encoding="utf-8")
    bad = list(sources.read(tmp_path / "rows.json"))[-1]
    assert bad.reject.reason == f"not JSON: {what} (column 1); nothing after it was read"
    assert bad.line == line


def test_a_key_that_stands_twice_costs_one_row_of_an_array(read):
    assert read("rows.json", '[{"a": "1", "a": "2"},\n{"a": "3"}]') == [(1, Code.JSON_SYNTAX), (2, {"a": "3"})]


@pytest.mark.parametrize("ahead", ["", '{"a": broken}\n'], ids=["first", "second"])
@pytest.mark.parametrize("ending", ["\n", ""], ids=["more follows", "last"])
def test_a_row_of_more_than_a_megabyte_makes_a_file_no_other_form(read, ahead, ending):
    """Read as values that follow one another, the file would end at the first broken row."""
    long = "x" * (json_rows._HEAD + 1)
    follow = '{"a": "2",}\n{"a": "3"}\n' if ending else ""
    found = read("rows.jsonl", f'{ahead}{{"a": "{long}"}}{ending}{follow}')
    first = len(ahead.splitlines()) + 1
    more = [(first + 1, Code.JSON_SYNTAX), (first + 2, {"a": "3"})] if ending else []
    assert found == [(1, Code.JSON_SYNTAX)] * bool(ahead) + [(first, {"a": long}), *more]


def test_a_line_that_is_not_utf8_costs_one_row_of_jsonl(read):
    content = b'{"a": "1"}\n' + '{"a": "退款"}\n'.encode("gbk") + b'{"a": "3"}\n'
    assert read("rows.jsonl", content) == [(1, {"a": "1"}), (2, Code.NOT_UTF8), (3, {"a": "3"})]


@pytest.mark.parametrize(
    ("name", "text"), [("rows.json", '[{"a":\n"退款"}]'), ("rows.csv", "a\n退款\n")], ids=["array", "csv"]
)
def test_another_file_that_is_not_utf8_is_one_rejected_row_at_the_bad_byte(read, name, text):
    assert read(name, text.encode("gbk")) == [(2, Code.NOT_UTF8)]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_a_file_saved_as_utf_16_or_32_is_called_so(tmp_path, name, encoding):
    path = tmp_path / name
    path.write_bytes("instruction,output\n1,2\n".encode(encoding))
    (row,) = sources.read(path)
    assert (row.line, row.reject.code, row.cut) == (1, Code.NOT_UTF8, True)
    assert row.reject.reason == f"the file is {encoding[:6].upper()}, not UTF-8; nothing of it was read"


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", ""), ("a.json", " \n"), ("a.json", "[]"), ("a.jsonl", ""), ("a.csv", ""), ("a.csv", "instruction\n")],
)
def test_a_file_without_rows_is_said_to_be_empty(read, name, text):
    assert read(name, text) == [(1, Code.EMPTY_FILE)]


def test_csv_cells_are_text_byte_for_byte(read):
    """Field fault 6: words that data libraries read as missing values or numbers."""
    cells = ["null", "NA", "None", "nan", "007", "1e3", "", " padded ", "TRUE"]
    text = "output,n\n" + "".join(f"{cell},{number}\n" for number, cell in enumerate(cells))
    assert [value["output"] for _, value in read("rows.csv", text)] == cells


def test_a_csv_row_stands_at_the_line_where_it_begins(read):
    text = 'instruction,output\r\n"two\r\nlines","a ""word"""\r\n\r\nlast,x\r\n'
    assert read("rows.csv", text) == [
        (2, {"instruction": "two\r\nlines", "output": 'a "word"'}),
        (5, {"instruction": "last", "output": "x"}),
    ]


@pytest.mark.parametrize("line", ['"a" b,c', "only one", "one,two,three"])
def test_a_bad_csv_line_costs_one_row(read, line):
    rows = read("rows.csv", f"instruction,output\na,b\n{line}\nc,d\n")
    assert [line for line, _ in rows] == [2, 3, 4]
    assert rows[1][1] == Code.CSV_SYNTAX


def test_a_csv_header_that_names_a_column_twice_is_refused(read):
    assert read("rows.csv", "output,output\na,b\n") == [(1, Code.CSV_SYNTAX)]


def test_a_quotation_mark_that_is_never_closed_says_that_the_rest_is_lost(tmp_path):
    (tmp_path / "rows.csv").write_text('a,b\n1,2\n"3,4\n' + "5,6\n" * 50)
    *good, last = sources.read(tmp_path / "rows.csv")
    assert [row.value for row in good] == [{"a": "1", "b": "2"}]
    assert (last.line, last.cut) == (3, True)
    assert last.reject.reason == "not CSV: a quotation mark is never closed; nothing after it was read"


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_cells_stand_between_whatever_the_spreadsheet_puts_there(read, mark):
    assert read("rows.csv", f'a{mark}b\n"1, 2; 3"{mark}4\n') == [(2, {"a": "1, 2; 3", "b": "4"})]


def test_a_line_that_is_no_object_costs_itself_alone(read):
    assert read("rows.jsonl", '{"a": "1"}\n# a comment\n{"a": "2"}\n') == [
        (1, {"a": "1"}),
        (2, Code.JSON_SYNTAX),
        (3, {"a": "2"}),
    ]


def test_an_object_whose_second_line_opens_an_object_is_one_row(read):
    assert read("rows.json", '{"a": [\n{"b": "1"},\n{"b": "2"}\n]}') == [(1, {"a": [{"b": "1"}, {"b": "2"}]})]
    assert read("rows.json", '{"a": [{"b": "1"},\n{"b": "2"}]}') == [(1, {"a": [{"b": "1"}, {"b": "2"}]})]


def test_a_csv_cell_may_be_long(read):
    assert read("rows.csv", f"output\n{'x' * 200_000}\n") == [(2, {"output": "x" * 200_000})]


def test_parquet_rows_are_numbered_and_null_is_null(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"instruction": ["a", "b"], "input": pa.array([None, None], pa.string())}), path)
    rows = [(row.line, row.value) for row in sources.read(path)]
    assert rows == [(1, {"instruction": "a", "input": None}), (2, {"instruction": "b", "input": None})]


def test_a_file_that_only_claims_to_be_parquet_is_one_rejected_row(read):
    assert read("rows.parquet", "no such thing") == [(1, Code.UNREADABLE)]


ROWS = [{"a": "1", "b": "退款 [{"}, {"a": 'quote " and \\\\ and \n', "b": "é" * 50}, {"a": "", "b": "x, y"}]


def packed(data, ending):
    return gzip.compress(data, mtime=0) if ending == ".gz" else pa.compress(data, codec="zstd", asbytes=True)


def as_bytes(form, rows):
    if form == "csv":
        cells = [[json.dumps(row[name], ensure_ascii=False).replace('\\\\"', '""') for name in "ab"] for row in rows]
        return "\n".join(["a,b", *map(",".join, cells)]).encode()
    if form == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue().to_pybytes()
    return (json.dumps(rows, indent=1) if form == "json" else "\n".join(map(json.dumps, rows))).encode()


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("form", ["json", "jsonl", "parquet"])
def test_a_compressed_file_is_read_as_the_file_in_it(read, form, ending):
    data = as_bytes(form, ROWS)
    plain = read(f"rows.{form}", data)
    assert [value for _, value in plain] == ROWS
    assert read(f"rows.{form}{ending}", packed(data, ending)) == plain


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_csv_too(read, ending):
    assert read(f"ROWS.CSV{ending.upper()}", packed(b"a;b\n1;007\n", ending)) == [(2, {"a": "1", "b": "007"})]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_a_compressed_file_that_ends_too_early_keeps_the_rows_before(tmp_path, form, ending):
    path = tmp_path / f"rows.{form}{ending}"
    rows = [{"a": f"{number} {number * 7919}"} for number in range(3000)]
    path.write_bytes(packed(as_bytes(form, rows), ending)[:-9])
    *good, last = sources.read(path)
    assert [row.value for row in good] == rows[: len(good)]
    assert (last.reject.code, last.cut) == (Code.UNREADABLE, True)
    assert last.line > good[-1].line if good else last.line == 1


def test_what_only_claims_to_be_compressed_is_one_rejected_row(read):
    assert read("rows.jsonl.gz", '{"a": "1"}') == [(1, Code.UNREADABLE)]


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=40) | st.integers(), max_size=3), max_size=8),
    indent=st.sampled_from([None, 0, 2]),
    read_at_once=st.integers(1, 40),
    broken=st.none() | st.tuples(st.integers(0, 500), st.sampled_from(['"', ",", "]", "{", "", "x"])),
)
@settings(max_examples=300, deadline=None)
def test_an_array_reads_the_same_however_little_of_it_is_in_memory(
    tmp_path_factory, rows, indent, read_at_once, broken
):
    text = json.dumps(rows, indent=indent, ensure_ascii=False)
    if broken:
        place = broken[0] % len(text)
        text = text[:place] + broken[1] + text[place + 1 :]
    path = tmp_path_factory.mktemp("raw") / "a.json"
    path.write_text(text, encoding="utf-8", newline="")
    whole = list(sources.read(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_READ", read_at_once)
        assert [row[:3] for row in sources.read(path)] == [row[:3] for row in whole]


def test_files_are_found_sorted_and_what_cannot_be_read_is_named(tmp_path):
    names = [
        "b.json",
        "a/z.csv",
        "a.jsonl",
        "c.jsonl.gz",
        "d.gz",
        "notes.txt",
        ".gitignore",
        "README.md",
        "big.parquet.dvc",
        ".cache/x.json",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    readable, strange = sources.find(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in readable] == [
        "a.jsonl",
        "a/z.csv",
        "b.json",
        "c.jsonl.gz",
    ]
    assert [path.relative_to(tmp_path).as_posix() for path in strange] == [".cache/x.json", "d.gz", "notes.txt"]


def test_a_linked_folder_is_named_not_followed(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "raw/link").symlink_to(tmp_path / "elsewhere")
    assert sources.find(tmp_path / "raw") == ([], [tmp_path / "raw/link"])
    assert sources.find(tmp_path / "nowhere") == ([], [])


@pytest.mark.parametrize("name", ["missing.json", "missing.parquet", "rows.xlsx"])
def test_a_file_that_cannot_be_opened_is_the_users_to_mend(tmp_path, name):
    with pytest.raises(UserError, match=name):
        list(sources.read(tmp_path / name))


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_rows_come_back_as_they_were_written(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("raw")
    (folder / "a.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (folder / "b.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    for name in ("a.json", "b.jsonl"):
        assert [row.value for row in sources.read(folder / name)] == rows


def reasons(path):
    return [row.reject and row.reject.reason for row in sources.read(path)]


def test_two_broken_lines_at_the_head_cost_themselves_alone(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{\"a\": None}\n{'a': 1}\n" + '{"a": "1"}\n' * 8, encoding="utf-8")
    assert [bool(reason) for reason in reasons(path)] == [True, True] + [False] * 8


def test_turns_on_a_line_each_are_not_taken_for_rows(read):
    turns = [{"role": role, "content": "Hi"} for role in ("user", "assistant") * 4]
    text = '{"messages": [\n' + ",\n".join(map(json.dumps, turns)) + "\n]}\n"
    assert read("rows.json", text * 2) == [(1, {"messages": turns}), (11, {"messages": turns})]


def test_commas_after_lines_are_named_on_each(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "1"},\n{"a": "2"},\n{"a": "3"}\n', encoding="utf-8")
    first, second, third = reasons(path)
    assert first == second
    assert "a comma follows the row" in first
    assert third is None


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("a.json", b"PK\x03\x04....", "the file is a zip archive (as .xlsx and .docx are), not JSON"),
        ("a.csv", b"PK\x03\x04....", "the file is a zip archive (as .xlsx and .docx are), not CSV"),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "the file is compressed with gzip, not JSONL"),
        ("a.json", b"%PDF-1.7", "the file is a PDF, not JSON"),
        ("a.json", b"Hello team,\nsee below", 'not JSON: the file begins with "Hello team, see belo" (column 1)'),
        ("a.json.gz", b'{"a": 1}', "the file is not compressed with gzip"),
        ("a.json.zst", b'{"a": 1}' * 9, "the file is not compressed with zstd"),
        ("a.json.gz", gzip.compress(b'[{"a": "1"}]', mtime=0)[:-9], "the compressed file is cut off"),
        ("a.json.gz", gzip.compress(b'[{"a": "1"}]', mtime=0)[:-4] + b"1234", "the gzip file is damaged"),
        ("a.parquet", b"a,b\n1,2\n" * 9, "the file is no Parquet file"),
    ],
)
def test_a_file_that_is_something_else_is_called_by_its_name(tmp_path, name, data, what):
    (tmp_path / name).write_bytes(data)
    reason = reasons(tmp_path / name)[-1]
    assert reason.startswith(what)
    assert reason.endswith(" was read")


def test_excels_own_line_names_the_mark_between_cells_and_is_no_row(read):
    assert read("rows.csv", "sep=;\na;b\n1;2, 3, 4, 5\n") == [(3, {"a": "1", "b": "2, 3, 4, 5"})]
    assert read("more.csv", "sep=,a\n1,2\n") == [(2, {"sep=": "1", "a": "2"})]


def test_blanks_around_a_column_name_do_not_count(read):
    assert read("rows.csv", "a, b \n1,2\n") == [(2, {"a": "1", "b": "2"})]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("1,2,3", "the row has 3 cells, the header 2; a cell that holds a comma stands in quotation marks"),
        ("1", "the row has 1 cell, the header 2; a cell that holds a comma stands in quotation marks"),
        ('"1"x,2', "a quotation mark stands inside a cell; write it twice"),
    ],
)
def test_a_bad_csv_line_says_how_it_is_written_right(tmp_path, line, what):
    (tmp_path / "a.csv").write_text(f"a,b\n{line}\n", encoding="utf-8")
    assert reasons(tmp_path / "a.csv") == [f"not CSV: {what}"]


@pytest.mark.parametrize(
    ("make", "what", "is_strange"),
    [
        (lambda path: path.mkdir(), "it is a folder; name the files in it", False),
        (lambda path: path.symlink_to("gone"), "it is a link to a file that is gone", True),
        pytest.param(
            getattr(os, "mkfifo", None),
            "it is no ordinary file",
            True,
            marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files"),
        ),
        (lambda path: None, "it is not there", False),
    ],
)
def test_what_is_no_file_is_said_to_be_none(tmp_path, make, what, is_strange):
    make(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=what):
        list(sources.read(tmp_path / "a.jsonl"))
    assert [sources.why_not(path) for path in sources.find(tmp_path)[1]] == [what] * is_strange


@pytest.mark.parametrize("between", ["", " ", "\r", "\n"])
def test_rows_may_stand_one_behind_the_other(read, between):
    rows = [{"a": str(number)} for number in range(5)]
    assert [value for _, value in read("rows.jsonl", between.join(map(json.dumps, rows)))] == rows
    pairs = "\n".join(f'{{"a": "{number}"}}{between.strip()} {{"b": "1"}}' for number in range(3))
    assert [line for line, _ in read("rows.jsonl", pairs)] == [1, 1, 2, 2, 3, 3]


def test_a_broken_csv_row_of_several_lines_says_that_others_may_be_lost_and_stops_the_run(tmp_path):
    rows = [f"q{number},a{number}" for number in range(30)]
    rows[4], rows[20] = 'q4,"a4', 'q20,"a20"'
    (tmp_path / "a.csv").write_text("\n".join(["prompt,completion", *rows]), encoding="utf-8")
    found = list(sources.read(tmp_path / "a.csv"))
    (lost,) = [row for row in found if row.reject]
    assert (lost.line, lost.cut) == (6, True)
    assert lost.reject.reason.endswith("the row goes on to line 22, and others may be lost in it")
    assert len(found) == 4 + 1 + 9


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [6, 8, 20])
@pytest.mark.parametrize(
    ("header", "row", "begin", "close"),
    [
        ("a;b;c", "q{};a{};c", 'q4;"a4;c', 'q{};a{}";c'),
        ("a;b;c", "q{};a{};c", '"q4;a4;c', 'q{}";a{};c'),
        ("a,b,c,d", "q{},,c,a{}", '"no, thanks",,c,"a4', 'q{},,c,a{}"'),
    ],
)
def test_a_cell_that_has_swallowed_rows_is_rejected(tmp_path, header, row, begin, close, last, end):
    rows = [row.format(number, number) for number in range(30)]
    rows[4], rows[last] = begin, close.format(last, last)
    (tmp_path / "a.csv").write_bytes(end.join([header, *rows]).encode())
    found = list(sources.read(tmp_path / "a.csv"))
    (lost,) = [row for row in found if row.reject]
    assert f"one cell holds {last - 3} lines that look like rows" in lost.reject.reason
    assert (lost.line, len(found)) == (6, 30 - (last - 4))


@pytest.mark.parametrize(("last", "are_rows"), [(8, False), (9, True), (20, True)])
def test_lines_of_two_cells_are_rows_from_six_on(tmp_path, last, are_rows):
    rows = [f"q{number},a{number}" for number in range(30)]
    rows[4], rows[last] = 'q4,"a4', f'q{last},a{last}"'
    (tmp_path / "a.csv").write_text("\n".join(["a,b", *rows]), encoding="utf-8")
    assert bool([row for row in sources.read(tmp_path / "a.csv") if row.reject]) == are_rows


@pytest.mark.parametrize(
    "cell", ["Here is the file:\nname,city\nAnn,Oslo", "def swap(a):\n  x=f(a,1)\n  return g(x,2)"]
)
def test_code_and_small_tables_in_the_last_of_two_cells_are_left_alone(tmp_path, cell):
    (tmp_path / "a.csv").write_text(f'prompt,completion\nWrite it.,"{cell}"\n', encoding="utf-8")
    assert [row.value for row in sources.read(tmp_path / "a.csv")] == [{"prompt": "Write it.", "completion": cell}]


@pytest.mark.parametrize(("lines", "are_rows"), [(11, False), (12, True)])
def test_loosely_written_rows_are_known_when_they_are_many(tmp_path, lines, are_rows):
    rows = [f"q{number}, a{number}" for number in range(30)]
    last = 4 + lines - 1
    rows[4], rows[last] = 'q4,"a4', f'q{last}, a{last}"'
    (tmp_path / "a.csv").write_text("\n".join(["prompt,completion", *rows]), encoding="utf-8")
    lost = [row.reject.reason for row in sources.read(tmp_path / "a.csv") if row.reject]
    assert len(lost) == are_rows
    assert all(f"one cell holds {lines} lines that look like rows" in reason for reason in lost)


LETTER = ["Dear Ann,", "thank you, and", "all the best.", *["Buy now, please."] * 8, "We ship, today.", "Bye"]


@pytest.mark.parametrize(
    "cell",
    [
        LETTER,
        ["Of course!", "Rice, cooked", "Peas, frozen", "Salt, little"],  # a comma in each line, as rows have
        ["The largest:", "Russia 17,098 km²", "Canada 9,984 km²", "China 9,596 km²"],
        ["name,team", *[f"Ann {number},billing" for number in range(20)]],  # a table with as many columns
        ["Dear Ann", "yes,", "no,", "perhaps,"],
        ["Here it is:", "a,b"],
    ],
    ids=lambda cell: cell[0],
)
def test_an_answer_of_several_lines_is_no_row_that_swallowed_others(read, cell):
    cell = "\n".join(cell)
    assert read("a.csv", f'prompt,completion\nq,"{cell}"\n') == [(2, {"prompt": "q", "completion": cell})]
    assert read("b.csv", f'completion,prompt\n"{cell}",q\n') == [(2, {"prompt": "q", "completion": cell})]


def test_a_file_of_one_column_has_no_rows_inside_a_cell(read):
    assert read("a.csv", 'output\n"a\nb\nc\nd"\n') == [(2, {"output": "a\nb\nc\nd"})]


def test_a_fault_in_a_csv_header_stops_the_run(tmp_path):
    (tmp_path / "a.csv").write_text('"prompt"s,completion\na,b\nc,d\n', encoding="utf-8")
    (row,) = sources.read(tmp_path / "a.csv")
    assert (row.line, row.cut) == (1, True)


def test_columns_without_a_name_and_a_cell_are_nothing(read):
    assert read("a.csv", "a,b,,\n1,2,,\n3,4,x,\n") == [(2, {"a": "1", "b": "2"}), (3, {"a": "3", "b": "4", "": "x"})]


def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["output", "output"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert reasons(tmp_path / "a.parquet") == ["the file has two columns of one name; nothing of it was read"]
