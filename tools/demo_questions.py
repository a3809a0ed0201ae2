"""What people ask the shop, and the right answer: one function a category.

Each takes a random generator, the language and the variant (the group of sentences in demo_phrases.toml), and returns
the words that fill the sentence's braces together with the answer.
"""

import calendar
import json
import random
import tomllib
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

Words = dict[str, object]
Category = Callable[[random.Random, str, str], tuple[Words, str]]

PHRASES: dict[str, Any] = tomllib.loads(Path(__file__).with_name("demo_phrases.toml").read_text(encoding="utf-8"))


def lines(*path: str) -> list[str]:
    """The phrases under `path`: `lines("closers", "note", "en")`."""
    found = PHRASES
    for key in path:
        found = found[key]
    return str(found).strip().splitlines()


def small_talk(rng: random.Random, language: str) -> Words:
    """What a sentence may mention besides the answer."""
    thing = rng.choice(lines("words", "things", language)).split(" / ")
    name = rng.choice(lines("words", "names", language))
    return {
        "name": name,
        "mail": f"{name.lower()}@example.com",
        "city": rng.choice(lines("words", "cities", language)),
        "day": rng.choice(lines("words", "days", language)),
        "thing": thing[0],
        "things": thing[-1],  # Chinese has one form
        "n": rng.randint(2, 9),
        "number": rng.randint(1000, 9999),
    }


def order_number(rng: random.Random, language: str, variant: str) -> tuple[Words, str]:
    """Copy the order's number, and no other figure of the message."""
    order = _reference(rng)
    return {"order": order}, order


def ticket_route(rng: random.Random, language: str, variant: str) -> tuple[Words, str]:
    """Name the topic, and so the queue, in the customer's language."""
    return {}, TOPICS_IN_CHINESE[variant] if language == "zh" else variant


TOPICS_IN_CHINESE = {"invoice": "发票", "delivery": "快递", "return": "退货", "website": "网站", "account": "账号"}


def order_json(rng: random.Random, language: str, variant: str) -> tuple[Words, str]:
    """Turn a sentence into compact JSON: the item as it is written, the quantity as a number."""
    city = rng.choice(lines("words", "cities", language))
    item = rng.choice(lines("words", "things", language)).split(" / ")[-1]
    quantity = rng.choice([*range(2, 13), 15, 18, 20, 24, 30])
    said = str(quantity)
    if quantity <= 12 and rng.random() < 0.4:
        said = _counted_in_chinese(quantity) if language == "zh" else _counted_in_english(quantity)
    answer = json.dumps({"item": item, "qty": quantity, "city": city}, ensure_ascii=False, separators=(",", ":"))
    return {"city": city, "items": item, "qty": said, "Qty": said.capitalize(), "goods": f"{said}个{item}"}, answer


def reply(rng: random.Random, language: str, variant: str) -> tuple[Words, str]:
    """Acknowledge in the shop's own words, whatever the mood."""
    order, city = _reference(rng), rng.choice(lines("words", "cities", language))
    if language == "zh":
        return {"order": order, "city": city}, f"收到：{order}，{city}。"
    return {"order": order, "city": city}, f"Thank you! We are on it: order {order}, {city}."


def iso_date(rng: random.Random, language: str, variant: str) -> tuple[Words, str]:
    """Write a day as YYYY-MM-DD."""
    day = date(2023, 1, 1) + timedelta(days=rng.randrange(5 * 365))
    return {"date": rng.choice(_spellings_of_day(day, language))}, day.isoformat()


def amount(rng: random.Random, language: str, variant: str) -> tuple[Words, str]:
    """Write a sum with two decimals and the code of its currency."""
    least, most = SUMS[variant]
    while True:
        said, value, currency = _sum_in_chinese(rng) if language == "zh" else _sum_in_english(rng)
        if least <= value <= most:
            return {"sum": said}, f"{value:.2f} {currency}"


# What a sentence can be about: a bus pass, rent, anything.
SUMS = {"small": (3, 100), "large": (300, 9999), "any": (3, 9999)}


def end_time(rng: random.Random, language: str, variant: str) -> tuple[Words, str]:
    """Add a length of time to a time of day."""
    start = rng.randrange(7 * 60, 19 * 60, 60)
    span, minutes = rng.choice(list(SPANS[language].items()))
    return {"start": rng.choice(_spellings_of_time(start, language)), "span": span}, _figures(start + minutes)


def clock(rng: random.Random, language: str, variant: str) -> tuple[Words, str]:
    """Write a time of day as HH:MM."""
    minutes = rng.randrange(6 * 60, 23 * 60, 5)
    return {"time": rng.choice(_spellings_of_time(minutes, language))}, _figures(minutes)


# How long something takes, as it is said, in minutes.
SPANS = {
    "en": {"half an hour": 30, "30 minutes": 30, "an hour": 60, "one hour": 60, "two hours": 120, "2 hours": 120},
    "zh": {"半小时": 30, "一小时": 60, "1小时": 60, "两小时": 120},
}


def _reference(rng: random.Random) -> str:
    """An order's number: 48213, B-48213 or KT48213."""
    letters = rng.choice(["", "", "", rng.choice("ABHKMRT") + "-", rng.choice(["KT", "HW", "LB"])])
    return f"{letters}{rng.randint(10000, 99999)}"


