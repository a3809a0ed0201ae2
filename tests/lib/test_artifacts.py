"""What stages hand on is whole or not there, and the same bytes for the same content."""

import json
import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib import artifacts
from stages.lib.errors import UserError

TABLE = pa.table({"id": ["a", "b"], "input_ids": pa.array([[1, 2], [3]], pa.list_(pa.int32()))})


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("before", [{}, {"old.txt": b"old", "sub/older.txt": b"older"}])
def test_a_folder_is_replaced_whole(tmp_path, before):
    for name, content in before.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(content)
    with artifacts.replacing(tmp_path / "out") as work:
        (work / "new.txt").write_bytes(b"new")
    assert tree(tmp_path) == {"out/new.txt": b"new"}


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, UserError, KeyboardInterrupt, SystemExit])
def test_a_folder_stays_as_it_was_when_the_work_fails(tmp_path, exists, error):
    target = tmp_path / "out"
    if exists:
        target.mkdir()
        (target / "old.txt").write_bytes(b"old")

    def work():
        with artifacts.replacing(target) as folder:
            (folder / "new.txt").write_bytes(b"half of it")
            raise error

    with pytest.raises(error):
        work()
    assert tree(tmp_path) == ({"out/old.txt": b"old"} if exists else {})
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if exists else [])


def test_what_a_killed_run_left_behind_is_not_taken_over(tmp_path):
    with artifacts.replacing(tmp_path / "out") as work:
        leftover = work
    leftover.mkdir()
    (leftover / "half.txt").write_bytes(b"half of it")
    with artifacts.replacing(tmp_path / "out") as work:
        (work / "new.txt").write_bytes(b"new")
    assert tree(tmp_path) == {"out/new.txt": b"new"}


def test_a_leftover_that_cannot_be_removed_is_said_to_be_in_the_way(tmp_path, monkeypatch):
    """And not passed over, only to stumble over it when the work is done."""
    (tmp_path / ".out.old.part").mkdir()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(artifacts.shutil, "rmtree", refuse)
    with pytest.raises(PermissionError), artifacts.replacing(tmp_path / "out"):
        pytest.fail("the work was begun")


def test_a_folder_may_stand_where_none_of_its_parents_did(tmp_path):
    with artifacts.replacing(tmp_path / "data/deep/out") as work:
        (work / "new.txt").write_bytes(b"new")
    assert tree(tmp_path) == {"data/deep/out/new.txt": b"new"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_that_no_strict_reader_takes_is_refused_and_the_old_file_stays(tmp_path, value):
    """Field fault 4: one NaN empties the whole experiments table."""
    artifacts.write_json(tmp_path / "m.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="JSON compliant"):
        artifacts.write_json(tmp_path / "m.json", {"tuned": {"loss": value}})
    with pytest.raises(ValueError, match="JSON compliant"):
        artifacts.write_jsonl(tmp_path / "m.jsonl", [{"loss": value}])
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8")) == {"loss": 1.0}
    assert {path.name for path in tmp_path.iterdir()} == {"m.json", "m.jsonl"}


NUMBERS = st.one_of(st.none(), st.integers(), st.booleans(), st.text(), st.floats())


@given(st.dictionaries(st.text(), st.one_of(NUMBERS, st.dictionaries(st.text(), NUMBERS))))
def test_metrics_made_finite_are_strict_json_and_keep_every_defined_figure(metrics):
    """Field fault 4: what is undefined is absent."""
    kept = artifacts.finite(metrics)
    json.dumps(kept, allow_nan=False)
    for key, value in metrics.items():
        if isinstance(value, dict):
            assert set(kept[key]) <= set(value)
        elif isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value)):
            assert kept[key] == value
        else:
            assert key not in kept


def test_json_is_written_alike_whatever_the_order_of_its_keys(tmp_path):
    artifacts.write_json(tmp_path / "a.json", {"b": {"y": 1, "x": "退款"}, "a": 2})
    artifacts.write_json(tmp_path / "b.json", {"a": 2, "b": {"x": "退款", "y": 1}})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert "退款" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_text_keeps_its_line_ends_on_every_system(tmp_path):
    artifacts.write_text(tmp_path / "deep/a.txt", "one\r\ntwo\n")
    assert (tmp_path / "deep/a.txt").read_bytes() == b"one\r\ntwo\n"


@pytest.mark.parametrize("text", ["half a smile \ud83d", "file \udcff.json", "退款"])
def test_text_without_a_utf8_form_survives_in_json(tmp_path, text):
    """A lone surrogate is legal in raw JSON, and the name of a file may be any bytes."""
    artifacts.write_json(tmp_path / "a.json", {"text": text})
    artifacts.write_jsonl(tmp_path / "a.jsonl", [{"text": text}, {"n": 1}])
    assert artifacts.read_json(tmp_path / "a.json", "validate") == {"text": text}
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [{"text": text}, {"n": 1}]


def test_equal_tables_give_equal_bytes_however_they_were_put_together(tmp_path):
    pieces = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])
    for name, write in (("parquet", artifacts.write_parquet), ("arrow", artifacts.write_arrow)):
        write(tmp_path / f"whole.{name}", TABLE)
        write(tmp_path / f"again.{name}", pa.table(TABLE.to_pydict(), schema=TABLE.schema))
        write(tmp_path / f"pieces.{name}", pieces)
        written = {path.read_bytes() for path in tmp_path.glob(f"*.{name}")}
        assert len(written) == 1, name


def test_a_table_comes_back_as_it_was_written(tmp_path):
    artifacts.write_parquet(tmp_path / "t.parquet", TABLE)
    artifacts.write_arrow(tmp_path / "t.arrow", TABLE)
    assert artifacts.read_parquet(tmp_path / "t.parquet", "split") == TABLE
    assert artifacts.read_arrow(tmp_path / "t.arrow", "tokenize") == TABLE


def test_a_folder_name_with_an_equals_sign_adds_no_column(tmp_path):
    """Parquet readers take `month=may/` for a partition."""
    (tmp_path / "month=may").mkdir()
    artifacts.write_parquet(tmp_path / "month=may/t.parquet", TABLE)
    assert artifacts.read_parquet(tmp_path / "month=may/t.parquet", "split").column_names == ["id", "input_ids"]


@pytest.mark.parametrize("read", [artifacts.read_json, artifacts.read_parquet, artifacts.read_arrow])
def test_a_missing_or_damaged_file_names_the_stage_that_writes_it(tmp_path, read):
    with pytest.raises(UserError, match=r"is missing\. Run `dvc repro split` first"):
        read(tmp_path / "absent", "split")
    (tmp_path / "damaged").write_bytes(b"\x93half of someth")
    with pytest.raises(UserError, match=r"is damaged\. Run `dvc repro -f split`"):
        read(tmp_path / "damaged", "split")


@pytest.mark.parametrize(("name", "read"), [("t.parquet", artifacts.read_parquet), ("t.arrow", artifacts.read_arrow)])
@pytest.mark.parametrize("share", [0, 0.5, 0.95])
def test_a_table_that_was_cut_off_is_damaged(tmp_path, name, read, share):
    artifacts.write_parquet(tmp_path / "t.parquet", TABLE)
    artifacts.write_arrow(tmp_path / "t.arrow", TABLE)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="is damaged"):
        read(tmp_path / name, "split")


def test_a_digest_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, example B.1
    assert artifacts.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
