"""Phrases that nobody should learn."""

from pathlib import Path

import pytest

from stages.lib import lexicon
from stages.lib.errors import UserError
from stages.lib.words import same

CONTENT = """
# what a shop does not want to hear
[self-harm]
kill yourself     # the commonest
suicid*
去死吧

[crime]
C# exploit
Kill  Yourself
someone's keys
they’re next
"""


@pytest.fixture
def found(tmp_path):
    def on(text, content=CONTENT):
        path = tmp_path / "unsafe.txt"
        path.write_text(content, encoding="utf-8")
        return [(phrase.kind, phrase.text) for phrase in lexicon.read(path, "a param").find(same(text))]

    return on


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("Go KILL\n yourself, he said", [("self-harm", "kill yourself"), ("crime", "kill yourself")]),
        ("Ｋｉｌｌ ｙｏｕｒｓｅｌｆ", [("self-harm", "kill yourself"), ("crime", "kill yourself")]),
        ("Suicide is a hard word", [("self-harm", "suicid")]),
        ("你去死吧！", [("self-harm", "去死吧")]),
        ("a c# exploit", [("crime", "c# exploit")]),
        ("someone’s keys; they're next", [("crime", "someone's keys"), ("crime", "they're next")]),
    ],
)
def test_a_phrase_is_found_whatever_its_case_width_and_spaces(found, text, phrases):
    assert found(text) == phrases


@pytest.mark.parametrize(
    "text", ["skill yourself", "kill yourselves", "to kill. yourself", "parasuicide", "去年死吧", "the commonest", ""]
)
def test_a_part_of_other_words_is_no_phrase(found, text):
    assert found(text) == []


def test_an_empty_file_finds_nothing(found):
    assert found("kill yourself", "# nothing\n") == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("kill yourself\n", "unsafe.txt:1: this phrase is of no kind. Write one above it, as in [violence]."),
        ("[a]\n\n*\n", "unsafe.txt:3: the phrase has no letter. Write words, or remove the line."),
    ],
)
def test_a_line_that_is_no_phrase_is_named(found, content, problem):
    with pytest.raises(UserError) as raised:
        found("text", content)
    assert str(raised.value).endswith(problem)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[self harm]", "Write it as one word in square brackets, as in [self-harm]."),
        ("【武器】", "Write it as one word in square brackets, as in [self-harm]."),
        ("[threat", "Write it as one word in square brackets, as in [self-harm]."),
        ("threat]", "Write it as one word in square brackets, as in [self-harm]."),
        ("[threat]:", "Write it as one word in square brackets, as in [self-harm]."),
        ("* kill", "a * counts only at the end of a word, the last one."),
        ("k*ll yourself", "a * counts only at the end of a word, the last one."),
        ("kill yourself *", "a * counts only at the end of a word, the last one."),
        ("炸弹＊", "a * counts only at the end of a word, the last one."),  # full width
        ('"kill yourself"', "Write it without them."),
        ("'kill yourself'", "Write it without them."),
        ("“去死吧”", "Write it without them."),
        ("「去死吧」", "Write it without them."),
        ("bomb, kys", "Write each phrase on a line of its own, without commas."),
        ("炸弹，去死吧", "Write each phrase on a line of its own, without commas."),
        ("炸弹、去死吧", "Write each phrase on a line of its own, without commas."),
        ("- kill yourself  # the commonest", "Write the phrase alone."),
    ],
)
def test_a_line_that_could_never_be_found_is_named(found, line, problem):
    with pytest.raises(UserError) as raised:
        found("text", f"[a]\nb\n{line}\n")
    assert "unsafe.txt:3: " in str(raised.value)
    assert problem in str(raised.value)


def test_signs_inside_a_word_are_part_of_a_phrase(found):
    assert [text for _, text in found("rock 'n' roll, pro-ana", "[武器]\nrock 'n' roll\npro-ana\n")] == [
        "rock 'n' roll",
        "pro-ana",
    ]


def test_the_list_that_retune_brings_along_can_be_read():
    assert len(lexicon.read(Path("data/unsafe.txt"), "a param").phrases) > 100


def test_a_file_that_is_not_there_or_not_utf8_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none.txt, which a param names, cannot be read: No such file"):
        lexicon.read(tmp_path / "none.txt", "a param")
    (tmp_path / "wide.txt").write_text("[a]\nb\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"wide.txt is not UTF-8. Save it as UTF-8."):
        lexicon.read(tmp_path / "wide.txt", "a param")
