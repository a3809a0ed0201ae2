"""Train, validation and test, without a twin between them."""

import itertools
import json
import random
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import split as stage
from stages.lib import artifacts, dedupe
from stages.lib.errors import UserError
from stages.lib.records import SCHEMA, Message, Record, to_table
from stages.lib.rejects import Code
from stages.lib.wording import Wording
from stages.split import NAMES, Rows, assign, group, read_benchmarks, split
from tests.lib.test_contamination import HIDDEN
from tests.lib.test_dedupe import NAMES as PEOPLE
from tests.lib.test_dedupe import letter, text

ROOT = Path(__file__).resolve().parent.parent


def record(question, answer="fine", category="orders", line=1, own=None):
    return Record("a.json", line, (Message("user", question), Message("assistant", answer)), own, category)


def many(rows, seed=1, words=15, language="en", **fields):
    rng = random.Random(seed)
    return [
        record(text(rng, words, language), text(rng, 5, language), line=line, **fields) for line in range(1, rows + 1)
    ]


@pytest.fixture
def run(params_for):
    def on(records, benchmarks=None, seed=7, **overrides):
        return split(to_table(records), benchmarks or {}, params_for("split", **overrides), 0.7, seed)

    return on


def parts(splits):
    """The split of each record, by id."""
    return {one: name for name, table in splits.tables.items() for one in table["id"].to_pylist()}


def test_each_part_gets_its_share(run):
    splits = run(many(2000))
    counts = {name: table.num_rows for name, table in splits.tables.items()}
    assert counts == {name: splits.metrics[name]["rows"] for name in NAMES}
    assert counts["test"] == pytest.approx(360, abs=50)
    assert counts["validation"] == pytest.approx(140, abs=35)
    assert sum(counts.values()) == 2000


def test_every_category_gets_its_share_up_to_chance(run):
    records = [row for name in "abcde" for row in many(400, seed=ord(name), category=name)]
    for counts in run(records).metrics["categories"].values():
        assert counts["test"] == pytest.approx(72, abs=31)  # four standard deviations
        assert sum(counts.values()) == 400


def test_the_tables_have_the_columns_of_the_records_and_their_group(run):
    splits = run(many(50))
    assert splits.tables["train"].schema.names == [*SCHEMA.names, "group"]
    assert splits.tables["train"]["group"].to_pylist() == splits.tables["train"]["id"].to_pylist()


def test_weights_and_constraints_reach_the_split(run):
    asked = ('{"words":3}', None)
    records = [
        replace(one, weight=1 + number / 8, constraints=asked[number % 2]) for number, one in enumerate(many(50))
    ]
    rows = [row for table in run(records).tables.values() for row in table.to_pylist()]
    found = {row["id"]: (row["weight"], row["constraints"]) for row in rows}
    assert found == {one.id: (one.weight, one.constraints) for one in records}


def test_a_record_added_later_never_moves_another_between_splits(run):
    records, strangers = many(300), many(200, seed=98)
    before = parts(run(records))
    for added in ([strangers[0], *records], [*records, strangers[1]], [*strangers, *records]):
        assert before.items() <= parts(run(added)).items()


def bridge(one, other, line=999):
    """A row that is like both."""
    return record(f"{one.question} {other.question}", line=line)


def test_a_row_that_is_like_two_groups_joins_them_and_moves_no_other(run):
    records = many(300)
    before = parts(run(records, group_similarity=0.4))
    one = next(row for row in records if before[row.id] == "train")
    other = next(row for row in records if before[row.id] == "test")
    between = bridge(one, other)
    after = parts(run([*records, between], group_similarity=0.4))
    assert after[one.id] == after[other.id] == after[between.id]
    assert {row for row in before if before[row] != after[row]} <= {one.id, other.id}


def test_the_order_of_the_records_decides_nothing(run):
    records = many(200) + [record(f"my parcel {number} has not come yet, please", line=number) for number in range(30)]
    assert parts(run(records)) == parts(run(records[::-1]))


def test_another_seed_gives_another_split(run):
    records = many(200)
    assert parts(run(records, seed=7)) != parts(run(records, seed=8))


