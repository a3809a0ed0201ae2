"""Write the demo rows, the same bytes every time: `python -m tools.demo_data`.

A small instruction set of our own, English and Chinese, so that a fresh clone has something real to tune on. Every
answer can be read or worked out from its question. A little dirt is planted, as exports have it; data/raw/README.md
lists it.

Reads   tools/demo_phrases.toml
Writes  data/raw/{orders.json,tickets.jsonl,calendar.csv,bills.jsonl,zh/*}, data/benchmarks/front_desk.jsonl
"""

import csv
import io
import json
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tools.demo_questions import (
    PHRASES,
    TOPICS_IN_CHINESE,
    Category,
    amount,
    clock,
    end_time,
    iso_date,
    lines,
    order_json,
    order_number,
    reply,
    small_talk,
    ticket_route,
)

Item = dict[str, Any] | str  # of a file: a row in its form, or a broken line as it stands

SEED = 20260301
DATA = Path("data")

# Where the instruction stands when it shares one message with the text. Alpaca rows are always joined as in the first.
LAYOUTS = ("{instruction}\n\n{text}", "{text}\n\n{instruction}", "{instruction} {text}")
NAMES = tuple(lines("words", "names", "en"))
LETTERS = {order_number, ticket_route, order_json, reply}  # written to someone; the other texts are notes


@dataclass(frozen=True)
class Row:
    """One question with its answer, before it takes the form of its file."""

    category: str
    instruction: str
    text: str
    answer: str
    layout: str = LAYOUTS[0]

    @property
    def prompt(self) -> str:
        """The question as one message."""
        return self.layout.format(instruction=self.instruction, text=self.text)


# --- from sentences to rows


def rows_of(category: Category, language: str) -> list[Row]:
    """One row a sentence: no sentence comes back, so the wording of every test row is new to the model."""
    name = category.__name__
    rng = random.Random(f"{SEED} {name} {language}")  # one generator each: a new category moves no other's rows
    rows = []
    for variant in PHRASES["texts"][name]:
        for sentence in lines("texts", name, variant, language):
            words, answer = category(rng, language, variant)
            text = written(sentence, language, "letter" if category in LETTERS else "note", rng)
            rows.append(
                Row(
                    category=name,
                    instruction=rng.choice(lines("instructions", name, language)),
                    text=text.format_map({**small_talk(rng, language), **words}),
                    answer=answer,
                    layout=rng.choices(LAYOUTS, weights=(8, 1, 1))[0],
                )
            )
    return rows


def written(sentence: str, language: str, kind: str, rng: random.Random) -> str:
    """A sentence as a hurried person sends it: greeting, sign-off, slips of the finger. Braces stay as they are."""
    said = _words(sentence)
    if language == "en":
        sentence = with_slips(sentence, rng)
    between = "" if language == "zh" else " "
    if rng.random() < 0.2:
        greeting = rng.choice(_unsaid(lines("openers", kind, language), said))
        said |= _words(greeting)
        apart = rng.random() < 0.3
        if not apart and greeting[-1] not in ".!:":  # Hi, where is my parcel?
            sentence = _uncapitalised(sentence)
        sentence = greeting + ("\n" if apart else between) + sentence
    end = rng.random()
    if end < 0.2:
        stop = "" if sentence[-1] in ".!?。！？" else "。" if language == "zh" else "."
        return sentence + stop + between + rng.choice(_unsaid(lines("closers", kind, language), said))
    return sentence.rstrip(".。") if end < 0.3 else sentence


def _uncapitalised(sentence: str) -> str:
    return sentence if sentence.startswith(("I ", "I'", "Mum")) else sentence[0].lower() + sentence[1:]


def _unsaid(phrases: list[str], said: set[str]) -> list[str]:
    """The phrases that share no word with what stands there already: nobody thanks twice."""
    return [phrase for phrase in phrases if not _words(phrase) & said]


def with_slips(sentence: str, rng: random.Random) -> str:
    """Now and then no capitals, or one misspelt word."""
    slip = rng.random()
    if slip < 0.08:
        return sentence.lower()
    words = [match for match in re.finditer(r"\b[a-z]{5,}\b", sentence) if sentence[match.start() - 1] != "{"]
    if slip < 0.2 and words:
        word = rng.choice(words)
        at = rng.randrange(word.start() + 1, word.end() - 2)
        swapped = sentence[at + 1] + sentence[at]
        return sentence[:at] + rng.choice([swapped, sentence[at]]) + sentence[at + 2 :]
    return sentence


def likeness(one: str, other: str) -> float:
    """Jaccard similarity of the word-3-grams; a Chinese character counts as a word."""
    a, b = _shingles(one), _shingles(other)
    return len(a & b) / len(a | b)


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = _words_in_order(text)
    return {tuple(words[at : at + 3]) for at in range(max(1, len(words) - 2))}


def _words(text: str) -> set[str]:
    return set(_words_in_order(text))


def _words_in_order(text: str) -> list[str]:
    return re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+", text.casefold())


# --- the forms of a row


