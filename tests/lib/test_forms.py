"""The raw forms that a row may have."""

import json
import math
from decimal import Decimal

import pytest

from stages.lib.findings import TAGGED, findings_in
from stages.lib.forms import ROLES, Parsed, parse, question_of
from stages.lib.records import Message
from stages.lib.rejects import Code


def said(row, columns=None):
    """(role, content) of each message, or the code and reason of the reject."""
    parsed = parse(row, "rows.json", 7, columns or {})
    if isinstance(parsed, Parsed):
        return [(message.role, message.content) for message in parsed.record.messages]
    return parsed.code, parsed.reason


ASKED = [("user", "Where is my order?"), ("assistant", "On its way.")]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Where is my order?", "input": "", "output": "On its way."},
        {"instruction": "Where is my order?", "output": "On its way."},
        {"instruction": "Where is my order?", "input": None, "history": [], "system": None, "output": "On its way."},
        {"prompt": "Where is my order?", "completion": "On its way."},
        {"question": "Where is my order?", "answer": "On its way."},
        {
            "messages": [
                {"role": "user", "content": "Where is my order?"},
                {"role": "assistant", "content": "On its way."},
            ]
        },
        {
            "conversations": [
                {"from": "human", "value": "Where is my order?"},
                {"from": "gpt", "value": "On its way."},
            ]
        },
        {"messages": None, "instruction": "Where is my order?", "output": "On its way."},  # columns of a mixed Parquet
    ],
    ids=["alpaca", "no input", "nulls", "prompt", "question", "messages", "sharegpt", "null form"],
)
def test_every_form_gives_the_same_conversation(row):
    assert said(row) == ASKED


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"instruction": "分类", "input": "要退款", "output": "退款"},
            [("user", "分类\n\n要退款"), ("assistant", "退款")],
        ),
        ({"instruction": " ", "input": "Hi", "output": "Hello"}, [("user", "Hi"), ("assistant", "Hello")]),
        (
            {"instruction": "c", "output": "d", "history": [["a", "b"]], "system": "Be kind."},
            [("system", "Be kind."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")],
        ),
        (
            {
                "system": "",
                "messages": [{"role": "system", "content": " "}, *({"role": r, "content": c} for r, c in ASKED)],
            },
            ASKED,
        ),
        (
            {"messages": [{"role": "system", "content": "S"}, *({"role": r, "content": c} for r, c in ASKED)]},
            [("system", "S"), *ASKED],
        ),
    ],
)
def test_a_conversation_is_put_together_from_its_parts(row, expected):
    assert said(row) == expected


def test_what_stood_in_input_is_remembered():
    parsed = parse({"instruction": "Route:", "input": "Late!", "output": "shipping"}, "a.json", 1, {})
    assert parsed.record.input == "Late!"
    assert parsed.record.question.endswith(parsed.record.input)


def test_columns_map_ours_to_theirs():
    columns = {"instruction": "question", "output": "answer", "category": "topic"}
    parsed = parse({"question": "q", "answer": "a", "topic": "maths"}, "a.jsonl", 1, columns)
    assert (parsed.record.question, parsed.record.answer, parsed.record.category) == ("q", "a", "maths")
    assert parsed.unused == ()
    assert said({"instruction": "Where is my order?", "output": "On its way."}, columns) == ASKED
    assert said({"answer": "a"}, columns) == (
        Code.MISSING_FIELD,
        '"instruction" is missing: validate.columns calls it "question"; the row has answer',
    )
    assert said({"question": "q", "answer": 1}, columns) == (Code.WRONG_TYPE, '"answer" is the number 1, not text')