def test_rows_that_ask_alike_stay_together_and_their_group_has_a_name(run):
    rng = random.Random(3)
    base = many(200)
    twins = [
        replace(one, messages=(Message("user", one.question + " " + text(rng, 2)), one.messages[1])) for one in base
    ]
    splits = run(base + twins)
    where = parts(splits)
    assert all(where[one.id] == where[twin.id] for one, twin in zip(base, twins, strict=True))
    table = splits.tables["train"]
    names = dict(zip(table["id"].to_pylist(), table["group"].to_pylist(), strict=True))
    assert all(names[one.id] == min(one.id, twin.id) for one, twin in zip(base, twins, strict=True) if one.id in names)
    assert splits.metrics["groups"] == 200
    assert splits.metrics["largest_group"] == 2


def chain(rng, rows, overlap=20, step=10):
    """Questions of 30 words, each of which shares its last 20 with the next one (similarity .47)."""
    words = text(rng, step * (rows - 1) + step + overlap).split()
    return [record(" ".join(words[step * n : step * n + step + overlap]), line=n) for n in range(rows)]


def variations(seed, families=60, size=6):
    """Rows of every likeness: of each family one is drawn, the others are it with some words and numbers exchanged."""
    rng = random.Random(seed)
    made = []
    for _ in range(families):
        words = text(rng, 28).split()
        for _ in range(size):
            for _ in range(rng.randrange(7)):
                words[rng.randrange(28)] = rng.choice([text(rng, 1), str(rng.randrange(10**6))])
            made.append(record(" ".join(words), text(rng, 3), rng.choice("abc"), line=len(made)))
    return rng.sample(made, len(made))


def pairs_alike(records, similarity):
    """Every pair of rows whose words, numbers masked, are alike in runs of three: each is compared with each."""
    plain = [re.sub(r"\d+", "#", one.question).split() for one in records]
    runs = [set(zip(words, words[1:], words[2:], strict=False)) for words in plain]
    for other, one in itertools.combinations(range(len(records)), 2):
        if len(runs[one] & runs[other]) >= similarity * len(runs[one] | runs[other]):
            yield records[one], records[other]


@pytest.mark.parametrize("seed", range(4))
def test_no_pair_of_like_rows_stands_in_two_splits_if_each_is_compared_with_each(run, seed):
    records = variations(seed)
    splits = run(records, contamination=1.0, validation=0.2, test=0.3)
    where = parts(splits)
    pairs = list(pairs_alike(records, 0.5))
    assert len(pairs) > 200
    assert [one for one, other in pairs if where[one.id] != where[other.id]] == []
    assert splits.metrics["broken_groups"] == splits.metrics["like_pairs_across"] == 0


@pytest.mark.parametrize("contamination", [1.0, 0.5])
def test_pairs_that_were_torn_apart_are_counted_as_many_as_there_are(run, contamination):
    """A chain of likenesses holds all rows together, is broken up, and the report says how many pairs that tore."""
    records = chain(random.Random(4), 60)
    splits = run(records, group_similarity=0.4, contamination=contamination)
    assert (splits.metrics["contaminated"]["rows"] > 0) == (contamination < 1)
    where = parts(splits)  # without rows that give away a question: they are in no split
    pairs = [(one.id, other.id) for one, other in pairs_alike(records, 0.4) if {one.id, other.id} <= set(where)]
    across = [(one, other) for one, other in pairs if where[one] != where[other]]
    assert splits.metrics["like_pairs_across"] == len(across) > 0
    assert splits.metrics["like_test_rows"] == len({name for pair in across for name in pair if where[name] == "test"})


def test_a_pair_of_copies_with_like_questions_counts_once(run):
    """Thirty letters are found by both searches: among fifty rows no passage is common."""
    letters = [replace(letter(name), line=line) for line, name in enumerate(PEOPLE[:30])]
    splits = run(letters, contamination=1.0)
    sizes = Counter(parts(splits).values())
    assert splits.metrics["contaminated"]["rows"] == 0
    pairs = sum(sizes[one] * sizes[other] for one, other in itertools.combinations(NAMES, 2))
    assert 0 < splits.metrics["like_pairs_across"] <= pairs


def test_like_rows_that_are_not_together_stop_the_stage_as_a_bug_of_ours(run, monkeypatch):
    monkeypatch.setattr(stage, "assign", lambda groups, *_: [NAMES[row % 3] for row in range(len(groups))])
    with pytest.raises(AssertionError, match="rows that belong together are in different splits"):
        run(variations(1))


