"""The demo rows: generated to the byte, answerable, varied, and dirty only where data/raw/README.md says so.

What an answer should be is worked out here a second time, from the finished question alone.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from itertools import combinations
from pathlib import Path

import pytest

from stages.lib import forms, sources
from stages.lib.constraints import kept
from tools import demo_data
from tools.demo_questions import PHRASES, in_chinese, in_english, lines

ROOT = Path(__file__).parents[1]
RAW = ROOT / "data/raw"
BENCHMARK = ROOT / "data/benchmarks/front_desk.jsonl"


@dataclass(frozen=True)
class Seen:
    """A row as a reader finds it, whatever the form of its file."""

    file: str
    prompt: str
    answer: str
    category: str

    @property
    def said(self) -> str:
        """The question without case and spacing."""
        return " ".join(self.prompt.casefold().split())


def seen(file: str, row: dict) -> Seen:
    if "instruction" in row:
        return Seen(file, f"{row['instruction']}\n\n{row['input']}", row.get("output"), row["category"])
    if "prompt" in row:
        return Seen(file, row["prompt"], row["completion"], row["category"])
    question, answer = row.get("messages", row.get("conversations"))
    return Seen(file, question.get("content", question.get("value")), answer.get("content", answer.get("value")),
                row["category"])  # fmt: skip


def read(name: str) -> list[Seen]:
    """All rows of a file; lines that are no JSON are left out."""
    path = RAW / name
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [seen(name, row) for row in csv.DictReader(file)]
    if path.suffix == ".json":
        return [seen(name, row) for row in json.loads(path.read_text(encoding="utf-8"))]
    return [seen(name, json.loads(line)) for line in lines_of(name) if is_json(line)]


def lines_of(name: str) -> list[str]:
    return (RAW / name).read_text(encoding="utf-8").splitlines()


def is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


ROWS = [row for name in demo_data.FILES for row in read(name)]
TOPICS = {"invoice", "delivery", "return", "website", "account", "发票", "快递", "退货", "网站", "账号"}
ANSWERED = [row for row in ROWS if isinstance(row.answer, str) and row.answer.strip()]


def test_regenerating_gives_the_committed_bytes():
    for path, text in demo_data.demo_files().items():
        assert (ROOT / path).read_bytes() == text.encode(), f"{path} differs: run `python -m tools.demo_data`"


def test_there_are_enough_rows_in_eight_categories_and_a_quarter_is_chinese():
    assert 900 <= len(ROWS) <= 1500
    by_category = Counter(row.category for row in ANSWERED)
    assert len(by_category) == 8
    assert min(by_category.values()) >= 20
    chinese = [row for row in ROWS if re.search("[\u4e00-\u9fff]", row.prompt)]
    assert 0.25 <= len(chinese) / len(ROWS) <= 0.34
    assert all(row.file.startswith("zh/") for row in chinese)


# --- every answer can be had from its question

NUMBERS = {in_english(number): number for number in (*range(1, 21), *range(30, 100, 10))}
IN_WORDS = rf"((?:(?:{'|'.join([*NUMBERS, 'hundred', 'thousand', 'and'])})[ -])+)"
CHINESE_DIGITS = {character: digit for digit, character in enumerate("一二三四五六七八九", start=1)} | {"两": 2}
CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}
IN_CHARACTERS = rf"([{''.join([*CHINESE_DIGITS, *CHINESE_UNITS])}]+)"


def english_value(words: str) -> int:
    total = group = 0
    for word in words.replace("-", " ").split():
        if word == "thousand":
            total, group = total + group * 1000, 0
        elif word == "hundred":
            group *= 100
        elif word != "and":
            group += NUMBERS[word]
    return total + group


def chinese_value(characters: str) -> int:
    total = digit = 0
    for character in characters:
        if character in CHINESE_UNITS:
            total, digit = total + (digit or 1) * CHINESE_UNITS[character], 0
        else:
            digit = CHINESE_DIGITS[character]
    return total + digit


def value(said: str) -> int:
    if said.isdecimal():
        return int(said)
    return chinese_value(said) if said[0] in CHINESE_DIGITS | CHINESE_UNITS else english_value(said)


def test_a_number_in_words_reads_back_as_itself():
    for number in (*range(1, 100), *range(110, 1000, 10), *range(1100, 10000, 100)):
        assert english_value(in_english(number)) == number
        assert chinese_value(in_chinese(number)) == number


def order_number(row: Seen) -> str:
    (number,) = re.findall(r"(?<![A-Z\d])(?:[A-Z]-|[A-Z]{2})?\d{5}(?!\d)", row.prompt)
    return number


def ticket_route(row: Seen) -> str:
    """No rule can tell; that the answer names a topic at all is what can be checked."""
    return row.answer if row.answer in TOPICS else "a topic"


def order_json(row: Seen) -> str:
    said = row.said.replace("a dozen", "12")
    item = next(item for item in phrases("things") if item in said)
    city = next(city for city in phrases("cities") if city.casefold() in said)
    before = rf"(\d+|{'|'.join(NUMBERS)}|{IN_CHARACTERS})(?: |个){item}"
    after = rf"{item}.*?(\d+|{'|'.join(NUMBERS)}) of them"
    quantity = re.search(before, said) or re.search(after, said)
    return f'{{"item":"{item}","qty":{value(quantity[1])},"city":"{city}"}}'


def reply(row: Seen) -> str:
    number = order_number(row)
    city = next(city for city in phrases("cities") if city.casefold() in row.said)
    answers = (f"Thank you! We are on it: order {number}, {city}.", f"收到：{number}，{city}。")
    return row.answer if row.answer in answers else " or ".join(answers)


def iso_date(row: Seen) -> str:
    shapes = (
        r"(?P<month>[a-z]{3})[a-z]* (?P<day>\d+)(?:st|nd|rd|th)?, (?P<year>\d{4})",
        r"(?P<day>\d+)(?:st|nd|rd|th)?(?: of)?[ -](?P<month>[a-z]{3})[a-z]*[ -](?P<year>\d+)",
        r"(?P<year>\d{4})[/.](?P<month>\d+)[/.](?P<day>\d+)",
        r"(?P<day>\d+)[/.](?P<month>\d+)[/.](?P<year>\d{4})",
        r"(?P<year>\d+)年(?P<month>\d+)月(?P<day>\d+)[日号]",
    )
    found = next(match for shape in shapes if (match := re.search(shape, row.said)))
    month, year = found["month"], int(found["year"])
    names = "jan feb mar apr may jun jul aug sep oct nov dec"
    number = int(month) if month.isdecimal() else names.index(month) // 4 + 1
    return date(year + 2000 if year < 100 else year, number, int(found["day"])).isoformat()


def amount(row: Seen) -> str:
    currency = next(code for sign, code in CURRENCIES.items() if sign in row.said)
    before, after = "[$€£]|usd |eur |gbp ", " ?(?:dollars|euros|pounds|元|块|美元|€)"
    if figures := re.search(rf"(?:{before})(\d[\d,]*(?:\.\d\d)?)|(\d[\d,]*(?:\.\d+)?){after}", row.said):
        number = re.sub(r",(\d\d)$", r".\1", figures[1] or figures[2])  # a decimal comma
        return f"{float(number.replace(',', '')):.2f} {currency}"
    words = re.search(rf"{IN_WORDS}(?:dollars|euros|pounds)|{IN_CHARACTERS}(?:元|块)", row.said)
    return f"{value(words[1] or words[2])}.00 {currency}"


CURRENCIES = {
    "dollars": "USD", "$": "USD", "usd": "USD", "美元": "USD", "euros": "EUR", "€": "EUR", "eur ": "EUR",
    "pounds": "GBP", "£": "GBP", "gbp": "GBP", "元": "CNY", "块": "CNY",
}  # fmt: skip


def end_time(row: Seen) -> str:
    end = minutes_of_start(row.said) + minutes_of_span(row.said)
    return f"{end // 60:02d}:{end % 60:02d}"


def clock(row: Seen) -> str:
    minutes = minutes_of_start(row.said)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def minutes_of_start(said: str) -> int:
    if spoken := re.search(r"(早上|上午|下午|晚上|)(\d+)点(半|\d+)?", said):
        half, hour, minute = spoken.groups()
        late = 12 if half in ("下午", "晚上") else 0
        return (int(hour) % (12 if half else 24) + late) * 60 + (30 if minute == "半" else int(minute or 0))
    if twelve := re.search(r"(\d+):(\d\d) ([ap])m", said):
        return (int(twelve[1]) % 12 + (12 if twelve[3] == "p" else 0)) * 60 + int(twelve[2])
    hour, minute = re.search(r"(\d\d?)[:.h]?(\d\d)(?: hrs|(?!\d))", said).groups()
    return int(hour) * 60 + int(minute)


def minutes_of_span(said: str) -> int:
    if minutes := re.search(r"(\d+)(?: min|分钟)", said):
        return int(minutes[1])
    if re.search("half an hour|半小时", said):
        return 30
    hours = re.search(r"(\d|an|one|two|一|两) ?(?:hour|小时)", said)[1]
    return 60 * ({"an": 1, "one": 1, "two": 2, "一": 1, "两": 2}.get(hours) or int(hours))


def phrases(kind: str) -> list[str]:
    """The shop's things or cities as answers name them."""
    return [phrase.split(" / ")[-1] for language in ("en", "zh") for phrase in lines("words", kind, language)]


