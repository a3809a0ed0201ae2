"""The report page: figures worded for readers, and one HTML file out of an escaping template.

The file needs nothing else: its style stands inside, it holds no script, and its own content policy forbids it to load
or run anything, whatever the rows that it shows may contain.
"""

import math
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATE = Path(__file__).with_name("page.html.jinja")
ABSENT = "–"  # a figure that is not there or not defined
MINUS = "\u2212"
NO_BREAK = "\u00a0"
LONGEST_TEXT = 1500  # characters of a prompt or an answer; a page of twenty longer ones would not be read
CONTROL = re.compile("[\u0000-\u0008\u000b-\u001f]")  # all but tab and line feed
# What has no form of its own: C1; zero width; marks and overrides of the writing direction (as in Trojan Source,
# CVE-2021-42574); and Unicode's tags, letters in which instructions are hidden. Joiners are shown only where there is
# nothing to join: Indic and Arabic words and emoji are spelled with them.
UNSEEN = re.compile(
    "[\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]|(?<![\u0590-\u1fff\u2190-\u2bff\ufe0f\U0001f000-\U0001faff])[\u200c\u200d]"
)


def render(**content: Any) -> str:
    """The report, out of its template."""
    return filled(TEMPLATE, **content)


def filled(template: Path, **content: Any) -> str:
    """Fill a template. Every text is escaped but `Markup`, which only our own charts, scripts and styles are.

    Control characters are shown by their symbols (␀, ␛, ␍), and what else a reader cannot see by its number (‹U+202E›):
    a browser would drop or obey them, and the model reads them.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=count, percent=percent, significant=significant, cut=cut)
    html = environment.get_template(template.name).render(content)
    html = CONTROL.sub(lambda found: chr(0x2400 + ord(found[0])), html)
    return UNSEEN.sub(lambda found: f"‹U+{ord(found[0]):04X}›", html)


def count(number: float | None) -> str:
    """`1,204`."""
    return ABSENT if number is None else f"{number:,.0f}".replace("-", MINUS)


def short(number: float | None) -> str:
    """`134.5 million`: large counts as people say them."""
    if number is None:
        return ABSENT
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.1f}{NO_BREAK}{word}"
    return count(number)


def percent(share: float | None) -> str:
    """`88.3 %` for 0.883. Only nothing is `0 %` and only all is `100 %`: one wrong answer of many must show."""
    if share is None:
        return ABSENT
    if share in (0, 1):
        return f"{share * 100:.0f}{NO_BREAK}%"
    if not 0.0005 <= share < 0.9995:
        return f"{'<' if share < 0.5 else '>'}{NO_BREAK}{'0.1' if share < 0.5 else '99.9'}{NO_BREAK}%"
    return f"{share * 100:.1f}{NO_BREAK}%"


def fixed(number: float | None, digits: int) -> str:
    """A plain decimal: `1,234.50`, `−1.50`, and never `−0.00`."""
    if number is None:
        return ABSENT
    return f"{number:z,.{digits}f}".replace("-", MINUS)


def significant(number: float | None, digits: int = 3) -> str:
    """As many digits as say something: `12,346`, `12.3`, `0.0213`, and `3.1e-4` as params.yaml has small numbers."""
    if number is None:
        return ABSENT
    if number == 0:
        return "0"
    size = math.floor(math.log10(abs(number)))
    if size < -3:
        mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return fixed(number, max(digits - 1 - size, 0))


def cut(text: str) -> tuple[str, int, str]:
    """A long text without its middle: the beginning, how many characters are left out, and the end."""
    if len(text) <= LONGEST_TEXT:
        return text, 0, ""
    half = LONGEST_TEXT // 2
    return text[:half], len(text) - 2 * half, text[-half:]
