"""What a person should look at among the rows that are kept, and the tags by which rules say so.

A rule tags a record with the code and the kind of what it found: `secret:aws-key`, `constraints:breaks-regex`. A row's
own tags never look so: stages/lib/forms.py ignores those that do.
"""

from collections.abc import Iterable, Iterator

from stages.lib.rejects import Code

CONSTRAINTS = "constraints"  # the code of a record whose answer does not keep to its own
BREAKS = "breaks-"  # before the kind of such a constraint
# What a remark can be about.
ABOUT: dict[str, str] = {
    "conflict": "the same question has another answer elsewhere",
    "variation": "the question is nearly that of another row, the answer is not",
    "input": "the row is nearly another one, but for one place, which passes for another input to the same task",
    "alike": "the row and more than ten others are the same but for a few words: copies, or a task",
    Code.SECRET: "a key or token was replaced by [SECRET], or stays where the settings only flag it",
    Code.PERSONAL_DATA: "something was replaced by [EMAIL] and the like, or stays where the settings only flag it",
    Code.REFUSAL: "the answer refuses, as a chat program does",
    Code.PLACEHOLDER: "an input said only that there is none, and is no part of the question",
    Code.UNSAFE: "the row holds a phrase of data/unsafe.txt, or a classifier calls it unsafe",
    CONSTRAINTS: "the answer does not keep to a constraint of its own row",
}
# These stand in the tags of one record; the others show only between records.
TAGGED = (*(about for about in ABOUT if isinstance(about, Code)), CONSTRAINTS)


def findings_in(tags: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What rules have found in records and tagged them with: code and kind."""
    for tag in tags:
        code, _, kind = tag.partition(":")
        if kind and code in TAGGED:
            yield code, kind