@pytest.mark.parametrize(
    "answer_to", [order_number, ticket_route, order_json, reply, iso_date, amount, clock, end_time]
)
def test_every_answer_follows_from_its_question(answer_to: Callable[[Seen], str]):
    rows = [row for row in ANSWERED if row.category == answer_to.__name__]
    assert rows
    assert [(row.prompt, row.answer) for row in rows] == [(row.prompt, answer_to(row)) for row in rows]


def test_every_answer_keeps_to_the_constraints_of_its_row_and_all_but_amounts_have_some():
    parsed = [
        forms.parse(row.value, name, row.line, {}) for name in demo_data.FILES for row in sources.read(RAW / name)
    ]
    records = [one.record for one in parsed if isinstance(one, forms.Parsed) and one.record.answer.strip()]
    assert len(records) == len(ANSWERED)
    assert {record.category for record in records if record.constraints is None} == {"amount"}
    asked = [(record.answer, json.loads(record.constraints)) for record in records if record.constraints]
    assert [(answer, found) for answer, found in asked if not all(kept(answer, found).values())] == []


# --- variety, and the dirt


def questions_seen_more_than_once() -> dict[str, list[Seen]]:
    by_question: dict[str, list[Seen]] = {}
    for row in ANSWERED:
        by_question.setdefault(row.said, []).append(row)
    return {said: rows for said, rows in by_question.items() if len(rows) > 1}