def test_no_test_row_has_a_near_duplicate_in_train(run):
    """Even where validate was told to keep them, and where the group that they stand in is broken up."""
    links = chain(random.Random(4), 60)
    records = links + [record(f"{one.question} please", line=one.line + 500) for one in links]
    splits = run(records, group_similarity=0.4)
    assert splits.metrics["broken_groups"] == 1
    where = parts(splits)
    pairs = dedupe.near_repeats(Wording.of(records), 0.7).same_rows(0.7).tolist()
    assert len(pairs) == 60
    kept = [pair for pair in pairs if all(records[row].id in where for row in pair)]  # the others are contaminated
    assert len(kept) > 30
    assert all(where[records[one].id] == where[records[other].id] for one, other in kept)


def test_one_question_with_two_answers_is_never_both_in_train_and_test(run):
    records = [row for one in many(100) for row in (one, record(one.question, "no", line=one.line + 500))]
    where = parts(run(records))
    assert all(where[one.id] == where[other.id] for one, other in zip(records[::2], records[1::2], strict=True))


def test_a_group_that_swallows_its_category_is_broken_up_and_the_report_says_so(run):
    """Task-shaped: rows that differ in their order number only, each with its own answer."""
    ask = "Read the order number: my parcel ORD-{} has not come."
    records = [record(ask.format(number), str(number), line=number) for number in range(300)]
    splits = run(records)
    assert (splits.metrics["broken_groups"], splits.metrics["broken_rows"]) == (1, 300)
    sizes = [splits.metrics[name]["rows"] for name in NAMES]
    assert splits.metrics["like_pairs_across"] == sum(one * other for one, other in itertools.combinations(sizes, 2))
    assert splits.metrics["like_test_rows"] == splits.metrics["test"]["rows"]
    assert splits.metrics["contaminated"]["rows"] == 0
    assert all(splits.metrics[name]["rows"] > 5 for name in NAMES)


def test_the_same_group_stays_whole_where_it_is_small_beside_its_category(run):
    ask = "Read the order number: my parcel ORD-{} has not come."
    numbers = [record(ask.format(number), str(number), line=number) for number in range(30)]
    splits = run(numbers + many(300))
    where = parts(splits)
    assert len({where[one.id] for one in numbers}) == 1
    assert (splits.metrics["broken_groups"], splits.metrics["largest_group"]) == (0, 30)


ASK = {"en": "Read the order number: my parcel ORD-{} has not come.", "zh": "请读出订单号：我的包裹ORD-{}还没有到。"}


def alike(rows, category="orders", ask=ASK["en"]):
    """Rows that differ in a number, each with its own answer."""
    return [record(ask.format(number), str(number), category, line=number) for number in range(rows)]


@pytest.mark.parametrize("others", [4600, 600])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_500_rows_that_differ_in_their_order_number_never_straddle_two_splits(run, language, others):
    numbers = alike(500, ask=ASK[language])
    splits = run(numbers + many(others))
    where = parts(splits)
    assert len({where[one.id] for one in numbers}) == 1
    assert splits.metrics["largest_group"] == 500
    assert splits.metrics["like_pairs_across"] == splits.metrics["contaminated"]["rows"] == 0


def test_rows_that_differ_in_numbers_are_parted_where_they_are_most_of_a_category(run):
    """Each of the five tasks has a fifth of the rows: whole, they would be the only five groups to share out."""
    asks = [f"{text(random.Random(task), 9)} {{}}" for task in range(5)]
    tasks = [row for ask in asks for row in alike(60, ask=ask)]
    alone, mixed = run(tasks).metrics, run(tasks[:120] + many(130)).metrics
    assert (alone["broken_groups"], alone["largest_group"]) == (5, 1)
    assert (mixed["broken_groups"], mixed["largest_group"]) == (0, 60)


@pytest.mark.parametrize(
    "records",
    [
        alike(30),
        alike(2000),
        alike(300, category="alike") + many(300),
        alike(30, category="alike") + many(15),
        [
            row
            for name in "abcde"
            for row in alike(60, category=name, ask=f"Task {name}: {text(random.Random(name), 9)} {{}}")
        ],
        chain(random.Random(3), 300),
        many(30),
    ],
    ids=["30 alike", "all alike", "a category alike", "few others", "every category alike", "a chain", "30"],
)
def test_no_part_is_empty_because_one_group_swallowed_the_rows(run, records):
    splits = run(records, group_similarity=0.4, contamination=1.0)
    assert all(splits.metrics[name]["rows"] for name in NAMES)
    assert splits.metrics["train"]["rows"] > len(records) / 2
    assert sum(splits.metrics[name]["rows"] for name in NAMES) + splits.metrics["contaminated"]["rows"] == len(records)


