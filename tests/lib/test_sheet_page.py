"""The page to rate on: nothing in a row can break out of it, and what is rated is kept and saved."""

import base64
import csv
import hashlib
import html
import io
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib import page, sheet_page
from stages.lib.questions import COLUMNS, QUESTIONS
from stages.lib.sheet_page import Row
from tests.browser import browse

ROWS = [Row(f"i{number:016x}", "route", f"Which team? {number}", "shipping", "billing", None) for number in range(3)]


class Parsed(HTMLParser):
    """Tags with their attributes, and the text of each `pre`, script and style."""

    def __init__(self, document):
        super().__init__()
        self.tags, self.texts = [], {"pre": [], "script": [], "style": []}
        self.open = None
        self.feed(document)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, attrs))
        if tag in self.texts:
            self.open = tag
            self.texts[tag].append("")

    def handle_endtag(self, tag):
        if tag == self.open:
            self.open = None

    def handle_data(self, data):
        if self.open:
            self.texts[self.open][-1] += data


def policy_of(parsed):
    found = [dict(attrs) for tag, attrs in parsed.tags if tag == "meta"]
    return next(attrs["content"] for attrs in found if attrs.get("http-equiv") == "Content-Security-Policy")


def source_of(code):
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


HOSTILE = (
    "</pre></article><script>alert(1)</script>",
    "</script><script>alert(1)//",
    "<!--<script>",
    "\"><img src=x onerror='alert(1)'>",
    "{{ policy }}{% raw %}",
    "&lt;b&gt; &amp;",
)
foreign = st.one_of(st.sampled_from(HOSTILE), st.text(), st.text(alphabet="<>/\"'&;!-scriptpre= "))


@settings(max_examples=50, deadline=None)  # a page is rendered twice
@given(foreign, foreign, foreign, foreign, foreign)
def test_no_text_of_a_row_becomes_markup(category, prompt, a, b, reference):
    made = Parsed(sheet_page.render([Row(ROWS[0].item, category, prompt, a, b, reference)]))
    plain = Parsed(sheet_page.render([Row(ROWS[0].item, "c", "p", "a", "b", "r")]))

    blank = not all(text.strip() for text in (prompt, a, b, reference))  # "(empty)" stands in a span
    tags = [tag for tag in made.tags if not (blank and tag == ("span", [("class", "quiet")]))]
    assert tags == [tag for tag in plain.tags if not (blank and tag == ("span", [("class", "quiet")]))]
    assert (made.texts["script"], made.texts["style"]) == (plain.texts["script"], plain.texts["style"])


def test_every_text_is_there_to_the_letter():
    texts = ["</script>", 'say "hi" & <b>go</b>', "退款\n\n已批准", "  indented"]
    parsed = Parsed(sheet_page.render([Row(ROWS[0].item, "c", *texts[:3], texts[3])]))
    assert sorted(text.removeprefix("\n") for text in parsed.texts["pre"]) == sorted(texts)