def alpaca(row: Row) -> dict[str, Any]:
    """`instruction`, `input`, `output`."""
    return {"instruction": row.instruction, "input": row.text, "output": row.answer, "category": row.category}


def messages(row: Row) -> dict[str, Any]:
    """OpenAI's `messages`."""
    turns = [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.answer}]
    return {"messages": turns, "category": row.category}


def completion(row: Row) -> dict[str, Any]:
    """`prompt` and `completion`."""
    return {"prompt": row.prompt, "completion": row.answer, "category": row.category}


def sharegpt(row: Row) -> dict[str, Any]:
    """ShareGPT's `conversations`."""
    turns = [{"from": "human", "value": row.prompt}, {"from": "gpt", "value": row.answer}]
    return {"conversations": turns, "category": row.category}


# --- the files


@dataclass(frozen=True)
class File:
    """What a file of data/raw/ holds, and how."""

    form: Callable[[Row], dict[str, Any]]
    language: str
    categories: tuple[Category, ...]

    def item(self, row: Row) -> dict[str, Any]:
        """A row in the form of the file, with what its task asks of an answer."""
        asked = CONSTRAINTS[self.language].get(row.category)
        return self.form(row) | ({"constraints": asked} if asked else {})


_EVERYWHERE: dict[str, dict[str, Any]] = {
    "order_number": {"regex": r"(?:[A-Z]-|[A-Z]{2})?\d{5}"},
    "order_json": {
        "json_schema": {
            "type": "object",
            "properties": {
                "item": {"type": "string"},
                "qty": {"type": "integer", "minimum": 1},
                "city": {"type": "string"},
            },
            "required": ["item", "qty", "city"],
            "additionalProperties": False,
        }
    },
    "iso_date": {"regex": r"\d{4}-\d{2}-\d{2}"},
    "clock": {"regex": r"(?:[01]\d|2[0-3]):[0-5]\d"},
    "end_time": {"regex": r"(?:[01]\d|2[0-3]):[0-5]\d"},
}
# What a program can check in an answer without knowing it: by language and category. `amount` has none.
CONSTRAINTS: dict[str, dict[str, dict[str, Any]]] = {
    "en": {
        **_EVERYWHERE,
        "ticket_route": {"one_of": [*TOPICS_IN_CHINESE]},
        "reply": {"starts_with": "Thank you!", "lines": 1, "numbers": 1},
    },
    "zh": {
        **_EVERYWHERE,
        "ticket_route": {"one_of": [*TOPICS_IN_CHINESE.values()]},
        "reply": {"starts_with": "收到：", "lines": 1, "numbers": 1},
    },
}


FILES = {
    "orders.json": File(alpaca, "en", (order_number, order_json, reply)),
    "tickets.jsonl": File(messages, "en", (ticket_route,)),
    "calendar.csv": File(alpaca, "en", (iso_date, clock, end_time)),
    "bills.jsonl": File(completion, "en", (amount,)),
    "zh/orders.json": File(alpaca, "zh", (order_number, order_json, reply)),
    "zh/chats.json": File(sharegpt, "zh", (ticket_route, amount)),
    "zh/calendar.csv": File(alpaca, "zh", (iso_date, clock, end_time)),
}

# --- the dirt

WHICH_TOPIC = "Topic: invoice, delivery, return, website or account?"

# Rows that read well and are not well.
PLANTED = {
    "orders.json": [
        Row("order_number", "Order number?", "Two egg cups rolled off the table, that was order 55120.", ""),
    ],
    "tickets.jsonl": [
        Row("ticket_route", WHICH_TOPIC, "The gift card I bought for my uncle shows a balance of nothing.", "   "),
        Row("ticket_route", WHICH_TOPIC, "I cancelled in time and my money is still with you.", "invoice"),
        Row("ticket_route", WHICH_TOPIC, "I cancelled in time and my money is still with you.", "return"),
        Row(
            "ticket_route",
            WHICH_TOPIC,
            "The May invoice never came, please mail it to marta.lindqvist@fjordpost-mail.com this time.",
            "invoice",
        ),
        Row(
            "ticket_route",
            WHICH_TOPIC,
            "Stock import fails since we typed AKIAIOSFODNN7EXAMPLE into the settings page.",
            "website",
        ),
        Row("ticket_route", WHICH_TOPIC, "Your app beeps\x07 all night although I muted it.", "website"),
    ],
    "calendar.csv": [
        Row("end_time", "Ends at?", "Choir practice at 19:15, forty minutes plus a beer", ""),
        Row(  # a question of data/benchmarks/front_desk.jsonl, a word changed
            "iso_date",
            "Write the date in ISO form.",
            "Our caretaker wrote that the boiler was last serviced on the 9th of October 2025, please give me that "
            "day in ISO form for our log.",
            "2025-10-09",
        ),
    ],
    "bills.jsonl": [Row("amount", "How much is it?", "The glazier left a note: ninety dollars, cash only.", "")],
    "zh/orders.json": [Row("order_number", "订单号？", "门铃没响，28846就被退回去了。", "\u3000")],
}

