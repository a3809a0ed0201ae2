"""What is wrong with a line of JSON, in plain words."""

import json

import pytest

from stages.lib.json_errors import said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{'a': 1}", "a text begins with '"),
        ('{"a": “b”}', "a typographic quotation mark"),
        ("{“a”: 1}", "a typographic quotation mark"),
        ('{"a": None}', "None is written null"),
        ('{"a": True}', "True is written true"),
        ('{"a": "b",}', "remove it"),
        ('{"a": }', "before the closing bracket a value is missing"),
        ('{"a": , "b": 1}', "nothing stands before this comma"),
        ('{"a": yes}', "a text without quotation marks"),
        ('{a: "b"}', "a text without quotation marks"),
        ('{"a": .5}', "a number does not begin so"),
        ('{"a": 007}', "a number does not begin with 0"),
        ('{"a": -01}', "a number does not begin with 0"),
        ('{"a": "a 15" 3 cm wide"}', "a quotation mark inside a text lacks its backslash"),
        ('{"a": 0 1}', "a comma or a bracket is missing here"),
        ("// a row", "a comment, which JSON does not know"),
        ("# a row", "a comment, which JSON does not know"),
        ("", "the text ends where a value is due"),
        ('{"a" "b"}', "after the name of a field a colon is missing"),
        ('{"a": "b" "c": 1}', "a comma or a bracket is missing here"),
        ('{"a": "he said "hi" there"}', "a quotation mark inside a text lacks its backslash"),
        ('{"a": 1', "a closing bracket is missing"),
        ('{"a": "b', "a text begins here and is never closed"),
        ('{"a": "b\tc"}', r"a line break or tab stands inside a text: write \n or \t"),
        ('{"a": "b\nc"}', r"a line break or tab stands inside a text: write \n or \t"),
        ('{"a": "b\x00c"}', "the control character U+0000 stands inside a text: remove it"),
        ('{"a": "b\x1bc"}', "the control character U+001B stands inside a text: remove it"),
        ("<<<<<<< HEAD", "a conflict mark of git"),
        ("=======", "a conflict mark of git"),
        (">>>>>>> main", "a conflict mark of git"),
        ('[{"a": 1}\n<<<<<<< HEAD\n]', "a conflict mark of git"),
        ('{"a": 1,\n=======\n"b": 2}', "a conflict mark of git"),
        ('{"a": 1}\n>>>>>>> main', "a conflict mark of git"),
        ('\ufeff{"a": 1}', "a byte order mark stands in the middle of the file: two files were put together"),
        ('[{"a": 1},\n\ufeff{"a": 1}]', "a byte order mark stands in the middle of the file"),
        ('{"a": 1}\n\ufeff{"a": 1}', "a byte order mark stands in the middle of the file"),
        (r'{"a": "C:\Users"}', "a backslash in a text says nothing by itself"),
        (r'{"a": "\x41"}', "a backslash in a text says nothing by itself"),
        ('{"a": ;}', "a value is due here"),
        ('{"a": 1, ;}', "the name of a field is due here"),
    ],
)
def test_a_fault_is_told_in_plain_words(text, words):
    with pytest.raises(json.JSONDecodeError) as raised:
        json.loads(text)
    assert words in said(raised.value)
    assert "xpecting" not in said(raised.value)
