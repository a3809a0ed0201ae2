"""Constraints of rows: what is wrong with them, and which an answer keeps to."""

import json
import time
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib import constraints
from stages.lib.constraints import KINDS, canonical, kept, kept_loosely, parse
from stages.lib.text_metrics import words
from stages.lib.words import is_blank

ORDER = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"item": {"$ref": "#/definitions/name"}, "qty": {"type": "integer", "minimum": 1}},
    "required": ["item", "qty"],
    "additionalProperties": False,
    "definitions": {"name": {"type": "string", "pattern": "^[a-z]+$"}},
}
TREE = {"type": "array", "items": {"$ref": "#"}}
NO_END = "(a|aa)+b"  # on a run of a it backtracks for longer than the world has stood
NO_JSON = ["it holds what JSON cannot, such as a date or NaN, or is nested too deep"]
LIST = "Here:\n- mugs\n* plates\n  + cups\n•碗\n1. forks\n-5 spoons"

KNOWN = [
    ("words", {"at_most": 3}, "On its way.", True),
    ("words", {"at_most": 2}, "On its way.", False),
    ("words", 2, "don't", True),  # as IFEval's \w+ has it
    ("words", {"at_least": 4, "at_most": 4}, "已发货了。", True),
    ("words", {"at_most": 3}, "已发货了", False),
    ("words", 3, "用 iPhone 付", True),
    ("words", 1, "👍", True),
    ("words", 3, "ＡＢ 2026-03", True),
    ("characters", 4, " ab c\n", True),  # the blank inside counts, those around do not
    ("characters", {"at_most": 3}, "已发货了", False),
    ("characters", {"at_least": 4}, "已发货了", True),
    ("lines", 1, "one\n", True),
    ("lines", 2, "一\n\n\u3000\n二", True),
    ("lines", {"at_most": 1}, "one\ntwo", False),
    ("paragraphs", 2, "one\nstill one\n\n \n\ntwo", True),
    ("paragraphs", 1, "一\n二", True),
    ("paragraphs", 1, "one\r\n\r\ntwo", False),
    ("bullets", 4, LIST, True),
    ("bullets", {"at_least": 5}, LIST, False),
    ("bullets", 0, "2 - 1 = *one*\n**bold** type", True),
    ("bullets", 0, "- mugs", False),
    ("bullets", {"at_most": 0}, "- mugs", False),
    ("numbers", 0, "none at all, 三个", True),
    ("numbers", 0, "3", False),
    ("numbers", 1, "1,204.50 USD.", True),
    ("numbers", 3, "2026-03-03", True),
    ("numbers", 1, "共３２个", True),
    ("keywords", ["refund", "14 days"], "REFUNDS? A refund within 14\ndays!", True),
    ("keywords", ["refund"], "Refunds take a while.", False),  # a word goes on
    ("keywords", ["退款", "iphone"], "可以退款，用iPhone付", True),
    ("keywords", ["退款"], "可以退货", False),
    ("keywords", ["C++"], "I like c++.", True),
    ("keywords", ["a a"], "ba a a", True),  # the second of two that overlap
    ("forbidden", ["no"], "I know.", True),
    ("forbidden", ["no"], "No, sorry.", False),
    ("forbidden", ["抱歉"], "很抱歉。", False),
    ("forbidden", ["!"], "Thanks!", False),
    ("forbidden", ["हिंदी"], "हिंदीभाषा", True),
    ("one_of", ["billing", " shipping "], "shipping\n", True),
    ("one_of", ["billing", "shipping"], "Shipping", False),
    ("one_of", ["发票", "快递"], "快递", True),
    ("one_of", ["0"], "0", True),
    ("starts_with", "Thank you", "Thank you! On its way.", True),
    ("starts_with", "Thank you", "thank you", False),
    ("starts_with", "收到：", "\u3000收到：48213", True),
    ("ends_with", "?", "Which one?\n", True),
    ("ends_with", "。", "好", False),
    ("regex", r"\d{4}-\d{2}-\d{2}", " 2026-03-03\n", True),
    ("regex", r"\d{4}-\d{2}-\d{2}", "On 2026-03-03", False),
    ("regex", r"(?s).*\d{2}.*", "the\n12th", True),
    ("regex", r"\p{Han}+", "已发货", True),
    ("json_schema", ORDER, '{"item": "mugs", "qty": 3}', True),
    ("json_schema", ORDER, '{"item": "Mugs", "qty": 3}', False),
    ("json_schema", ORDER, '{"item": "mugs", "qty": 0}', False),
    ("json_schema", ORDER, '{"item": "mugs", "qty": 3, "city": "Oslo"}', False),
    ("json_schema", ORDER, 'Sure: {"item": "mugs", "qty": 3}', False),
    ("json_schema", {"enum": [0, False, ""]}, "0", True),
    ("json_schema", {"enum": [0, False, ""]}, "false", True),
    ("json_schema", {"enum": [0, False, ""]}, '""', True),
    ("json_schema", {"enum": [0]}, "false", False),
    ("json_schema", {"properties": {"x": False}}, '{"x": null}', False),
    ("json_schema", {"const": "退款"}, '"退款"', True),
    ("json_schema", True, "[1]", True),
    ("json_schema", True, "{'a': 1}", False),
    ("json_schema", True, "NaN", False),
    ("json_schema", {"multipleOf": 0.5}, "1e400", False),  # beyond all floats
    ("json_schema", TREE, "[[], [[]]]", True),
    ("json_schema", TREE, "[" * 5000 + "]" * 5000, False),  # nested deeper than can be followed
    ("json_schema", {"$ref": "#"}, "1", False),  # says of itself that it is as it says
    ("case", "upper", "KT48213 ÄÖ", True),
    ("case", "upper", "Kt", False),
    ("case", "lower", "straße 5", True),
    ("case", "lower", "A", False),
    ("case", "upper", "已发货 5", True),
    ("language", "zh", "已发货", True),
    ("language", "zh", "Yes.", False),
    ("language", "Chinese", "用iPhone吧", False),
    ("language", "en", "On its way.", True),
    ("language", "en", "已发货", False),
    ("language", "ja", "はい、そうです", True),
    ("language", "zh", "42", True),  # no letter speaks against it
]