def own(row: Seen) -> str:
    """The question without its instruction, which many rows share."""
    language = "zh" if row.file.startswith("zh/") else "en"
    shared = [" ".join(phrase.casefold().split()) for phrase in lines("instructions", row.category, language)]
    return next((row.said.replace(phrase, "").strip() for phrase in shared if phrase in row.said), row.said)


def test_no_sentence_is_used_twice_nor_stands_there_in_like_words():
    used = sum(
        len(demo_data.rows_of(kind, file.language)) for file in demo_data.FILES.values() for kind in file.categories
    )
    written = {language: sentences_in(language) for language in ("en", "zh")}
    assert used == sum(len(sentences) for sentences in written.values())
    for sentences in written.values():
        assert [pair for pair in combinations(sentences, 2) if demo_data.likeness(*pair) >= 0.4] == []


def sentences_in(language: str) -> list[str]:
    texts = PHRASES["texts"]
    return [line for name in texts for variant in texts[name] for line in lines("texts", name, variant, language)]


def test_only_planted_rows_resemble_another():
    rows = list({row.said: row for row in ANSWERED}.values())
    for category in {row.category for row in rows}:
        texts = [own(row) for row in rows if row.category == category]
        alike = [pair for pair in combinations(texts, 2) if demo_data.likeness(*pair) >= 0.5]
        assert all(one in other or other in one for one, other in alike), alike  # a word more at the end


