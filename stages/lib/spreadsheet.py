"""CSV for spreadsheets, which are to show every text as it is, and to compute or convert none."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence

BOM = "\ufeff"  # without it Excel reads UTF-8 in the code page of its country
# What begins a formula (OWASP's page "CSV Injection", full-width signs too), and what would be shown as another text:
# a short line with a digit in it may be read as a number, a date or a time (`007` as 7), and so may a truth value.
_NOT_TEXT = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]|(?=.*\d).{1,40}\Z|(?i:true|false)\Z")


def as_text(cell: str) -> str:
    """The cell with an apostrophe in front if a spreadsheet would not take it for text."""
    return f"'{cell}" if _NOT_TEXT.match(cell) else cell


def table(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """Rows as CSV with a byte order mark, every cell in quotation marks; a column that a row lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return BOM + text.getvalue()
