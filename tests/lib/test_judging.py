"""Blocks of rows, judged in parallel and remembered: neither may show in the result."""

import json
import os
import random
import re
from collections import Counter
from itertools import chain

import pytest

from stages.lib import judging, sources
from stages.lib.errors import UserError
from stages.lib.judging import judge_all
from stages.lib.raw import RawRow
from stages.lib.unsafe import Watch
from tests.lib.test_dedupe import text


def row(rng):
    return {"instruction": text(rng, 12), "output": text(rng, 5), "extra": 1}


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """A file of 400 rows, and blocks of about eight; every 20th row has no answer."""
    monkeypatch.setattr(sources, "_BYTES", 1000)
    monkeypatch.setattr(sources, "_ONE_IN", 4)
    rng = random.Random(1)
    rows = [row(rng) | ({"output": ""} if number % 20 == 0 else {}) for number in range(400)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


@pytest.fixture
def judged_rows(monkeypatch):
    """How many rows were judged."""
    counts = []

    def counting(rows, params, watch):
        rows = list(rows)
        counts.append(len(rows))
        return judge(rows, params, watch)

    judge = judging.judge
    monkeypatch.setattr(judging, "judge", counting)
    return counts


@pytest.fixture
def run(raw, tmp_path, params_for):
    """All that judging the file gives, with lines counted from its beginning."""

    def on(workers=1, **overrides):
        blocks = list(sources.blocks(raw))
        assert len(blocks) > 20
        params = params_for("validate", **overrides)
        found = list(judge_all(blocks, params, Watch.over(params.unsafe), tmp_path / "memory", workers))
        fit = [one.fit.to_pylist() for one in found]
        rejected = [(one.line, one.row()) for judged in found for one in judged.rejected]
        return list(chain(*fit)), rejected, sum((one.unused for one in found), Counter())

    return on


def test_every_row_is_fit_or_rejected_and_knows_its_line(run):
    fit, rejected, unused = run()
    assert [line for line, _ in rejected] == list(range(1, 401, 20))
    assert sorted([record["line"] for record in fit] + [line for line, _ in rejected]) == list(range(1, 401))
    assert unused == {"extra": 400}


def test_two_processes_give_what_one_gives(run, tmp_path):
    alone = run()
    for path in (tmp_path / "memory").iterdir():
        path.unlink()
    assert run(workers=2) == alone


def test_after_an_edit_no_other_process_is_started(run, raw, judged_rows, monkeypatch):
    run(workers=2)
    with raw.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row(random.Random(3))) + "\n")
    monkeypatch.setattr(judging, "_start_worker", pytest.fail)  # no function of a module: it could not be sent there
    run(workers=2)
    assert 0 < sum(judged_rows) < 80


def test_what_was_judged_is_not_judged_again(run, judged_rows):
    first = run()
    assert sum(judged_rows) == 400
    judged_rows.clear()
    assert run() == first
    assert judged_rows == []


@pytest.mark.parametrize("place", [0, 200, 399])
@pytest.mark.parametrize("change", ["insert", "edit", "remove"])
def test_a_change_costs_its_own_block_and_the_result_is_that_of_a_cold_run(
    run, raw, judged_rows, tmp_path, place, change
):
    run()
    judged_rows.clear()
    lines = raw.read_text(encoding="utf-8").splitlines(keepends=True)
    new = json.dumps(row(random.Random(2))) + "\n"
    lines[place : place + (change != "insert")] = [] if change == "remove" else [new]
    raw.write_text("".join(lines), encoding="utf-8")
    warm = run()
    assert sum(judged_rows) < 80
    for path in (tmp_path / "memory").iterdir():
        path.unlink()
    assert run() == warm


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "anna@fjordpost.com", "value": "Hi"}]},  # named as an unknown speaker
        {"prompt": "Hi", "completion": 13800138000},  # named as a number where text is due
        {"anna@fjordpost.com": "Hi", "13800138000": "Hello"},  # the first row of a CSV file without a header
        {"prompt": "Hi", "completion": "Hello", "anna@fjordpost.com": "x"},  # a field that nothing reads
    ],
)
def test_nothing_that_is_kept_of_a_row_names_what_must_not_be_learned(params_for, row):
    params = params_for("validate")
    judged = judging.judge([RawRow(1, row)], params, Watch.over(params.unsafe))
    said = f"{[one.row() for one in judged.rejected]} {judged.unused} {judged.fit.to_pylist()}"
    assert ("fjordpost" in str(row)) == ("[EMAIL]" in said)
    assert not re.search("fjordpost|13800138000", said)


def test_another_rule_judges_all_again_and_what_is_not_used_any_more_goes(run, judged_rows, tmp_path):
    run()
    before = {path.name for path in (tmp_path / "memory").iterdir()}
    judged_rows.clear()
    run(min_answer_chars=3)
    assert sum(judged_rows) == 400
    assert before.isdisjoint(path.name for path in (tmp_path / "memory").iterdir())


@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: b"x" + data[1:], lambda _: b""])
def test_what_is_damaged_is_judged_again(run, judged_rows, tmp_path, damage):
    first = run()
    victim = min((tmp_path / "memory").iterdir())
    victim.write_bytes(damage(victim.read_bytes()))
    judged_rows.clear()
    assert run() == first
    assert len(judged_rows) == 1


def test_a_process_that_is_killed_is_told_in_a_sentence(raw, tmp_path, params_for, monkeypatch):
    """As Linux does when memory runs out."""
    params = params_for("validate")
    monkeypatch.setattr(judging, "_HERE", 0)
    with pytest.raises(UserError, match="was killed"):
        list(judging._in_processes(_Killed(params, Watch.over(params.unsafe), tmp_path, ""), sources.blocks(raw), 2))


class _Killed(judging._Task):
    def __call__(self, path, block):
        os._exit(9)
