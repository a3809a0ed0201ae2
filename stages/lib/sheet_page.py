"""The sheet as a page to rate on: one HTML file that opens offline, keeps the ratings and saves them as CSV.

It holds a script, and rows that strangers wrote. So the script stands in a file of its own and never meets a row but as
text of the document, and the content policy lets nothing run or load but this very script and style, by their hashes.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash
from markupsafe import Markup

from stages.lib import page
from stages.lib.questions import BETTER, MARKS, NOTE, QUESTIONS

TEMPLATE = Path(__file__).with_name("sheet_page.html.jinja")


@dataclass(frozen=True)
class Row:
    """What a rater sees of a pair; nothing in it says which model wrote which answer."""

    item: str
    category: str
    prompt: str
    a: str
    b: str
    reference: str | None  # None in sheets that do not show it


def render(rows: Sequence[Row]) -> str:
    """The page. Ratings are kept in the browser under the sheet's own name, so that sheets do not mix."""
    style, script = (TEMPLATE.with_name(f"sheet_page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return page.filled(
        TEMPLATE,
        sheet=xxhash.xxh3_64_hexdigest(" ".join(row.item for row in rows).encode()),
        rows=rows,
        questions=QUESTIONS,
        better=BETTER,
        marks=MARKS,
        note=NOTE,
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        policy=f"default-src 'none'; style-src {_allowed(style)}; script-src {_allowed(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
    )


def _allowed(code: str) -> str:
    """A source expression of the content policy: this text and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