def test_breaking_up_stops_at_the_lowest_similarity_that_does():
    """A chain of likenesses at .47 holds pairs at .6: at .5 it falls apart, and the pairs stay."""
    rng = random.Random(5)
    links = chain(rng, 12)
    pairs = [record(" ".join(one.question.split()[:-5]) + text(rng, 2), "other", line=99) for one in links]
    found = group(Rows.of(to_table(links + pairs)), similarity=0.4, near_duplicate=0.9)
    assert len(found.broken) == 1
    assert found.ids[:12] == found.ids[12:]
    assert len(set(found.ids)) == 12


def test_a_group_of_ten_rows_is_left_whole_however_small_its_category():
    links = chain(random.Random(5), 11)
    assert len(set(group(Rows.of(to_table(links[:10])), 0.4, 0.7).ids)) == 1
    assert len(set(group(Rows.of(to_table(links)), 0.4, 0.7).ids)) == 11


def test_500_rows_that_share_a_long_instruction_lose_none(run):
    rng = random.Random(6)
    instruction = text(rng, 60)
    inputs = list(dict.fromkeys(text(rng, 10) for _ in range(500)))
    records = [record(f"{instruction}\n\n{one}", rng.choice("ab"), line=line) for line, one in enumerate(inputs)]
    splits = run(records)
    assert splits.metrics["contaminated"]["rows"] == 0
    assert splits.metrics["largest_group"] <= 3
    assert sum(splits.metrics[name]["rows"] for name in NAMES) == len(records)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_training_row_that_gives_away_a_benchmark_question_is_rejected(run, language):
    rng = random.Random(7)
    question = text(rng, 25, language)
    leaks = [record(f"{text(rng, 30, language)} {question}", line=line) for line in range(1000, 1010)]
    splits = run(many(300) + leaks, {"exam.jsonl:3": question})
    kept_out = [one for one in splits.rejected if one.reject.detail["by"] == "benchmarks"]
    assert kept_out
    assert not {one.line for one in kept_out} & set(splits.tables["train"]["line"].to_pylist())
    held_out = [line for name in NAMES[1:] for line in splits.tables[name]["line"].to_pylist() if line >= 1000]
    assert len(kept_out) + len(held_out) == 10
    first = kept_out[0]
    assert first.reject.code == Code.CONTAMINATED
    assert first.reject.detail["question"] == "data/benchmarks/exam.jsonl:3"
    assert splits.metrics["contaminated"] == {"rows": len(kept_out), "benchmarks": len(kept_out)}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_20_planted_benchmark_questions_stay_out_of_training_and_no_other_row_does(run, language):
    rng = random.Random(9)
    questions = {f"exam.jsonl:{line}": text(rng, 25, language) for line in range(1, 21)}
    hide = itertools.cycle(HIDDEN.values())
    planted = [next(hide)(question, lambda words: text(rng, words, language)) for question in questions.values()]
    records = many(1000, words=40, language=language) + planted
    everything = run(records, questions, validation=0.0, test=0.0)
    assert {one.record["id"] for one in everything.rejected} == {one.id for one in planted}
    assert everything.metrics["contaminated"] == {"rows": 20, "benchmarks": 20}
    drawn = run(records, questions)
    trained = set(drawn.tables["train"]["id"].to_pylist())
    assert not trained & {one.id for one in planted}
    assert {one.record["id"] for one in drawn.rejected} <= {one.id for one in planted}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_training_row_that_gives_away_a_test_question_is_rejected(run, language):
    records = many(300, language=language)
    where = parts(run(records))
    asked = next(one for one in records if where[one.id] == "test").question
    rng = random.Random(8)
    around = [(text(rng, 40, language), text(rng, 40, language)) for _ in range(8)]
    leaks = [record(f"{before} {asked} {after}", line=line) for line, (before, after) in enumerate(around, 1000)]
    splits = run(records + leaks)
    trained = set(splits.tables["train"]["line"].to_pylist())
    assert splits.metrics["contaminated"]["test"] >= 1
    assert not trained & set(range(1000, 1008))


