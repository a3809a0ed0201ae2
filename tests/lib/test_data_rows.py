"""The rows to be seen: the right ones, the worst first, few of many, and never the whole file in memory."""

import json
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib import artifacts, data_rows, rejects
from stages.lib.data_rows import LONGEST, MOST_CLUSTERS, MOST_EXAMPLES, MOST_LEAKS, MOST_REMARKS
from stages.lib.errors import UserError
from stages.lib.findings import ABOUT
from stages.lib.words import same
from stages.validate import validate
from tests.lib.test_dedupe import text
from tests.test_validate import alpaca, write


@pytest.fixture
def cleaned(tmp_path, params_for):
    """`cleaned({"a.jsonl": [row, …]}, conflicting_answers="first")`: data/clean as validate leaves it."""

    def on(files, **overrides):
        params = params_for("validate", **{"max_reject_share": 1.0} | overrides)
        outcome = validate(write(tmp_path / "raw", files), params, tmp_path / "memory")
        clean = tmp_path / "clean"
        clean.mkdir()
        artifacts.write_parquet(clean / "records.parquet", outcome.kept)
        rejects.write(clean / "rejected.jsonl", outcome.rejected)
        artifacts.write_jsonl(clean / "remarks.jsonl", outcome.remarks)
        return clean

    return on


def said(pieces):
    return "".join(piece for piece, change in pieces if change != "del")


def changed(pieces):
    return [piece for piece in pieces if piece[1]]


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_jsonl(path, rows)
    return path.parent


def words_of(seed, count=20):
    return text(random.Random(seed), count)


def test_a_repeat_is_shown_as_a_change_of_the_row_that_stays(cleaned):
    ask = words_of(1)
    rows = [alpaca(ask, "Yes."), alpaca(ask.upper(), "Yes."), alpaca(f"{ask} please", "Yes."), alpaca("Else?", "No.")]
    (cluster,) = data_rows.duplicates(cleaned({"a.jsonl": rows}))
    near, exact = cluster.examples
    assert (cluster.first.place, cluster.code, cluster.repeats) == ("a.jsonl:1", "", 2)
    assert (near.place, exact.place) == ("a.jsonl:3", "a.jsonl:2")
    assert exact.similarity is None
    assert 0.7 <= near.similarity < 1
    assert said(cluster.first.question) == ask
    assert changed(near.question) == [(" please", "ins")]
    assert changed(exact.question) == []  # case does not count
    assert said(exact.question) == ask.upper()
    assert near.answer == exact.answer == [("Yes.", "")]


def test_the_largest_clusters_are_shown_with_their_least_similar_repeats(cleaned):
    files = {}
    for size in range(1, MOST_CLUSTERS + 4):
        ask = words_of(size, 30)
        repeats = [alpaca(ask, "Yes.")] * size + [alpaca(f"{ask} please", "Yes.")]
        files[f"{size}.jsonl"] = [alpaca(ask, "Yes."), *repeats]
    clusters = data_rows.duplicates(cleaned(files))
    assert [cluster.repeats for cluster in clusters] == [9, 8, 7, 6, 5]
    assert [cluster.first.place for cluster in clusters] == [f"{size}.jsonl:1" for size in (8, 7, 6, 5, 4)]
    for cluster in clusters:
        assert len(cluster.examples) == MOST_EXAMPLES
        assert [row.similarity is None for row in cluster.examples] == [False, True, True]


def test_rows_on_one_line_are_told_apart(cleaned):
    rows = [alpaca(words_of(seed), "Yes.") for seed in range(3)]
    clusters = data_rows.duplicates(cleaned({"a.json": json.dumps([*rows, *rows])}))
    assert {said(cluster.first.question) for cluster in clusters} == {row["instruction"] for row in rows}
    for cluster in clusters:
        assert said(cluster.examples[0].question) == said(cluster.first.question)


def test_a_row_that_is_repeated_but_lost_a_conflict_is_shown_with_its_code(cleaned):
    ask = words_of(1)
    rows = [alpaca(ask, "10 days"), alpaca(ask, "10 days"), alpaca(ask, "14 days"), alpaca("Else?", "No.")]
    (cluster,) = data_rows.duplicates(cleaned({"a.jsonl": rows}, conflicting_answers="newest"))
    assert (cluster.first.place, cluster.code) == ("a.jsonl:1", "conflicting-answer")
    assert said(cluster.first.answer) == said(cluster.examples[0].answer) == "10 days"


