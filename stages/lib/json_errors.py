"""What the JSON decoder finds wrong, in the words of those who do not know JSON's grammar."""

import json
import re

# What stands where a value or a name is due, when people write as they do elsewhere.
_HABITS = tuple(
    (re.compile(pattern), advice)
    for pattern, advice in (
        ("$", "the text ends where a value is due"),
        (r"[\]}]", "before the closing bracket a value is missing, or a comma stands there: remove it"),
        (",", "nothing stands before this comma: remove it, or write null for an empty value"),
        ("'", "a text begins with ': write \" before and after it"),
        (
            "[\u201c\u201d\u201e\u2018\u2019\u300c\u300d\uff02]",
            'a typographic quotation mark: write the straight one, "',
        ),
        ("//|/\\*|#", "a comment, which JSON does not know: remove it"),
        ("None", "None is written null"),
        ("True", "True is written true"),
        ("False", "False is written false"),
        (r"[+.]?\d", "a number does not begin so: write it in quotation marks, as a text"),
        (r"[^\W\d]", 'a text without quotation marks: write " before and after it'),
    )
)
# What stands between values wherever it comes from: no habit of people, but a trace of what was done to the file.
_TRACES = tuple(
    (re.compile(pattern), advice)
    for pattern, advice in (
        (
            r"<<<<<<<|\|\|\|\|\|\|\||=======|>>>>>>>",
            "a conflict mark of git stands here: decide between the two versions and remove the marks",
        ),
        ("\ufeff", "a byte order mark stands in the middle of the file: two files were put together; remove it"),
    )
)
_LEADING_ZERO = re.compile(r"0\d")
_PLAIN = (
    ("Expecting value", "a value is due here: a text in quotation marks, for instance"),
    ("Expecting property name", "the name of a field is due here, in quotation marks"),
    ("Illegal trailing comma", "a comma stands before the closing bracket: remove it"),
    (
        "Expecting ',' delimiter",
        'a comma or a bracket is missing here, or a quotation mark inside a text lacks its backslash (\\")',
    ),
    ("Expecting ':' delimiter", "after the name of a field a colon is missing"),
    ("Unterminated string", "a text begins here and is never closed: a quotation mark is missing"),
    ("Invalid control character", "a line break or tab stands inside a text: write \\n or \\t"),
    ("Invalid \\", "a backslash in a text says nothing by itself: write it twice"),
)


def said(error: json.JSONDecodeError) -> str:
    """What is wrong, and how it is written right, for those who do not read JSON's grammar."""
    after = error.doc[error.pos : error.pos + 16].lstrip()
    if error.msg.startswith("Invalid control character") and (character := error.doc[error.pos]) not in "\t\n\r":
        return f"the control character U+{ord(character):04X} stands inside a text: remove it"
    if found := trace(after):
        return found
    if error.msg == "Expecting ',' delimiter" and not after:
        return "a closing bracket is missing"
    if error.msg == "Expecting ',' delimiter" and _LEADING_ZERO.match(error.doc, error.pos - 1):
        return "a number does not begin with 0: write it in quotation marks, as a text"
    if error.msg.startswith("Expecting") and "delimiter" not in error.msg:
        for habit, advice in _HABITS:
            if habit.match(after):
                return advice
    return next((words for begin, words in _PLAIN if error.msg.startswith(begin)), error.msg)


def trace(text: str) -> str | None:
    """What was done to the file, if the text that stands where JSON cannot go on is a trace of it."""
    return next((advice for pattern, advice in _TRACES if pattern.match(text)), None)