@pytest.mark.parametrize(
    ("rows", "shares", "needed"),
    [
        (0, {}, "test and train and validation"),
        (1, {}, "test and train and validation"),
        (2, {}, "test and train and validation"),
        (1, {"validation": 0}, "test and train"),
    ],
)
def test_too_few_rows_are_said_in_one_sentence(run, rows, shares, needed):
    """Field fault 10."""
    with pytest.raises(UserError, match=rf"{rows} rows? in {rows} groups? .* too few for {needed}.*split\.validation"):
        run(many(rows), **shares)


@pytest.mark.parametrize(
    ("rows", "shares", "expected"),
    [
        (3, {}, {"train": 1, "validation": 1, "test": 1}),
        (2, {"validation": 0}, {"train": 1, "validation": 0, "test": 1}),
        (1, {"validation": 0, "test": 0}, {"train": 1, "validation": 0, "test": 0}),
    ],
)
def test_a_group_for_each_part_is_enough(run, rows, shares, expected):
    """Field fault 10: the documented minimum; no part that was asked for is empty."""
    assert {name: table.num_rows for name, table in run(many(rows), **shares).tables.items()} == expected


@pytest.mark.parametrize(
    "ask", ["Tell me all about apples, number {}.", "Tell me all that you know about the round fruit that is called {}"]
)
def test_thirty_rows_that_are_one_group_are_broken_up(run, ask):
    """Field fault 10."""
    metrics = run([record(ask.format(number), "Apples are fruit.", line=number) for number in range(30)]).metrics
    assert metrics["broken_groups"] == 1
    assert all(metrics[name]["rows"] for name in NAMES)


def test_near_duplicates_alone_are_one_group_and_one_sentence(run):
    """Field fault 10: they are never parted, so there is nothing to split."""
    words = text(random.Random(9), 60).split()
    records = [record(" ".join([*words[:n], "changed", *words[n + 1 :]]), line=n) for n in range(0, 60, 6)]
    with pytest.raises(UserError, match=r"10 rows in 1 group of like rows are too few"):
        run(records)