def test_the_copy_of_a_near_duplicate_is_counted_and_not_shown_as_the_same(cleaned):
    ask = words_of(1)
    rows = [alpaca(ask, "Yes."), *[alpaca(f"{ask} please", "Yes.")] * 2, alpaca("Else?", "No.")]
    (cluster,) = data_rows.duplicates(cleaned({"a.jsonl": rows}))
    assert cluster.repeats == 2
    assert [row.place for row in cluster.examples] == ["a.jsonl:2"]


def test_without_repeats_there_is_no_cluster(cleaned):
    assert data_rows.duplicates(cleaned({"a.jsonl": [alpaca(words_of(1)), alpaca(answer="")]})) == []


def test_of_a_conversation_all_questions_are_shown_and_the_system_text_is_not(cleaned):
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye"), ("assistant", "Bye!")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    (cluster,) = data_rows.duplicates(cleaned({"a.jsonl": [row, row]}))
    assert (said(cluster.first.question), said(cluster.first.answer)) == ("Hi ↵ Hello! ↵ Bye", "Bye!")


def leak(number, share, longest):
    return {
        "source": "a.jsonl",
        "line": number,
        "code": "contaminated",
        "reason": "…",
        "detail": {"question": f"exam.jsonl:{number}", "share": share, "longest": longest, "by": "benchmarks"},
        "record": {"id": "x", "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "!"}]},
    }


def test_the_worst_leaks_come_first_and_the_rest_is_counted(tmp_path):
    rows = [leak(number, number % 10 / 10, number) for number in range(1, MOST_LEAKS + 31)]
    found = data_rows.leaks(write_rows(tmp_path / "splits/rejected.jsonl", rows))
    order = [(one.share, one.longest) for one in found.shown]
    assert order == sorted(((row["detail"]["share"], row["detail"]["longest"]) for row in rows), reverse=True)[:20]
    assert found.total == MOST_LEAKS + 30
    first = found.shown[0]
    assert (first.place, first.question, said(first.text)) == ("a.jsonl:49", "exam.jsonl:49", "Why?")


def test_overlaps_that_stay_are_ordered_by_their_longest_run(tmp_path):
    rows = [
        {"place": f"a:{n}", "question": "b:1", "share": 0.5 - n / 100, "longest": n, "by": "test"} for n in (13, 30)
    ]
    rows.append({"place": "a:9", "question": "b:2", "longest": 40, "by": "test", "rows": 12, "questions": 3})
    found = data_rows.overlaps(write_rows(tmp_path / "overlaps.jsonl", rows))
    assert [(one.place, one.longest, one.text) for one in found.shown] == [("a:30", 30, []), ("a:13", 13, [])]


def test_what_many_rows_share_with_a_question_is_told_apart_from_overlaps(tmp_path):
    rows = [
        {"place": f"a:{n}", "question": f"b:{n}", "longest": n, "by": "benchmarks", "rows": 100 - n, "questions": n}
        for n in (13, 30)
    ]
    rows.append({"place": "a:1", "question": "b:1", "share": 0.4, "longest": 50, "by": "test"})
    found = data_rows.common(write_rows(tmp_path / "overlaps.jsonl", rows))
    assert [(one.question, one.questions, one.place, one.rows, one.longest) for one in found.shown] == [
        ("b:30", 30, "a:30", 70, 30),
        ("b:13", 13, "a:13", 87, 13),
    ]


def test_remarks_are_counted_by_kind_and_the_first_of_each_are_shown(tmp_path):
    kinds = ["conflict"] * 2 + ["variation"] * (MOST_REMARKS + 5) + ["secret"] * 2
    rows = [{"source": "a", "line": n, "about": kind, "reason": f"why {n}"} for n, kind in enumerate(kinds, 1)]
    found = data_rows.remarks(write_rows(tmp_path / "remarks.jsonl", rows))
    assert [(kind.about, kind.total) for kind in found] == [("variation", 15), ("conflict", 2), ("secret", 2)]
    assert [kind.meaning for kind in found] == [ABOUT[kind.about] for kind in found]
    assert found[0].shown == [(f"a:{n}", f"why {n}") for n in range(3, 13)]


def test_a_reason_that_names_thousands_of_places_is_cut(tmp_path):
    others = ", ".join(f"a.jsonl:{number}" for number in range(5000))
    row = {"source": "a", "line": 1, "about": "conflict", "reason": f"{others} answer the same question differently"}
    (kind,) = data_rows.remarks(write_rows(tmp_path / "remarks.jsonl", [row]))
    assert len(kind.shown[0][1]) <= LONGEST + 2


@pytest.mark.parametrize(
    "read", [data_rows.duplicates, data_rows.leaks, data_rows.overlaps, data_rows.common, data_rows.remarks]
)
def test_a_file_that_is_missing_gives_nothing(read, tmp_path):
    assert read(tmp_path) is None


@pytest.mark.parametrize(
    ("read", "name", "stage"),
    [
        (data_rows.leaks, "rejected.jsonl", "split"),
        (data_rows.overlaps, "overlaps.jsonl", "split"),
        (data_rows.remarks, "remarks.jsonl", "validate"),
    ],
)
@pytest.mark.parametrize("content", [b'{"code": "contaminated", ', b"\xff\n"])
def test_a_damaged_file_is_named_with_the_stage_that_writes_it(read, name, stage, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is damaged. Run `dvc repro -f {stage}`"):
        read(tmp_path)


@pytest.mark.parametrize("damage", [lambda data: b"PAR1", lambda data: data[:60] + bytes(60) + data[120:]])
def test_damaged_records_are_named_with_the_stage_that_writes_them(cleaned, damage):
    clean = cleaned({"a.jsonl": [alpaca(words_of(1))] * 2})
    records = clean / "records.parquet"
    records.write_bytes(damage(records.read_bytes()))
    with pytest.raises(UserError, match=r"records.parquet is damaged. Run `dvc repro -f validate`"):
        data_rows.duplicates(clean)


def test_a_file_is_never_in_memory_as_a_whole(cleaned):
    clean = cleaned({"a.jsonl": [alpaca(words_of(1))] * 2})
    line = (clean / "rejected.jsonl").read_text(encoding="utf-8")
    long = line.replace('"tags": []', f'"tags": ["{"x" * 20_000}"]')
    assert len(long) > 20_000
    with open(clean / "rejected.jsonl", "w", encoding="utf-8") as file:
        file.writelines(long for _ in range(1000))  # 20 MB
    tracemalloc.start()
    (cluster,) = data_rows.duplicates(clean)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert cluster.repeats == 1000
    assert peak < 2 << 20


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" one\r\n\r\n  two ", "one ↵ two"),
        ("a\tb  c", "a b c"),
        ("x" * 500, "x" * LONGEST + " …"),
        ("word " * 100, "word " * 39 + "word …"),
        ("退" * LONGEST, "退" * LONGEST),
        ("\n \n", ""),
    ],
)
def test_an_excerpt_is_one_line_that_can_be_read(text, shown):
    assert said(data_rows.excerpt(text)) == shown


