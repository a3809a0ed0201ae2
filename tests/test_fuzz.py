"""The tool that looks for files on which validate and split break: it finds nothing, but what is planted."""

import json
from itertools import count
from pathlib import Path
from random import Random

import pytest

from stages import split as split_stage
from stages import validate as validate_stage
from stages.lib import corpus, judging, quality, sources
from stages.lib.records import from_table
from tools import fuzz, fuzz_files

ROOT = Path(__file__).resolve().parent.parent
ROWS = [{"prompt": "Where is it?", "completion": 'On its "way"'}, {"prompt": "哪里？", "completion": "路上,\n快了"}]


@pytest.fixture(autouse=True)
def clone(monkeypatch):
    """The tool takes what it does not draw from params.yaml."""
    monkeypatch.chdir(ROOT)


def tried(seed):
    return fuzz.run(seed, 0, fuzz.Tally())


def test_some_seconds_of_trying_show_no_fault():
    tally = fuzz.run(1, 4, fuzz.Tally())
    assert tally.failures == {}
    assert tally.sets > 1
    assert tally.rows == tally.kept + tally.codes.total() > 0


def lose_a_row(monkeypatch):
    from_lines = sources.json_rows.from_lines
    monkeypatch.setattr(
        sources.json_rows, "from_lines", lambda *lines: (row for row in from_lines(*lines) if row.line % 2)
    )


def change_a_text(monkeypatch):
    parse = judging.forms.parse
    monkeypatch.setattr(judging.forms, "parse", lambda row, *more: parse({**row, "prompt": "?"}, *more))


def break_on_a_word(monkeypatch):
    def breaking(record, params):
        raise ZeroDivisionError("by no means")

    monkeypatch.setattr(quality, "judge", breaking)


def write_the_time(monkeypatch):
    time = count()
    monkeypatch.setattr(corpus, "variety", lambda *_: {"time": next(time)})


def read_in_the_order_of_the_disk(monkeypatch):
    find, order = sources.find, count()
    monkeypatch.setattr(sources, "find", lambda folder: (find(folder)[0][:: 1 - 2 * (next(order) % 2)], []))


def split_otherwise_each_time(monkeypatch):
    assign, order = split_stage.assign, count()

    def swapped(*given):
        others = {"train": "validation", "validation": "train"} if next(order) % 2 else {}
        return [others.get(name, name) for name in assign(*given)]

    monkeypatch.setattr(split_stage, "assign", swapped)


def forget_what_is_contaminated(monkeypatch):
    monkeypatch.setattr(split_stage, "_rejected", lambda *_: [])


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (lose_a_row, "rows are lost, the first at"),
        (change_a_text, "'?' does not stand in the row"),
        (break_on_a_word, "ZeroDivisionError in test_fuzz.py"),
        (write_the_time, "gives another result: validate.json"),
        (read_in_the_order_of_the_disk, "validate, with what it remembers, gives another result"),
        (split_otherwise_each_time, "split gives another result when it is run again"),
        (forget_what_is_contaminated, "records to split, but"),
    ],
)
def test_a_planted_fault_is_found_and_its_seed_shows_it_again(monkeypatch, plant, told):
    plant(monkeypatch)
    seed = next(seed for seed in range(1, 100) if told in tried(seed).failures.get(seed, ""))
    assert f"FAILED --seed {seed} --minutes 0: " in str(tried(seed))


def test_the_command_prints_a_tally_and_its_exit_code_tells_of_failures(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fuzz", "--minutes", "0", "--seed", "4"])  # one that makes rows
    with pytest.raises(SystemExit) as ended:
        fuzz.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("fuzz: 1 sets · ")
    break_on_a_word(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        fuzz.main()
    assert ended.value.code == 1
    assert "FAILED --seed 4 --minutes 0: ZeroDivisionError" in capsys.readouterr().out


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("form", fuzz_files.FORMS)
def test_the_independent_reader_reads_every_form(form, packed):
    for seed in range(5):
        data = fuzz_files.compressed(fuzz_files.encoded(Random(seed), ROWS, form), packed)
        found = fuzz.strictly_read(f"ROWS{fuzz_files.FORMS[form]}{packed}", data)
        assert [row for _, row in found] == ROWS


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": NaN}\n{"a": 1, "a": 2}\noops\n\n{"b": 2}', [(1, {"a": 1}), (6, {"b": 2})]),
        ("a.json", '[{"a": 1},\n{"a": 2},\n oops, {"a": 3}]', [(1, {"a": 1}), (2, {"a": 2})]),
        ("a.json", '{\n"a": 1}\n{\n"a": 2}', [(1, {"a": 1}), (3, {"a": 2})]),
        ("a.csv", 'a;b\n"1\n";2\n3\n4;5\n', [(2, {"a": "1\n", "b": "2"}), (5, {"a": "4", "b": "5"})]),
        ("a.csv", "a,a\n1,2\n", []),
        ("a.json.gz", "[]", []),
        ("a.parquet", "[]", []),
    ],
)
def test_the_independent_reader_is_strict(name, text, expected):
    assert fuzz.strictly_read(name, text.encode()) == expected


def test_a_seed_gives_the_same_files_and_another_seed_others():
    assert fuzz_files.raw_files(Random(4)) == fuzz_files.raw_files(Random(4)) != fuzz_files.raw_files(Random(5))


def test_the_rows_that_are_made_are_good_in_every_form_until_a_fault_is_put_in(tmp_path, params_for):
    rng = Random(1)
    rows = [fuzz_files.raw_row(rng) for _ in range(300)]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    params = params_for("validate", columns=fuzz_files.COLUMNS, max_reject_share=1.0)
    outcome = validate_stage.validate(tmp_path / "raw", params, tmp_path / "memory")
    assert set(outcome.metrics["rejected"]) <= {"exact-duplicate", "near-duplicate", "wrong-script"}
    assert {len(record.messages) for record in from_table(outcome.kept)} == {2, 3, 4, 5, 6, 7}
    # A few faults put in what stood there already: over 60 seeds 247 of the 300 rows differ, 224 at least.
    assert sum(fuzz_files.faulty(rng, row) != row for row in rows) > 200