@given(st.integers(3, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_no_part_that_was_asked_for_is_ever_empty(params_for, groups, seed):
    names = [f"group {number}" for number in range(groups)]
    found = assign(names * 2, params_for("split"), seed)
    assert found[:groups] == found[groups:]
    assert set(found) == set(NAMES)


def test_a_part_whose_share_is_zero_stays_empty(params_for):
    names = [f"group {number}" for number in range(500)]
    assert Counter(assign(names, params_for("split", test=0), 7))["test"] == 0


def test_a_training_set_of_nothing_but_leaks_is_said_in_one_sentence(run):
    records = many(3)
    with pytest.raises(UserError, match="all 1 training rows give away"):
        run(records, {"exam.jsonl:1": " ".join(one.question for one in records)}, contamination=0.1)


def test_benchmarks_are_read_in_any_form(tmp_path):
    rows = [{"prompt": "a"}, {"question": "b", "answer": "x"}, {"text": "c"}, {"instruction": "d", "output": "y"}]
    (tmp_path / "exam.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert read_benchmarks(tmp_path) == {f"exam.jsonl:{line}": text for line, text in enumerate("abcd", 1)}
    assert read_benchmarks(tmp_path / "none") == {}


@pytest.mark.parametrize("line", ["{oops", '{"answer": "4"}', '"text"', '{"prompt": ""}'])
def test_a_benchmark_row_that_cannot_be_read_stops_the_stage(tmp_path, line):
    (tmp_path / "exam.jsonl").write_text(f'{{"prompt": "a"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"exam\.jsonl:2"):
        read_benchmarks(tmp_path)


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_holds_out_all_its_questions_however_it_is_written(tmp_path, indent):
    questions = [f"What is {number} times seven?" for number in range(20)]
    rows = [{"question": question} for question in questions]
    (tmp_path / "exam.json").write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    assert list(read_benchmarks(tmp_path).values()) == questions


def test_a_queued_experiment_says_which_benchmarks_stayed_behind(clone, monkeypatch):
    main = clone.parent / f"{clone.name}-main"
    (main / "data/benchmarks").mkdir(parents=True)
    (main / "data/benchmarks/exam.jsonl").write_text('{"prompt": "a"}\n', encoding="utf-8")
    monkeypatch.setenv("DVC_ROOT", str(main))
    with pytest.raises(UserError, match=r"data/benchmarks/exam\.jsonl stayed behind"):
        stage.main()


@pytest.fixture
def clone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "data" / "clean").mkdir(parents=True)
    artifacts.write_parquet(stage.CLEAN, to_table(many(200)))
    monkeypatch.setattr(sys, "argv", ["split"])
    return tmp_path


def test_the_stage_writes_its_files_and_one_line_and_the_same_again(clone, capsys):
    stage.main()
    files = ["data/splits/rejected.jsonl", "reports/split.json", *(f"data/splits/{name}.parquet" for name in NAMES)]
    before = [Path(file).read_bytes() for file in files]
    rows = [pq.read_table(f"data/splits/{name}.parquet").num_rows for name in NAMES]
    assert capsys.readouterr().out == (
        f"split: 200 rows in 200 groups · {rows[0]} train · {rows[1]} validation · {rows[2]} test · "
        "0 contaminated → data/splits/rejected.jsonl\n"
    )
    stage.main()
    assert [Path(file).read_bytes() for file in files] == before


def test_what_moved_is_told_with_its_cause_and_stands_in_no_file(clone, capsys):
    params = Path("params.yaml")
    records = many(200)

    def written():
        return {path.name: path.read_bytes() for path in [*stage.SPLITS.iterdir(), stage.REPORT]}

    def where():
        tables = {name: pq.read_table(stage.SPLITS / f"{name}.parquet") for name in NAMES}
        return {row: name for name, table in tables.items() for row in table["id"].to_pylist()}

    def told(*added, **changes):
        for key, value in changes.items():
            text = re.sub(rf"  {key}: \S+", f"  {key}: {value}", params.read_text(encoding="utf-8"))
            params.write_text(text, encoding="utf-8")
        artifacts.write_parquet(stage.CLEAN, to_table([*records, *added]))
        stage.main()
        return capsys.readouterr().out.splitlines()[1:]

    assert told(group_similarity=0.4) == []
    before = where()
    assert told(*many(50, seed=98)) == []
    one, other = (next(row for row in records if before[row.id] == name) for name in ("train", "test"))
    sentences = told(bridge(one, other))
    after = where()
    moved = [(before[row.id], after[row.id]) for row in (one, other) if before[row.id] != after[row.id]]
    assert sentences == [
        f"split: 1 row went from {old} to {new} since the last run here: new rows are like them (a.json:999)."
        for old, new in sorted(moved)
    ]
    assert sentences

    remembering = written()
    shutil.rmtree(stage.MEMORY)
    assert told(bridge(one, other)) == []
    assert written() == remembering

    sentences = told(bridge(one, other), test=0.5)
    assert sentences
    assert all(sentence.endswith(" since the last run here: split.test changed.") for sentence in sentences)
    assert told(bridge(one, other)) == []


def test_a_category_that_no_test_row_judges_is_named(clone, capsys):
    artifacts.write_parquet(stage.CLEAN, to_table([*many(50), record("what about this one", category="rare")]))
    stage.main()
    err = capsys.readouterr().err
    report = json.loads(Path("reports/split.json").read_text(encoding="utf-8"))
    assert ("no test row judges the categories rare" in err) == (report["categories"]["rare"]["test"] == 0)


def test_a_missing_input_names_the_stage_that_makes_it(clone):
    stage.CLEAN.unlink()
    with pytest.raises(UserError, match="dvc repro validate"):
        stage.main()


def test_the_report_has_no_list_in_it(run):
    """DVC skips lists in metrics."""

    def values(metrics):
        for value in metrics.values():
            yield from values(value) if isinstance(value, dict) else [value]

    assert {type(value) for value in values(run(many(50)).metrics)} <= {int, float, np.int64}


def test_the_rows_of_a_test_file_are_for_test_and_so_is_what_is_like_them(run):
    records = many(300)
    exam = [replace(one, source="exam.jsonl") for one in many(20, seed=5)]
    twin = replace(exam[0], source="b.json", messages=(Message("user", exam[0].question + " x"), exam[0].messages[1]))
    splits = run([*records, *exam, twin], test_files=["exam.jsonl"], test=0.0)
    assert set(splits.tables["test"]["source"].to_pylist()) == {"exam.jsonl", "b.json"}
    assert splits.tables["test"].num_rows == 21
    assert splits.metrics["fixed"] == {"rows": 20, "like_them": 1}
    drawn = run([*records, *exam], test_files=["exam.jsonl"])
    assert drawn.tables["test"].num_rows > 20
    others = parts(run(records))
    assert {key: parts(drawn)[key] for key in others} == others  # a test file moves no other row


def test_a_test_file_that_is_not_there_is_named(run):
    with pytest.raises(UserError, match=r"split\.test_files names exam\.jsonl, .* Rows come from a\.json"):
        run(many(20), test_files=["exam.jsonl"])


def test_a_long_piece_of_a_benchmark_question_is_told_of(run):
    rng = random.Random(8)
    question = text(rng, 60).split()
    records = [*many(100), record(" ".join([*question[:15], text(rng, 20)]), line=500)]
    splits = run(records, {"exam.jsonl:1": " ".join(question)}, test=0.0, validation=0.0)
    assert splits.overlaps == [
        {
            "place": "a.json:500",
            "question": "data/benchmarks/exam.jsonl:1",
            "share": 0.25,
            "longest": 15,
            "by": "benchmarks",
        }
    ]
    assert splits.metrics["overlaps"] == {"rows": 1, "common": 0}
    assert splits.metrics["contaminated"] == {"rows": 0}


def test_of_a_test_and_a_benchmark_question_the_one_that_is_given_away_more_is_named(run):
    rng = random.Random(15)
    one, other = text(rng, 20), text(rng, 20)
    exam = replace(record(one, line=500), source="exam.jsonl")
    leak = record(" ".join([*one.split()[:14], text(rng, 20), other]), line=501)
    files = {"test_files": ["exam.jsonl"], "test": 0.0, "validation": 0.0}
    (found,) = run([*many(100), exam, leak], {"exam.jsonl:1": other}, **files).rejected
    assert (found.line, found.reject.detail["by"], found.reject.detail["share"]) == (501, "benchmarks", 1.0)
    (found,) = run([*many(100), exam, leak], **files).rejected
    assert (found.line, found.reject.detail["by"], found.reject.detail["share"]) == (501, "test", 0.7)


def test_a_row_that_is_left_out_is_not_told_to_stay_for_a_piece_of_another_question(run):
    rng = random.Random(15)
    one, other = text(rng, 40), text(rng, 20)
    exam = replace(record(one, line=500), source="exam.jsonl")
    leak = record(" ".join([*one.split()[:14], text(rng, 20), other]), line=501)
    splits = run([*many(100), exam, leak], {"exam:1": other}, test_files=["exam.jsonl"], test=0.0, validation=0.0)
    assert [found.line for found in splits.rejected] == [501]
    assert splits.overlaps == []


def test_many_letters_that_differ_in_a_name_stand_in_one_split(run):
    letters = [letter(name) for name in PEOPLE]
    letters = [replace(one, line=line, category="orders") for line, one in enumerate(letters, 1000)]
    splits = run([*many(1200), *letters])
    where = parts(splits)
    assert len({where[one.id] for one in letters}) == 1
    assert splits.metrics["largest_group"] == len(PEOPLE)
    alone = run(letters)
    assert alone.metrics["broken_groups"] == 1
    assert all(alone.metrics[name]["rows"] for name in NAMES)


def test_the_piece_of_a_benchmark_question_that_many_rows_hold_is_named_with_the_first_of_them(run):
    rng = random.Random(14)
    question = text(rng, 60).split()
    part = " ".join(question[:20])
    rows = [record(f"{part} {text(rng, 30)}", line=line) for line in range(500, 520)]
    splits = run([*many(100), *rows], {"exam.jsonl:1": " ".join(question)}, test=0.0, validation=0.0)
    assert splits.overlaps == [
        {
            "place": "a.json:500",
            "question": "data/benchmarks/exam.jsonl:1",
            "questions": 1,
            "longest": 20,
            "by": "benchmarks",
            "rows": 20,
        }
    ]
    assert splits.metrics["overlaps"] == {"rows": 0, "common": 1}
    assert splits.metrics["contaminated"] == {"rows": 0}