@pytest.mark.parametrize(("kind", "asked", "answer", "is_kept"), KNOWN)
def test_an_answer_keeps_to_a_constraint_or_does_not(kind, asked, answer, is_kept):
    assert parse({kind: asked}) == {kind: asked}
    assert kept(answer, {kind: asked}) == {kind: is_kept}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_answer_that_keeps_to_it_and_one_that_does_not(kind):
    assert {is_kept for name, *_, is_kept in KNOWN if name == kind} == {True, False}


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_the_docs_is_one(kind):
    asked = {kind: KINDS[kind].example}
    assert parse(asked) == asked


@pytest.mark.parametrize("answer", ["", " \n", "\u3000", "\u200b"], ids=ascii)
@pytest.mark.parametrize("asked", [{"bullets": 0}, {"numbers": 0}, {"forbidden": ["no"]}, {"case": "upper"}], ids=str)
def test_a_blank_answer_keeps_to_nothing_not_even_to_having_none(asked, answer):
    assert not any(kept(answer, asked).values())
    assert not any(kept_loosely(answer, asked).values())


def test_each_constraint_is_judged_by_itself():
    asked = {"words": {"at_most": 1}, "bullets": 0, "language": "zh"}
    assert kept("On its way.", asked) == {"words": False, "bullets": True, "language": False}
    assert kept("anything", {}) == kept_loosely("anything", {}) == {}


