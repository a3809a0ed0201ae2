"""The record and its table."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from stages.lib.records import SCHEMA, Message, Record, from_table, to_table

RECORD = Record(
    "tickets/a.json",
    3,
    (Message("system", "Be kind."), Message("user", "Where is it?\n\nORD-7"), Message("assistant", "On its way.")),
    input="ORD-7",
    category="orders",
    tags=("vip",),
    weight=0.1,
    constraints='{"words":3}',
)


def test_a_record_survives_its_table():
    turns = ("user", "退款？", None), ("assistant", "好", 0), ("user", "几天？", None), ("assistant", "三天", None)
    plain = Record("b.jsonl", 1, tuple(Message(*turn) for turn in turns))
    table = to_table([RECORD, plain])
    assert table.schema == SCHEMA
    assert from_table(table) == [RECORD, plain]
    assert (plain.weight, plain.constraints) == (1, None)


def test_the_id_is_a_hash_of_what_is_said_and_of_nothing_else():
    elsewhere = replace(
        RECORD, source="z.csv", line=99, category="other", tags=(), input=None, weight=2.0, constraints=None
    )
    assert elsewhere.id == RECORD.id
    assert replace(RECORD, messages=tuple(replace(turn, weight=0) for turn in RECORD.messages)).id == RECORD.id
    assert RECORD.id == "5909f24246732703f0beda09236abfeb"  # the same on every machine


def test_the_id_is_blind_to_case_width_and_spaces():
    messages = (RECORD.messages[0], Message("user", "WHERE is  it？ ord-7"), RECORD.messages[2])
    assert replace(RECORD, messages=messages).id == RECORD.id


@given(st.sampled_from(["system", "question", "answer"]), st.text(alphabet="xyz退款", min_size=1, max_size=5))
def test_the_id_changes_with_every_part_of_the_conversation(part, text):
    place = ["system", "question", "answer"].index(part)
    messages = list(RECORD.messages)
    messages[place] = Message(messages[place].role, messages[place].content + text)
    changed = replace(RECORD, messages=tuple(messages))
    assert changed.id != RECORD.id
    assert (changed.question_id == RECORD.question_id) == (part == "answer")


def test_the_question_leaves_the_system_text_out_and_holds_earlier_turns():
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    record = Record("a.json", 1, tuple(Message(role, content) for role, content in turns))
    assert (record.question, record.answer) == ("a\n\nb\n\nc", "d")