@pytest.mark.parametrize(
    ("row", "code", "reason"),
    [
        ({}, Code.MISSING_FIELD, "no known form: the row has no field"),
        ({"instruction": "q", "ouput": "a"}, Code.MISSING_FIELD, 'ouput; is "ouput" meant for "output"?'),
        ({"ask": "q", "reply": "a"}, Code.MISSING_FIELD, "no known form: the row has ask, reply"),
        ({"question": "q"}, Code.MISSING_FIELD, '"answer" is missing; the row has question'),
        ({"instruction": "q"}, Code.MISSING_FIELD, '"output" is missing; the row has instruction'),
        (
            {"instruction": "q", "ouput": "a"},
            Code.MISSING_FIELD,
            'has instruction, ouput; is "ouput" meant for "output"?',
        ),
        ({"Instruction": "q", "Output": "a"}, Code.MISSING_FIELD, 'is "Output" meant for "output"?'),
        ({"data": [1]}, Code.MISSING_FIELD, 'the row has only the list "data"; if that holds the rows, leave nothing'),
        ({"instruction": "q", "output": None}, Code.MISSING_FIELD, '"output" is null'),
        ({"prompt": "q"}, Code.MISSING_FIELD, '"completion" is missing'),
        ({"messages": [{"role": "user"}]}, Code.MISSING_FIELD, 'turn 1 has no "content"'),
        ({"conversations": [{"value": "x"}]}, Code.MISSING_FIELD, "turn 1 does not say who speaks"),
        ("text", Code.WRONG_TYPE, "the row is text, not an object"),
        (["q", "a"], Code.WRONG_TYPE, "the row is a list"),
        ({"instruction": "q", "output": 12}, Code.WRONG_TYPE, '"output" is the number 12, not text'),
        ({"instruction": "q", "output": ["a"]}, Code.WRONG_TYPE, '"output" is a list, not text'),
        ({"instruction": "q", "output": True}, Code.WRONG_TYPE, '"output" is true or false, not text'),
        ({"instruction": "q", "output": "a", "input": {}}, Code.WRONG_TYPE, '"input" is an object'),
        ({"instruction": "q", "output": "a", "category": 3}, Code.WRONG_TYPE, '"category" is the number 3'),
        ({"instruction": "q", "output": "a", "tags": [1]}, Code.WRONG_TYPE, "a tag is the number 1"),
        ({"instruction": "q", "output": "a", "history": [["x"]]}, Code.WRONG_TYPE, "pair 1 of the history has 1"),
        ({"messages": "user: hi"}, Code.WRONG_TYPE, '"messages" is text, not a list'),
        ({"messages": ["hi"]}, Code.WRONG_TYPE, "turn 1 is text, not an object"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            Code.WRONG_TYPE,
            '"content" of turn 1 is a list',
        ),
        ({"messages": []}, Code.ROLE_ORDER, "no turn"),
    ],
)
def test_a_row_that_cannot_be_read_says_why(row, code, reason):
    assert said(row)[0] == code
    assert reason in said(row)[1]


def chat(*turns):
    return {"conversations": [{"from": speaker, "value": str(number)} for number, speaker in enumerate(turns)]}


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (("human", "human", "gpt"), "turn 2 is user, where assistant is due"),
        (("gpt",), "turn 1 is assistant, where user is due"),
        (("human", "gpt", "human"), "ends with user"),
        (("human", "gpt", "system", "gpt"), "turn 3 is system"),
        (("system",), "ends with system"),
        (("system", "system", "human", "gpt"), "turn 2 is system"),
    ],
)
def test_turns_out_of_order_reject_the_row(turns, reason):
    """Field fault 7."""
    assert said(chat(*turns)) == (Code.ROLE_ORDER, said(chat(*turns))[1])
    assert reason in said(chat(*turns))[1]


@pytest.mark.parametrize("speaker", ["AI", "narrator", ""])
def test_an_unknown_speaker_rejects_the_row_by_its_name(speaker):
    """Field fault 8."""
    code, reason = said(chat("human", speaker, "gpt"))
    assert code == Code.UNKNOWN_ROLE
    assert f'turn 2 is spoken by "{speaker}"' in reason


@pytest.mark.parametrize(("speaker", "role"), [*ROLES.items(), ("GPT ", "assistant"), ("Human", "user")])
def test_known_speakers_are_mapped_and_named(speaker, role):
    """Field fault 8."""
    others = {"system": ("human", "gpt"), "user": ("assistant",), "assistant": ()}[role]
    turns = ("user", speaker) if role == "assistant" else (speaker, *others)
    parsed = parse(chat(*turns), "a.json", 1, {})
    assert role in [message.role for message in parsed.record.messages]
    assert (speaker in parsed.renamed) == (speaker != role)


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "search"}}]}
TALK = chat("human", "gpt")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            chat("human", "function_call", "observation", "gpt"),
            "turns 2, 3 are a tool's, or call one",
        ),
        (chat("human", "Tool ", "gpt"), "turn 2 is a tool's, or calls one"),
        (
            {"messages": [{"role": "user", "content": "q"}, CALL]},
            "turn 2 is a tool's, or calls one",
        ),
        (TALK | {"tools": [{"name": "search"}]}, "the row offers tools"),
        (TALK | {"tools": '[{"name": "search"}]'}, "the row offers tools"),
    ],
)
def test_a_conversation_with_tools_is_rejected_in_one_sentence(row, reason):
    """Field fault 8."""
    code, said_of_it = said(row)
    assert code == Code.TOOL_CALL
    assert said_of_it.startswith(reason)
    assert said_of_it.count("cannot be trained here") == 1