@pytest.mark.parametrize(
    ("kind", "asked", "answer"),
    [
        ("json_schema", ORDER, '```json\n{"item": "mugs", "qty": 3}\n```'),
        ("starts_with", "Thank you", "Sure!\nThank you."),
        ("ends_with", "。", "已发货。\n还有什么可以帮您？"),
        ("one_of", ["shipping"], "**shipping**"),
        ("regex", "[A-Z]+", "Sure:\n*KT*\nAnything else?"),
        ("bullets", 0, "* mugs"),
    ],
)
def test_loosely_a_first_line_a_last_line_and_asterisks_do_not_count(kind, asked, answer):
    assert kept(answer, {kind: asked}) == {kind: False}
    assert kept_loosely(answer, {kind: asked}) == {kind: True}


def test_no_variant_is_made_out_of_nothing():
    """All that is left of a line without itself is nothing, which must not pass for an answer without numbers."""
    assert kept_loosely("5", {"numbers": 0}) == {"numbers": False}


ASKED = st.fixed_dictionaries(
    {},
    optional={
        "words": st.fixed_dictionaries({}, optional={"at_least": st.integers(0, 4), "at_most": st.integers(0, 9)}),
        "lines": st.integers(0, 3),
        "bullets": st.integers(0, 2),
        "numbers": st.integers(0, 2),
        "keywords": st.just(["款"]),
        "forbidden": st.just(["no"]),
        "starts_with": st.just("a"),
        "case": st.sampled_from(["upper", "lower"]),
        "language": st.sampled_from(["zh", "en"]),
        "json_schema": st.just(True),
        "regex": st.just("a+"),
    },
)


@given(st.text(alphabet="aN款 no1*-\n[]", max_size=30), ASKED)
def test_what_is_kept_is_kept_loosely(answer, asked):
    strict, loose = kept(answer, asked), kept_loosely(answer, asked)
    assert strict.keys() == loose.keys() == asked.keys()
    assert all(loose[kind] for kind in strict if strict[kind])


@given(st.text())
def test_words_are_counted_as_rouge_counts_them(answer):
    number = len(words(answer.strip()))
    assert kept(answer, {"words": number}) == {"words": not is_blank(answer)}
    assert kept(answer, {"words": number + 1}) == {"words": False}


def test_a_pattern_that_finds_no_end_is_not_kept_to_and_named_once(capsys, monkeypatch):
    monkeypatch.setattr(constraints, "_given_up", set())
    answer, schema = "a" * 200, {"properties": {"x": {"type": "string", "pattern": f"^{NO_END}"}}}
    began = time.process_time()
    assert kept(answer, {"regex": NO_END}) == {"regex": False}
    assert kept(answer, {"regex": NO_END}) == {"regex": False}
    assert kept(json.dumps({"x": answer}), {"json_schema": schema}) == {"json_schema": False}
    assert time.process_time() - began < 10 * constraints.PATIENCE
    said = capsys.readouterr().err
    assert said.count("was given up after 0.2 s") == 2
    assert f'the pattern "{NO_END}"' in said