def test_fourteen_rows_stand_there_twice_and_one_question_has_two_answers():
    repeated = questions_seen_more_than_once().values()
    conflicts = [rows for rows in repeated if len({row.answer for row in rows}) > 1]
    copies = [rows for rows in repeated if rows not in conflicts]
    assert [{row.answer for row in rows} for rows in conflicts] == [{"invoice", "return"}]
    assert sum(len(rows) - 1 for rows in copies) == 14
    assert sum(len({row.file for row in rows}) > 1 for rows in copies) == 2  # came in from two systems
    assert sum(len({row.prompt for row in rows}) > 1 for rows in copies) >= 5  # other capitals or spaces


def test_ten_rows_repeat_another_with_one_word_more():
    answers = {row.said: row.answer for row in ANSWERED}
    longer = {row.said for row in ANSWERED if answers.get(re.sub(r" asap$|呀$", "", row.said)) == row.answer}
    assert len([said for said in longer if said.endswith(("asap", "呀"))]) == 10


def test_a_copy_stands_after_the_row_that_it_repeats():
    first: dict[str, Seen] = {}
    for row in sorted(ANSWERED, key=lambda row: row.file):  # as validate reads them; sorted() keeps a file's order
        first.setdefault(row.said, row)
    loud = r"\b[A-Z']{2,} [A-Z']{2,} [A-Z']{2,}\b"
    assert [row for row in first.values() if re.search(rf"{loud}|  ", row.prompt)] == []
    asked = list(first)
    longer = {said: re.sub(r" asap$|呀$", "", said) for said in asked if said.endswith(("asap", "呀"))}
    assert all(asked.index(said) > asked.index(plain) for said, plain in longer.items())


def test_five_answers_are_empty_one_is_a_number_and_one_is_missing():
    blank = [(row.file, row.answer) for row in ROWS if isinstance(row.answer, str) and not row.answer.strip()]
    assert sorted(blank) == [
        ("bills.jsonl", ""),
        ("calendar.csv", ""),
        ("orders.json", ""),
        ("tickets.jsonl", "   "),
        ("zh/orders.json", "\u3000"),
    ]
    assert [(row.file, row.answer) for row in ROWS if isinstance(row.answer, int)] == [("orders.json", 73406)]
    assert [row.file for row in ROWS if row.answer is None] == ["orders.json"]


@pytest.mark.parametrize(
    ("pattern", "file"),
    [
        (r"marta\.lindqvist@fjordpost-mail\.com", "tickets.jsonl"),
        (r"AKIAIOSFODNN7EXAMPLE", "tickets.jsonl"),
        (r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "tickets.jsonl"),
    ],
)
def test_one_row_holds_it(pattern, file):
    assert [row.file for row in ROWS if re.search(pattern, row.prompt)] == [file]


def test_every_other_e_mail_address_belongs_to_nobody():
    found = [address for row in ROWS for address in re.findall(r"[\w.-]+@[\w.-]+", row.said)]
    assert {address.split("@")[1] for address in found} == {"example.com", "fjordpost-mail.com"}


def test_one_line_is_no_json_for_a_comma_too_many():
    broken = {name: [line for line in lines_of(name) if not is_json(line)] for name in ("tickets.jsonl", "bills.jsonl")}
    assert broken["tickets.jsonl"] == []
    assert [line[-2:] for line in broken["bills.jsonl"]] == [",}"]


def test_the_csv_has_cells_with_commas_quotes_and_line_breaks():
    cells = [row.prompt.split("\n\n", 1)[1] for row in read("calendar.csv")]
    for sign in (",", '"', "\n"):
        assert any(sign in cell for cell in cells)
    assert (RAW / "zh/calendar.csv").read_bytes().startswith(b"\xef\xbb\xbf")  # as spreadsheet programs write it


def test_one_benchmark_question_is_leaked_and_no_other_is_alike():
    questions = [json.loads(line) for line in BENCHMARK.read_text(encoding="utf-8").splitlines()]
    assert len(questions) == 25
    assert all(set(question) == {"prompt", "answer"} and question["answer"] for question in questions)
    leaks = [
        (question["prompt"], row.file)
        for question in questions
        for row in ROWS
        if demo_data.likeness(question["prompt"], row.prompt) >= 0.3
    ]
    assert [(len(prompt.split()) >= 15, file) for prompt, file in leaks] == [(True, "calendar.csv")]