# Rows that are broken: an answer that is a number, no answer at all, a comma too many.
BROKEN: dict[str, list[Item]] = {
    "orders.json": [
        {
            "instruction": "Order number?",
            "input": "Stairs are narrow, so bring 73406 in two parts.",
            "output": 73406,
            "category": "order_number",
        },
        {
            "instruction": "Our standard reply:",
            "input": "Parcel 61187 is for my grandson in Leeds.",
            "category": "reply",
        },
    ],
    "bills.jsonl": [
        '{"prompt": "Amount in figures:\\n\\nSpare key: $8", "completion": "8.00 USD", "category": "amount",}'
    ],
}


def repeats_of(rows: dict[str, list[Row]], rng: random.Random) -> dict[str, list[tuple[Row, Row]]]:
    """Rows that came in twice, each with its copy: as it is, from another system, typed anew, or with a word more."""
    copies: dict[str, list[tuple[Row, Row]]] = {name: [] for name in rows}
    plain = {name: [row for row in found if row.layout == LAYOUTS[0]] for name, found in rows.items()}
    for name in ("orders.json", "tickets.jsonl", "calendar.csv", "bills.jsonl", "zh/chats.json", "zh/calendar.csv"):
        row = rng.choice(rows[name])
        copies[name].append((row, row))
    copies["tickets.jsonl"] += [(row, row) for row in rng.sample(plain["orders.json"], 2)]
    for name in ("orders.json", "tickets.jsonl", "bills.jsonl"):
        loud, spaced = rng.sample(rows[name], 2)
        copies[name] += [
            (loud, replace(loud, text=loud.text.upper())),
            (spaced, replace(spaced, text=spaced.text.replace(" ", "  "))),
        ]
    for name, count in {"orders.json": 4, "tickets.jsonl": 2, "calendar.csv": 2, "zh/orders.json": 2}.items():
        more = "呀" if name.startswith("zh/") else " asap"
        unsigned = [row for row in plain[name] if row.text[-1].isalnum() and not row.text.endswith(NAMES)]
        long_enough = [row for row in unsigned if len(_shingles(row.text)) > 6]  # one word more changes little
        copies[name] += [(row, replace(row, text=row.text + more)) for row in rng.sample(long_enough, count)]
    return copies


def arranged(
    file: File, rows: list[Row], copies: list[tuple[Row, Row]], broken: list[Item], rng: random.Random
) -> list[Item]:
    """The rows of a file in the order in which they came in: any, but a copy after its original."""
    items = [*map(file.item, rows), *broken]
    rng.shuffle(items)
    for original, copy in copies:
        first = items.index(file.item(original)) if original in rows else -1
        items.insert(rng.randint(first + 1, len(items)), file.item(copy))
    return items


# --- bytes


def demo_files() -> dict[Path, str]:
    """Every file that this tool writes, with its text."""
    rng = random.Random(SEED)
    rows = {
        name: [row for category in file.categories for row in rows_of(category, file.language)]
        for name, file in FILES.items()
    }
    texts: dict[Path, str] = {}
    for name, copies in repeats_of(rows, rng).items():
        found = [*rows[name], *PLANTED.get(name, [])]
        items = arranged(FILES[name], found, copies, BROKEN.get(name, []), rng)
        texts[DATA / "raw" / name] = WRITERS[Path(name).suffix](items)
    # Spreadsheet programs put a byte order mark before UTF-8.
    texts[DATA / "raw/zh/calendar.csv"] = "\ufeff" + texts[DATA / "raw/zh/calendar.csv"]
    texts[DATA / "benchmarks/front_desk.jsonl"] = jsonl(benchmark())
    return texts


def benchmark() -> list[Item]:
    """The held-out questions: prompt and answer stand in turn."""
    front_desk = lines("benchmarks", "front_desk")
    pairs = zip(front_desk[::2], front_desk[1::2], strict=True)
    return [{"prompt": prompt, "answer": answer} for prompt, answer in pairs]


def jsonl(items: Iterable[Item]) -> str:
    """One object a line; a text is a line as it stands."""
    return "".join(f"{_json(item)}\n" for item in items)


def json_array(items: Iterable[Item]) -> str:
    """One object a line, so that a changed row is one changed line."""
    return "[\n" + ",\n".join(f"  {_json(item)}" for item in items) + "\n]\n"


def comma_separated(items: Iterable[dict[str, Any]]) -> str:
    """Quotes only where a comma, a quote or a line break asks for them."""
    out = io.StringIO()
    writer = csv.DictWriter(out, ["instruction", "input", "output", "category", "constraints"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**item, "constraints": _json(item["constraints"])} for item in items)
    return out.getvalue()


def _json(item: Item) -> str:
    return item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)


WRITERS: dict[str, Callable[..., str]] = {".json": json_array, ".jsonl": jsonl, ".csv": comma_separated}


def main() -> None:
    """Write all files, over what is there."""
    texts = demo_files()
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    size = sum(len(text.encode()) for text in texts.values())
    print(f"demo_data: {len(texts)} files, {size:,} bytes → {DATA}/raw, {DATA}/benchmarks")


if __name__ == "__main__":
    main()