@pytest.mark.parametrize(
    ("value", "faults"),
    [
        ([1], ["[1] is not an object of constraints"]),
        ("words", ['"words" is not an object of constraints']),
        ({"wrods": 1}, ['"wrods" is no kind of constraint; is "words" meant?']),
        ({"zzz": 1}, [f'"zzz" is no kind of constraint; there are {", ".join(KINDS)}']),
        ({"words": True}, ['"words" is true, not a whole number or {"at_least": …, "at_most": …}']),
        ({"words": 2.0}, ['"words" is 2.0, not a whole number or {"at_least": …, "at_most": …}']),
        ({"bullets": -1}, ['"bullets" is -1, not a whole number or {"at_least": …, "at_most": …}']),
        ({"words": "20"}, ['"words" is "20", not a whole number or {"at_least": …, "at_most": …}']),
        ({"words": {}}, ['"words" says neither at_least nor at_most']),
        ({"words": {"at_leats": 1}}, ['"words" holds "at_leats"; is "at_least" meant?']),
        ({"words": {"max": 1}}, ['"words" holds "max"; there are at_least, at_most']),
        ({"words": {"at_most": "3"}}, ['"words" asks for "at_most" of "3", which is no whole number from 0']),
        ({"words": 0}, ['"words" asks for at least 1 and at most 0, which no answer keeps to']),
        (
            {"bullets": {"at_least": 3, "at_most": 2}},
            ['"bullets" asks for at least 3 and at most 2, which no answer keeps to'],
        ),
        ({"keywords": "refund"}, ['"keywords" is "refund", not a list of texts']),
        ({"keywords": []}, ['"keywords" is [], not a list of texts']),
        (
            {"one_of": ["a", " ", 3]},
            ['"one_of" holds an entry that is blank', '"one_of" holds an entry that is 3, not text'],
        ),
        ({"starts_with": ""}, ['"starts_with" is blank']),
        ({"ends_with": 3}, ['"ends_with" is 3, not text']),
        ({"regex": "("}, ['"regex" is "(", which is no regular expression: missing ) at position 1']),
        ({"regex": 5}, ['"regex" is 5, not text']),
        ({"case": "Upper"}, ['"case" is "Upper", not upper or lower']),
        ({"case": ["upper"]}, ['"case" is ["upper"], not upper or lower']),
        ({"language": "xx"}, ['"language" is "xx", not a language whose script is known, such as en, zh or ja']),
        ({"json_schema": False}, ['"json_schema" is false, not a JSON Schema that an answer can keep to']),
        ({"json_schema": "{}"}, ['"json_schema" is "{}", not a JSON Schema that an answer can keep to']),
        (
            {"json_schema": {"properties": {"a": {"minimum": "3"}}}},
            ['"json_schema" is no JSON Schema: \'3\' is not of type \'number\' (at $.properties.a.minimum)'],
        ),
        (
            {"json_schema": {"$schema": "http://example.com/mine"}},
            ['"json_schema" names "http://example.com/mine" as its "$schema", which is none that is known'],
        ),
        ({"json_schema": {"$schema": 7}}, ['"json_schema" names 7 as its "$schema", which is none that is known']),
        (
            {"json_schema": {"properties": {"a": {"$ref": "http://example.com/a.json"}}}},
            ['"json_schema" refers to "http://example.com/a.json", which is no schema inside it; nothing is fetched'],
        ),
        (
            {"json_schema": {"items": {"$ref": "#/$defs/a"}}},
            ['"json_schema" refers to "#/$defs/a", which is no schema inside it; nothing is fetched'],
        ),
        (
            {"json_schema": {"not": {"patternProperties": {NO_END: True}}}},
            ['"json_schema" holds "patternProperties", which is not offered'],
        ),
        (
            {"json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"$schema": ORDER["$schema"], "pattern": NO_END}}}},
            ['"json_schema" names a "$schema" inside; only the whole may name one'],
        ),
        (
            {"keywords": ["full Refund"], "forbidden": ["refund"]},
            ['"keywords" asks for "full Refund", which "forbidden" forbids'],
        ),
        *(
            (
                {"json_schema": {"components": {"a": target}, "$ref": "#/components/a"}},
                ['"json_schema" refers to "#/components/a", which is no schema inside it; nothing is fetched'],
            )
            for target in (
                {"patternProperties": {NO_END: {}}},
                {"$ref": "https://example.com/z"},
                {"type": "objct"},
                {"minimum": "a"},
                "string",
            )
        ),
        (
            {"json_schema": {"items": {"pattern": "(a){1000000000}"}}},
            [
                '"json_schema" has a "pattern" that is "(a){1000000000}", which repeats too much: 100,000 characters '
                "are the most, written out"
            ],
        ),
        ({"regex": "a" * 1001}, ['"regex" is a pattern of 1,001 characters; 1,000 are the most']),
        *(
            (
                {"regex": pattern},
                [f'"regex" is "{pattern}", which repeats too much: 100,000 characters are the most, written out'],
            )
            for pattern in ("(a){1000000000}", "(a{5000}){5000}", "a{2,999999}", "a{999999,}", "((ab|c){400}[x]){400}")
        ),
        ({"json_schema": {"const": date(2026, 3, 3)}}, NO_JSON),
        ({"json_schema": {"const": Decimal("0.5")}}, NO_JSON),
        ({"json_schema": {"const": float("nan")}}, NO_JSON),
    ],
    ids=ascii,
)  # fmt: skip
def test_constraints_that_are_none_say_why(value, faults):
    assert parse(value) == faults


def test_a_schema_that_is_nested_too_deep_says_so():
    deep: dict = {}
    for _ in range(400):
        deep = {"not": deep}
    assert parse({"json_schema": deep}) == ['"json_schema" is nested too deep']


def test_a_pattern_that_is_nested_too_deep_says_so():
    (fault,) = parse({"regex": "(" * 499 + ")" * 499})
    assert "which is no regular expression: maximum recursion depth" in fault


def test_patterns_that_people_write_are_taken():
    asked = {"regex": r"\d{4}-\d{2}-\d{2}(?: [^\n]{0,200}){0,20}", "json_schema": {"pattern": "^[A-Z]{2}\\d{5}$"}}
    assert parse(asked) == asked
    for pattern in (
        ".{1,800}\n.{1,800}\n.{1,800}",
        "[{900001}]",
        r"\{900001}",
        r"[\]{900001}]",
        "[]{900001}]",
        "(a|b)c{3}",
    ):
        assert parse({"regex": pattern}) == {"regex": pattern}


@pytest.mark.parametrize("price", ["19.99", "0.07", "4.35", "129.95", "1.1", "12", "-3.10", "1e300"])
def test_a_price_is_a_multiple_of_a_cent_as_it_is_written(price):
    """In binary, 19.99 is none."""
    asked = {"json_schema": {"properties": {"price": {"multipleOf": 0.01}}}}
    assert kept(f'{{"price": {price}}}', asked) == {"json_schema": True}
    assert kept('{"price": 4.355}', asked) == {"json_schema": False}


def test_an_apostrophe_is_one_however_it_is_printed():
    assert kept("We can\u2019t.", {"forbidden": ["can't"]}) == {"forbidden": False}
    assert kept("I don't know", {"keywords": ["don\u2019t"]}) == {"keywords": True}
    assert isinstance(parse({"keywords": ["can\u2019t"], "forbidden": ["can't"]}), list)


def test_all_faults_are_told_at_once():
    assert len(parse({"words": -1, "case": "title", "colour": "red", "regex": "["})) == 4


def test_what_is_null_is_not_asked_as_a_table_has_it_for_other_rows():
    asked = {"words": {"at_least": 2, "at_most": None}, "regex": None, "json_schema": {"const": None}}
    found = parse(asked)
    assert found == {"words": {"at_least": 2, "at_most": None}, "json_schema": {"const": None}}
    assert kept("null", found) == {"words": False, "json_schema": True}
    assert parse({"regex": None}) == parse({}) == {}


@pytest.mark.parametrize(
    ("schema", "inside"),
    [
        ({"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"}, '"x"'),
        ({"$id": "http://example.com/a", "$defs": {"b": {"$id": "b", "type": "string"}}, "$ref": "b"}, '"x"'),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, '{"type": "string"}'),  # comes with the library
        ({"$ref": "http://json-schema.org/draft-07/schema#/definitions/nonNegativeInteger"}, "3"),
        ({"properties": {"patternProperties": {"const": 1}, "$ref": {"const": 2}}}, '{"$ref": 2}'),  # names of fields
    ],
)
def test_a_reference_inside_the_schema_is_followed_and_nothing_is_fetched(schema, inside, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("the network was used"))
    assert parse({"json_schema": schema}) == {"json_schema": schema}
    assert kept(inside, {"json_schema": schema}) == {"json_schema": True}


def test_constraints_are_the_same_text_whatever_the_order():
    asked = {"words": {"at_most": 5, "at_least": 1}, "keywords": ["退款"]}
    text = canonical(dict(reversed(asked.items())))
    assert text == canonical(asked) == '{"keywords":["退款"],"words":{"at_least":1,"at_most":5}}'
    assert parse(json.loads(text)) == asked