@pytest.mark.parametrize("tools", ["[]", " ", [], None, "{}"])
def test_a_conversation_that_offers_no_tool_is_one_like_others(tools):
    assert parse(TALK | {"tools": tools}, "a.json", 1, {}).unused == ()


def test_tools_may_be_told_of_in_the_system_text():
    record = parse(TALK | {"tools": "search(query)"}, "a.json", 1, {"system": "tools"}).record
    assert record.messages[0] == Message("system", "search(query)")


@pytest.mark.parametrize("own", ["<noinput>", "No input.", "`<NoInput>`", "< noinput >", "ＮＡＮ"])
def test_an_input_that_only_says_that_there_is_none_is_no_part_of_the_question(own):
    record = parse({"instruction": "q", "input": own, "output": "a"}, "a", 1, {}, ["nan", "noinput", "no input"]).record
    assert (record.question, record.input, record.tags) == ("q", None, ("placeholder:no-input",))


def test_an_input_with_a_placeholder_among_other_words_stays():
    row = {"instruction": "q", "input": "no input voltage", "output": "a"}
    assert parse(row, "a", 1, {}, ["no input"]).record.input == "no input voltage"


def test_fields_that_nothing_reads_are_named():
    row = {"instruction": "q", "output": "a", "id": 7, "tools": "[]", "score": 1, "empty": None, "tags": ["vip"]}
    parsed = parse(row, "a.json", 1, {})
    assert parsed.unused == ("score", "tools")
    assert parsed.record.tags == ("vip",)
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "name": "Bo"}]
    assert parse({"messages": turns}, "a.json", 1, {}).unused == ("messages[].name",)


@pytest.mark.parametrize(
    ("value", "weight"),
    [
        (None, 1),
        ("", 1),
        (" ", 1),
        (0.5, 0.5),
        (2, 2),
        (1e-6, 1e-6),
        (1_000_000, 1e6),
        (Decimal("0.5"), 0.5),
        ("0.5", 0.5),  # as a CSV cell has it
        (" 2 ", 2),
        ("1e-3", 0.001),
        (".5", 0.5),
    ],
)
def test_a_row_may_say_how_much_it_counts(value, weight):
    parsed = parse({"instruction": "q", "output": "a", "weight": value}, "a.json", 1, {})
    assert (parsed.record.weight, parsed.unused) == (weight, ())
    parsed = parse({"instruction": "q", "output": "a", "share": value}, "a.json", 1, {"weight": "share"})
    assert (parsed.record.weight, parsed.unused) == (weight, ())


def test_a_row_that_does_not_say_how_much_it_counts_counts_for_one():
    assert parse({"instruction": "q", "output": "a"}, "a.json", 1, {}).record.weight == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "the number 0"),
        (0.0, "the number 0.0"),
        (-1, "the number -1"),
        (1e-9, "the number 1e-09"),
        (1_000_001, "the number 1000001"),
        (10**400, f"the number {10**400}"),
        (math.nan, "the number nan"),
        (math.inf, "the number inf"),
        (True, "true or false"),
        ([1], "a list"),
        ("0", 'the text "0"'),
        ("0,5", 'the text "0,5"'),
        ("nan", 'the text "nan"'),
        ("1_000", 'the text "1_000"'),
        ("heavy", 'the text "heavy"'),
        ("1e999", 'the text "1e999"'),
    ],
    ids=str,
)
def test_a_weight_that_is_none_rejects_the_row(value, shown):
    reason = f"is {shown}, not a number from 0.000001 to 1,000,000"
    assert said({"prompt": "q", "completion": "a", "weight": value}) == (Code.WRONG_WEIGHT, f'"weight" {reason}')
    row = {"prompt": "q", "completion": "a", "share": value}
    assert said(row, {"weight": "share"}) == (Code.WRONG_WEIGHT, f'"share" {reason}')