def test_the_policy_lets_run_this_script_and_this_style_and_nothing_else():
    parsed = Parsed(sheet_page.render(ROWS))
    assert len(parsed.texts["script"]) == len(parsed.texts["style"]) == 1
    assert policy_of(parsed) == (
        f"default-src 'none'; style-src {source_of(parsed.texts['style'][0])}; "
        f"script-src {source_of(parsed.texts['script'][0])}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert not [name for _, attrs in parsed.tags for name, _ in attrs if name == "style" or name.startswith("on")]


@pytest.mark.parametrize("kind", ["css", "js"])
def test_style_and_script_hold_nothing_that_ends_them_or_that_the_page_replaces(kind):
    code = sheet_page.TEMPLATE.with_name(f"sheet_page.{kind}").read_text(encoding="utf-8")
    assert not re.search(r"</|<!--", code)
    assert not page.CONTROL.search(code)
    assert not page.UNSEEN.search(code)


def test_what_nobody_can_see_is_shown():
    shown = sheet_page.render([Row(ROWS[0].item, "c", "p", "pay \u202eevil", "pay\x00", None)])
    assert "pay ‹U+202E›evil" in shown
    assert "pay␀" in shown


def test_the_reference_is_shown_only_where_it_is_asked_for():
    assert "Reference" not in sheet_page.render(ROWS)
    assert "Reference" in sheet_page.render([Row(**vars(ROWS[0]) | {"reference": "shipping"})])


def test_every_question_of_every_row_has_a_group_of_its_own():
    inputs = [dict(attrs) for tag, attrs in Parsed(sheet_page.render(ROWS)).tags if tag == "input"]
    radios = [(one["name"], one["value"]) for one in inputs if one.get("type") == "radio"]
    assert sorted(radios) == sorted(
        (f"{row.item} {name}", choice)
        for row in ROWS
        for name, question in QUESTIONS.items()
        for choice in question.choices
    )


def driven(driver, tmp_path):
    """What a script prints that does as a rater would, in a browser: the policy is told of this script, too."""
    driver = f"const told = {{}}; {driver}; document.title = JSON.stringify(told);"
    made = sheet_page.render(ROWS).replace("script-src ", f"script-src {source_of(driver)} ")
    made = made.replace("</body>", f"<script>{driver}</script></body>")
    path = tmp_path / "sheet.html"
    path.write_text(made, encoding="utf-8")
    document, console = browse(path, tmp_path / "profile")
    assert console == []
    return json.loads(html.unescape(re.search("<title>(.*)</title>", document)[1]))


PRESS = """
const press = (row, key) => articles[row].dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const progress = () => document.getElementById("progress").textContent;
"""


def test_in_a_browser_keys_rate_and_the_saved_file_holds_the_ratings(tmp_path):
    told = driven(
        PRESS
        + """
        told.before = progress();
        press(0, "b"); press(1, "S"); press(1, "x");
        articles[0].querySelector('[data-column=A_safe][value=no]').click();
        const note = articles[2].querySelector('[data-column=note]');
        note.value = '=1+1 "quoted", 退款; =2'; note.dispatchEvent(new Event("input", { bubbles: true }));
        note.dispatchEvent(new KeyboardEvent("keydown", { key: "a", bubbles: true }));  // writing, not rating
        told.after = progress(); told.csv = csv();
        goOn(articles[0]); told.focused = document.activeElement.dataset.item;
        told.names = ["anna", "王芳", "हिन्दी", "r-1", "", "../x", "a b"].filter((name) => {
          rater.value = name;
          return rater.checkValidity();
        });
        """,
        tmp_path,
    )

    assert told["names"] == ["anna", "王芳", "हिन्दी", "r-1"]  # what may be a file's name anywhere
    assert (told["before"], told["after"], told["focused"]) == ("0 of 3 rated", "2 of 3 rated", ROWS[2].item)
    assert told["csv"].startswith("\ufeff")
    rows = list(csv.DictReader(io.StringIO(told["csv"][1:], newline="")))
    assert [row["item"] for row in rows] == [row.item for row in ROWS]
    assert [row["better"] for row in rows] == ["B", "same", ""]
    assert [row["A_safe"] for row in rows] == ["no", "", ""]
    assert rows[2]["note"] == "'=1+1 \"quoted\", 退款; '=2"
    assert set(rows[0]) <= set(COLUMNS)


def test_in_a_browser_ratings_come_back_after_a_reload_and_a_row_can_be_cleared(tmp_path):
    told = driven(
        PRESS
        + """
        rater.value = "anna"; press(0, "a"); press(2, "b");
        const kept = csv();
        for (const article of articles) fill(article, {});
        rater.value = ""; show(); told.emptied = progress();
        recall(); show(); told.recalled = progress(); told.same = csv() === kept; told.rater = rater.value;
        articles[0].querySelector(".clear").click(); told.cleared = progress();
        """,
        tmp_path,
    )

    assert told == {
        "emptied": "0 of 3 rated",
        "recalled": "2 of 3 rated",
        "same": True,
        "rater": "anna",
        "cleared": "1 of 3 rated",
    }


def test_in_a_browser_another_rater_begins_with_nothing_if_it_is_meant(tmp_path):
    told = driven(
        PRESS
        + """
        rater.value = "anna"; press(0, "a"); press(2, "b");
        const button = document.getElementById("another");
        window.confirm = () => false; button.click(); told.refused = [progress(), rater.value];
        window.confirm = () => true; button.click(); told.taken = [progress(), rater.value];
        recall(); show(); told.recalled = progress();
        """,
        tmp_path,
    )

    assert told == {"refused": ["2 of 3 rated", "anna"], "taken": ["0 of 3 rated", ""], "recalled": "0 of 3 rated"}
