"""The schema by which an editor underlines mistakes in raw files: as strict about form as the stage itself."""

import itertools
import json
import re
from pathlib import Path

import jsonschema
import pytest

from stages.lib import forms, sources
from stages.lib.constraints import KINDS
from stages.lib.forms import Parsed

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((ROOT / ".vscode/raw.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
EDITOR = json.loads((ROOT / ".vscode/settings.json").read_text(encoding="utf-8"))


def underlines(value):
    return [error.message for error in VALIDATOR.iter_errors(value)]


def chat(*turns):
    return {"conversations": [{"from": who, "value": said} for who, said in turns]}


GOOD = [
    {"instruction": "Which team?", "input": "Where is it?", "output": "shipping", "category": "route"},
    {"instruction": "Say hello.", "output": "Hello!", "input": None, "history": [["Hi", "Hello"]], "language": "en"},
    {"prompt": "Open on Sunday?", "completion": "Yes.", "tags": ["hours"], "system": "Be brief.", "id": 7},
    {"question": "Open on Sunday?", "answer": "Yes.", "category": None, "weight": None},
    *({"question": "Open?", "answer": "Yes.", "constraints": {kind: one.example}} for kind, one in KINDS.items()),
    *({"question": "Open?", "answer": "Yes.", "constraints": asked}
      for asked in (None, "", '{"words": 1}', {}, {"wrods": None, "words": 1}, {"numbers": 0, "words": {"at_least": 0}},
                    {"words": {"at_most": 3, "at_least": None}}, {"regex": None, "one_of": None, "case": None})),
    *({"question": "Open?", "answer": "Yes.", "weight": weight} for weight in (0.5, 2, 1000000, "0.5", " 2 ", "")),
    {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"},
                  {"role": "assistant", "content": "Hello!"}]},
    {"messages": [{"role": "user", "content": "Hi", "weight": 0}, {"role": "assistant", "content": "a", "weight": 0},
                  {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Bye!", "weight": 1}]},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!", "weight": None}]},
    chat(("human", "你好"), ("gpt", "您好！")),
    chat(("User", "Hi"), (" GPT ", "Hello!")),
    {"instruction": "Say hello.", "output": "Hello!", "messages": None, "conversations": None, "history": ""},
    {"instruction": None, "output": None, "prompt": "Hi", "completion": "Hello!", "tags": None},
    {"prompt": None, "completion": None, "question": "Hi", "answer": "Hello!"},
    {"messages": None, "conversations": [{"from": "user", "value": "Hi"}, {"from": "bot", "value": "Hello!"}]},
]  # fmt: skip
BAD = [
    "text",
    12,
    {},
    {"question": "Hi"},
    {"instruction": "Hi"},
    {"output": "Hi"},
    {"instruction": "Count", "output": 12},
    {"instruction": ["Hi"], "output": "x"},
    {"instruction": "Hi", "output": "x", "input": 3},
    {"instruction": "Hi", "output": "x", "history": [["only one"]]},
    {"instruction": "Hi", "output": "x", "tags": [1]},
    {"instruction": "Hi", "output": "x", "category": 1},
    {"prompt": "Hi"},
    {"prompt": "Hi", "completion": None},
    {"question": "Hi"},
    {"question": "Hi", "answer": 3},
    {"messages": "Hi"},
    {"messages": []},
    {"messages": [{"role": "wizard", "content": "x"}, {"role": "assistant", "content": "y"}]},
    {"messages": [{"role": "user"}, {"role": "assistant", "content": "y"}]},
    chat(("human", 1), ("gpt", "x")),
    chat(("Users", "Hi"), ("gpt", "x")),
    {"messages": None},
    {"messages": None, "instruction": "Hi"},
    {"messages": [], "question": "Hi", "answer": "Hello!"},
    {"prompt": None, "completion": "Hi", "question": "Hi", "answer": "Hello!"},
    {"instruction": "Hi", "output": "x", "history": "Hello"},
    *({"instruction": "Hi", "output": "x", "weight": weight} for weight in (0, -1, 1e7, True, "heavy", "0,5", [1])),
    *({"instruction": "Hi", "output": "x", "constraints": asked}
      for asked in (3, ["short"], {"wrods": 1}, {"words": 0}, {"lines": {"at_most": 0}}, {"numbers": -1},
                    {"words": True}, {"words": "3"}, {"words": {}}, {"words": {"at_most": None}}, {"words": {"max": 3}},
                    {"bullets": 1.5}, {"keywords": "a"}, {"keywords": []}, {"one_of": [" "]}, {"forbidden": [1]},
                    {"starts_with": ""}, {"regex": 1}, {"json_schema": False}, {"json_schema": "{}"},
                    {"case": "Upper"}, {"language": 1})),
    *({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!", "weight": weight}]}
      for weight in (0.5, 2, -1, True, "0")),
]  # fmt: skip
# Whatever a field may be found to hold: what it should, nothing at all, and nothing in another way.
HELD = {name: ["text", None, ...] for name in ("instruction", "output", "prompt", "completion")}
HELD |= {
    "question": ["text", ...],
    "answer": ["text", None],
    "messages": [None, ..., [{"role": "USER", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]],
    "conversations": [None, ..., [{"from": "human ", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}], "text"],
}


@pytest.mark.parametrize("row", GOOD, ids=json.dumps)
def test_what_the_stage_reads_is_not_underlined(row):
    assert isinstance(forms.parse(row, "a", 1, {}), Parsed)
    assert underlines(row) == underlines([row]) == []


@pytest.mark.parametrize("row", BAD, ids=json.dumps)
def test_what_the_stage_refuses_for_its_form_is_underlined(row):
    assert not isinstance(forms.parse(row, "a", 1, {}), Parsed)
    assert underlines(row)
    assert underlines([GOOD[0], row])


def test_of_several_forms_in_a_row_stage_and_editor_see_the_same():
    for values in itertools.product(*HELD.values()):
        row = {name: value for name, value in zip(HELD, values, strict=True) if value is not ...}
        assert bool(underlines(row)) != isinstance(forms.parse(row, "a", 1, {}), Parsed), row


def test_the_demo_files_are_underlined_only_where_validate_rejects_a_row():
    for path in sorted((ROOT / "data/raw").rglob("*.json")):
        for row in sources.read(path):
            parsed = forms.parse(row.value, "a", row.line, {})
            answer = parsed.record.answer if isinstance(parsed, Parsed) else ""
            assert bool(underlines(row.value)) == (not answer.strip()), (path, row.line)


def test_the_speakers_are_those_that_the_stage_knows():
    offered, taken = SCHEMA["definitions"]["speaker"]["anyOf"]
    assert set(offered["enum"]) == set(forms.ROLES)
    assert set(re.search(r"\(\?:(.*)\)", taken["pattern"])[1].split("|")) == set(forms.ROLES)


def test_the_kinds_of_constraints_are_those_that_the_stage_knows():
    assert SCHEMA["definitions"]["constraints"]["properties"].keys() == KINDS.keys()


def test_the_editor_is_told_which_files_it_is_for():
    (wired,) = EDITOR["json.schemas"]
    assert (ROOT / wired["url"]).resolve() == ROOT / ".vscode/raw.schema.json"
    assert wired["fileMatch"] == ["/data/raw/**/*.json"]