def weighed(*weights, **fields):
    """A conversation whose answers have these weights; ... leaves the weight out."""
    turns = []
    for number, weight in enumerate(weights):
        said_so = {} if weight is ... else {"weight": weight}
        turns += [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": f"a{number}"} | said_so]
    return {"messages": turns, **fields}


@pytest.mark.parametrize(
    ("row", "answers", "unused"),
    [
        (weighed(..., 1, None, 1.0), [("a0", None), ("a1", None), ("a2", None), ("a3", None)], ()),
        (weighed(0, ...), [("a0", 0), ("a1", None)], ()),
        (weighed(0.0, 1, 0, 1), [("a0", 0), ("a1", None), ("a2", 0), ("a3", None)], ()),
        (weighed(0, ..., system="Be kind."), [("a0", 0), ("a1", None)], ()),
        (weighed(1, 0), [("a0", None)], ("messages[] after the last answer with weight 1",)),
        (weighed(0, 1, 0, 0), [("a0", 0), ("a1", None)], ("messages[] after the last answer with weight 1",)),
        (
            {
                "conversations": [
                    {"from": "system", "value": "s", "weight": 0},
                    {"from": "human", "value": "q0", "weight": 0},
                    {"from": "gpt", "value": "a0"},
                    {"from": "human", "value": "q1", "weight": 1},
                    {"from": "gpt", "value": "a1", "weight": 0},
                ]
            },
            [("a0", None)],
            ("conversations[] after the last answer with weight 1", "conversations[].weight (user)"),
        ),
    ],
)
def test_an_answer_of_weight_0_is_only_read_and_never_the_last(row, answers, unused):
    """OpenAI's fine-tuning format. Nothing is learned from what follows the last trained answer, so it is left out."""
    parsed = parse(row, "a.json", 1, {})
    messages = parsed.record.messages
    assert [(turn.content, turn.weight) for turn in messages if turn.role == "assistant"] == answers
    assert {turn.weight for turn in messages if turn.role != "assistant"} == {None}
    assert messages[-1].role == "assistant"
    assert parsed.unused == unused


def test_what_is_left_out_is_named_as_the_user_knows_it():
    row = {"chat": weighed(1, 0)["messages"], "messages": None}
    assert parse(row, "a.json", 1, {"messages": "chat"}).unused == ("chat[] after the last answer with weight 1",)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (weighed(0), "every answer has weight 0, so there is nothing to train"),
        (weighed(0, 0.0), "every answer has weight 0, so there is nothing to train"),
        (weighed(1, 0.5), '"weight" of turn 4 is the number 0.5, not 0 or 1'),
        (weighed(2), '"weight" of turn 2 is the number 2, not 0 or 1'),
        (weighed(-1), '"weight" of turn 2 is the number -1, not 0 or 1'),
        (weighed(math.nan), '"weight" of turn 2 is the number nan, not 0 or 1'),
        (weighed(True), '"weight" of turn 2 is true or false, not 0 or 1'),
        (weighed("0"), '"weight" of turn 2 is text, not 0 or 1'),
        (weighed([0]), '"weight" of turn 2 is a list, not 0 or 1'),
    ],
)
def test_a_turn_weighs_0_or_1_and_one_answer_is_trained(row, reason):
    assert said(row) == (Code.WRONG_WEIGHT, reason)


def test_turns_that_are_left_out_keep_to_the_order_of_turns_all_the_same():
    row = weighed(1, 0)
    row["messages"].append({"role": "user", "content": "q2"})
    assert said(row) == (Code.ROLE_ORDER, "the conversation ends with user, not with an answer")


SHORT = {"words": {"at_most": 5}, "bullets": 0, "json_schema": {"enum": [0, False, None]}}
CANONICAL = '{"bullets":0,"json_schema":{"enum":[0,false,null]},"words":{"at_most":5}}'


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (SHORT, CANONICAL),
        (json.dumps(SHORT, indent=1), CANONICAL),  # as a CSV cell has it
        (SHORT | {"regex": None}, CANONICAL),
        (None, None),
        ("", None),
        (" ", None),
        ({}, None),
        ("{}", None),
        ("null", None),
        ({"keywords": ["退款"]}, '{"keywords":["退款"]}'),
    ],
)
def test_a_row_may_say_what_its_answer_has_to_keep_to(value, stored):
    parsed = parse({"instruction": "q", "output": "a", "constraints": value}, "a.json", 1, {})
    assert (parsed.record.constraints, parsed.unused) == (stored, ())
    parsed = parse({"instruction": "q", "output": "a", "rules": value}, "a.json", 1, {"constraints": "rules"})
    assert (parsed.record.constraints, parsed.unused) == (stored, ())


@pytest.mark.parametrize(
    ("value", "reasons"),
    [
        (["short"], ['["short"] is not an object of constraints']),
        ("short", ['not JSON: a text without quotation marks: write " before and after it (column 1)']),
        ("{“words”: 3}", ['not JSON: a typographic quotation mark: write the straight one, " (column 2)']),
        ('{"words": 3} or so', ["not JSON: text follows the value (column 13)"]),
        ('{"words": 3, "words": 4}', ['not strict JSON: "words" stands twice in one object']),
        ('{"words": NaN}', ["not strict JSON: NaN is not a JSON number"]),
        ("[" * 200 + "]" * 200, ["not JSON: brackets are nested more than 100 deep"]),
        (
            {"wrods": 1, "regex": "("},
            [
                '"wrods" is no kind of constraint; is "words" meant?',
                '"regex" is "(", which is no regular expression: missing ) at position 1',
            ],
        ),
    ],
    ids=ascii,
)
def test_constraints_that_are_wrong_reject_the_row_with_every_fault(value, reasons):
    assert said({"prompt": "q", "completion": "a", "constraints": value}) == (
        Code.WRONG_CONSTRAINTS,
        "; ".join(f'"constraints": {reason}' for reason in reasons),
    )
    assert said({"prompt": "q", "completion": "a", "rules": value}, {"constraints": "rules"})[1].startswith('"rules": ')