@pytest.mark.parametrize(
    ("before", "after", "pieces"),
    [
        ("a b c", "a x c", [("a ", ""), ("b", "del"), ("x", "ins"), (" c", "")]),
        ("给广州的朋友买6个", "给广州的朋友买6个呀", [("给广州的朋友买6个", ""), ("呀", "ins")]),
        ("Ｔhe same", "THE  SAME", [("THE SAME", "")]),  # neither case nor width nor spaces
        ("", "new", [("new", "ins")]),
        ("old", "", [("old", "del")]),
    ],
)
def test_changes_are_told_word_by_word_or_character_by_character(before, after, pieces):
    assert data_rows.changes(before, after) == pieces


def test_a_change_far_down_is_shown_from_near_there():
    shared = "the same instruction for all " * 20
    pieces = data_rows.changes(f"{shared}route it", f"{shared}classify it")
    assert said(pieces).startswith("… ")
    assert changed(pieces) == [("route", "del"), ("classify", "ins")]


def test_where_a_long_text_is_cut_nothing_is_called_a_change():
    words = [f"w{number}" for number in range(300)]
    pieces = data_rows.changes(" ".join(words), " ".join(["new", *words]))
    assert changed(pieces) == [("new ", "ins")]
    assert said(pieces).endswith(" …")


LINE = st.text(st.sampled_from("ab 退款\nＡ\u0301"), max_size=LONGEST // 4)


@given(LINE, LINE)
def test_changes_hold_both_texts(before, after):
    pieces = data_rows.changes(before, after)
    assert said(pieces) == said(data_rows.excerpt(after))
    old = "".join(piece for piece, change in pieces if change != "ins")
    assert same(old) == same(said(data_rows.excerpt(before)))
