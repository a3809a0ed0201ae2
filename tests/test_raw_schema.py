"""The schema by which an editor underlines mistakes in raw files: as strict about form as the stage itself."""

import json
from pathlib import Path

import jsonschema
import pytest

from stages.lib import forms, sources
from stages.lib.forms import Parsed

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((ROOT / ".vscode/raw.schema.json").read_text(encoding="utf-8"))
EDITOR = json.loads((ROOT / ".vscode/settings.json").read_text(encoding="utf-8"))


def underlines(value):
    return [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(value)]


def chat(*turns):
    return {"conversations": [{"from": who, "value": said} for who, said in turns]}


GOOD = [
    {"instruction": "Which team?", "input": "Where is it?", "output": "shipping", "category": "route"},
    {"instruction": "Say hello.", "output": "Hello!", "input": None, "history": [["Hi", "Hello"]], "language": "en"},
    {"prompt": "Open on Sunday?", "completion": "Yes.", "tags": ["hours"], "system": "Be brief.", "id": 7},
    {"question": "Open on Sunday?", "answer": "Yes.", "category": None},
    {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"},
                  {"role": "assistant", "content": "Hello!"}]},
    chat(("human", "你好"), ("gpt", "您好！")),
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
]


@pytest.mark.parametrize("row", GOOD, ids=json.dumps)
def test_what_the_stage_reads_is_not_underlined(row):
    assert isinstance(forms.parse(row, "a", 1, {}), Parsed)
    assert underlines(row) == underlines([row]) == []


@pytest.mark.parametrize("row", BAD, ids=json.dumps)
def test_what_the_stage_refuses_for_its_form_is_underlined(row):
    assert not isinstance(forms.parse(row, "a", 1, {}), Parsed)
    assert underlines(row)
    assert underlines([GOOD[0], row])


def test_the_demo_files_are_underlined_only_where_validate_rejects_a_row():
    for path in sorted((ROOT / "data/raw").rglob("*.json")):
        for row in sources.read(path):
            parsed = forms.parse(row.value, "a", row.line, {})
            answer = parsed.record.answer if isinstance(parsed, Parsed) else ""
            assert bool(underlines(row.value)) == (not answer.strip()), (path, row.line)


def test_the_speakers_are_those_that_the_stage_knows():
    assert set(SCHEMA["definitions"]["speaker"]["enum"]) == set(forms.ROLES)


def test_the_editor_is_told_which_files_it_is_for():
    (wired,) = EDITOR["json.schemas"]
    assert (ROOT / wired["url"]).resolve() == ROOT / ".vscode/raw.schema.json"
    assert wired["fileMatch"] == ["/data/raw/**/*.json"]