def _spellings_of_day(day: date, language: str) -> list[str]:
    """Day and month as bare figures only where they cannot be mistaken for each other."""
    if language == "zh":
        return [
            f"{day.year}年{day.month}月{day.day}日",
            f"{day:%y}年{day.month}月{day.day}号",
            f"{day.year}.{day.month}.{day.day}",
        ]
    month, short = calendar.month_name[day.month], calendar.month_abbr[day.month]
    ordinal = f"{day.day}" + ("th" if 11 <= day.day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th"))
    spellings = [
        f"{month} {ordinal}, {day.year}",
        f"{month} {day.day}, {day.year}",
        f"{day.day} {month} {day.year}",
        f"{day.day} {short} {day:%y}",
        f"{short} {day.day}, {day.year}",
        f"the {ordinal} of {month} {day.year}",
        f"{day.day:02d}-{short}-{day.year}",
        f"{day.year}/{day.month:02d}/{day.day:02d}",
    ]
    if day.day > 12:
        spellings += [f"{day.day}/{day.month}/{day.year}", f"{day.day}.{day.month}.{day.year}"]
    return spellings


def _figures(minutes: int) -> str:
    """Minutes since midnight as HH:MM."""
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _spellings_of_time(minutes: int, language: str) -> list[str]:
    """On 24 hours, and once on twelve with the half of the day."""
    hour, minute = divmod(minutes, 60)
    on_the_dial = (hour - 1) % 12 + 1
    if language == "zh":
        half = "早上" if hour < 9 else "上午" if hour < 12 else "下午" if hour < 18 else "晚上"
        spoken = {0: "", 30: "半"}.get(minute, f"{minute:02d}分")
        return [f"{hour}:{minute:02d}", f"{hour}点{spoken}", f"{half}{on_the_dial}点{spoken}"]
    return [
        f"{hour}:{minute:02d}",
        f"{hour}.{minute:02d}",
        f"{hour}h{minute:02d}",
        f"{hour:02d}{minute:02d} hrs",
        f"{on_the_dial}:{minute:02d} " + ("am" if hour < 12 else "pm"),
    ]


def _sum_in_english(rng: random.Random) -> tuple[str, Decimal, str]:
    """As it is said, its value, its currency."""
    currency, sign, name = rng.choice([("USD", "$", "dollars"), ("EUR", "€", "euros"), ("GBP", "£", "pounds")])
    small = Decimal(rng.randint(3, 99))
    exact = small + Decimal(rng.randrange(5, 100, 5)) / 100
    large = Decimal(rng.randint(21, 180) * 50)
    teens = Decimal(rng.randint(11, 19) * 100)
    even = Decimal(rng.choice([*range(20, 100, 5), *range(100, 1000, 50), *range(1000, 9001, 1000)]))
    spellings = [
        (f"{sign}{small}", small),
        (f"{small} {name}", small),
        (f"{currency} {small}", small),
        (f"{sign}{exact:.2f}", exact),
        (f"{exact:.2f} {name}", exact),
        (f"{sign}{large:,}", large),
        (f"{large:,} {name}", large),
        (f"{in_english(int(teens) // 100)} hundred {name}", teens),
        (f"{in_english(int(even))} {name}", even),
    ]
    if currency == "EUR":
        spellings.append((f"{exact:.2f} €".replace(".", ","), exact))
    return *rng.choice(spellings), currency


def _sum_in_chinese(rng: random.Random) -> tuple[str, Decimal, str]:
    """As it is said, its value, its currency."""
    figures = Decimal(rng.randint(3, 99) * rng.choice([1, 10]))
    exact = rng.randint(3, 99) + rng.choice([Decimal("0.5"), Decimal("0.8"), Decimal("0.9")])
    spoken = rng.choice([*range(11, 100), *range(110, 1000, 10), *range(1100, 10000, 100)])
    return rng.choice(
        [
            (f"{figures}元", figures, "CNY"),
            (f"{figures}块", figures, "CNY"),
            (f"{exact}元", exact, "CNY"),
            (f"{figures}元", figures, "CNY"),
            (f"{exact}元", exact, "CNY"),
            (f"{in_chinese(spoken)}元", Decimal(spoken), "CNY"),
        ]
    )


def _counted_in_english(number: int) -> str:
    return "a dozen" if number == 12 else in_english(number)


def _counted_in_chinese(number: int) -> str:
    return "两" if number == 2 else in_chinese(number)


def in_english(number: int) -> str:
    """1 … 9,999 in words, as the British say it: two hundred and fifty."""
    if number < 20:
        return SMALL[number]
    if number < 100:
        return TENS[number // 10] + (f"-{SMALL[number % 10]}" if number % 10 else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    head, rest = divmod(number, size)
    joint = " and " if rest < 100 else " "
    return f"{in_english(head)} {name}" + (f"{joint}{in_english(rest)}" if rest else "")


# fmt: off
SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
# fmt: on
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_chinese(number: int) -> str:
    """1 … 9,999 in characters; only for numbers without a zero between two other digits."""
    places = zip(f"{number:04d}", ("千", "百", "十", ""), strict=True)
    said = "".join("零一二三四五六七八九"[int(digit)] + place for digit, place in places if digit != "0")
    return said.removeprefix("一") if 10 <= number < 20 else said