@pytest.mark.parametrize("code", TAGGED)
def test_a_tag_of_the_rows_own_never_passes_for_a_finding_of_ours(code):
    """It is ignored and named, as a field is that nothing reads: a second round through the pipeline finds anew."""
    row = {"instruction": "q", "output": "a", "tags": ["vip", f"{code}:email", f" {code}:no-input ", f"{code}: ", code]}
    parsed = parse(row, "a.json", 1, {})
    assert parsed.unused == (f"tags[].{code}:…",)
    assert (parsed.record.tags, list(findings_in(parsed.record.tags))) == (("vip", f"{code}:", code), [])
    one = parse(
        {"ask": "q", "output": "a", "labels": f"{code}:x"}, "a.csv", 1, {"instruction": "ask", "tags": "labels"}
    )
    assert (one.record.tags, one.unused) == ((), (f"labels[].{code}:…",))


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ({"prompt": "2 + 2?"}, ("2 + 2?", None)),
        ({"question": "2 + 2?", "answer": "4"}, ("2 + 2?", None)),
        ({"text": "2 + 2?"}, ("2 + 2?", None)),
        ({"instruction": "Add:", "input": "2 2"}, ("Add:\n\n2 2", "2 2")),
        ({"instruction": "Add:", "input": "2 2", "output": "4"}, ("Add:\n\n2 2", "2 2")),
        (chat("human", "gpt"), ("0", None)),
        ({"prompt": "2 + 2?", "completion": "4", "weight": 0}, ("2 + 2?", None)),
        (weighed(1, 0), ("q0\n\na0\n\nq1", None)),  # held out whole, whatever would be trained
        (weighed(0, weight="5 points"), ("q0", None)),
        ({"prompt": "2 + 2?", "completion": "4", "constraints": "short"}, ("2 + 2?", None)),
        ({"answer": "4"}, None),
        ({"prompt": " "}, None),
        ("2 + 2?", None),
    ],
)
def test_what_a_benchmark_row_asks_is_found_in_any_form(row, question):
    found = question_of(row)
    assert (found and (found.text, found.input)) == question


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"prompt": "2 + 2?"}, [("user", "2 + 2?")]),
        (
            {"instruction": "Add:", "input": "2 2", "system": "Be brief."},
            [("system", "Be brief."), ("user", "Add:\n\n2 2")],
        ),
        ({"prompt": "2 + 2?", "completion": "4", "system": "Briefly."}, [("system", "Briefly."), ("user", "2 + 2?")]),
        (weighed(1, 0), [("user", "q0"), ("assistant", "a0"), ("user", "q1")]),
    ],
)
def test_a_question_knows_all_that_is_said_before_its_answer(row, turns):
    assert [(turn.role, turn.content) for turn in question_of(row).messages] == turns


@pytest.mark.parametrize(
    ("row", "code", "reasons"),
    [
        (
            {"instruction": 1, "input": [], "tags": [2]},
            Code.WRONG_TYPE,
            [
                '"input" is a list, not text',
                '"instruction" is the number 1, not text',
                '"output" is missing; the row has instruction, input, tags',
                "a tag is the number 2, not text",
            ],
        ),
        (
            {"messages": [{"role": "wizard", "content": "x"}, {"role": "user"}, "text"]},
            Code.UNKNOWN_ROLE,
            [
                'turn 1 is spoken by "wizard"',
                'turn 2 has no "content"',
                "turn 3 is text, not an object",
            ],
        ),
        (
            {"instruction": "q", "output": "a", "history": [["one"], [1, "b"], "c"]},
            Code.WRONG_TYPE,
            [
                "pair 1 of the history has 1 text, not a question and an answer",
                "pair 2 of the history is the number 1, not text",
                "pair 3 of the history is text, not a list",
            ],
        ),
    ],
)
def test_all_that_is_wrong_with_a_row_is_said_at_once(row, code, reasons):
    """So that nobody mends it twice."""
    assert said(row) == (code, "; ".join(reasons))
