"""CSV for spreadsheets, which are to show every text as it is, and to compute or convert none."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence

BOM = "\ufeff"  # without it Excel reads UTF-8 in the code page of its country
# What begins a formula (OWASP's page "CSV Injection", full-width signs too), and what would be shown as another text:
# a short line with a digit in it may be read as a number, a date or a time (`007` as 7), and so may a truth value.
_SIGNS = r"[=+\-@＝＋－＠]"
_NOT_TEXT = re.compile(rf"\s*{_SIGNS}|[\t\r\n]|(?=.*\d).{{1,40}}\Z|(?i:true|false)\Z")
# Where lists have semicolons (a German Excel), a spreadsheet parts cells and rows at other places than we do.
# A run of blanks is looked at once and as a whole: else a text of blank lines takes time with the square of its length.
_WOULD_BEGIN_A_CELL = re.compile(rf'(?<![;\s"])(?=[\s"]*[;\t\r\n])[;\s"]++(?={_SIGNS})')


def as_text(cell: str) -> str:
    """The cell with an apostrophe before whatever a spreadsheet would not take for text."""
    inside = _WOULD_BEGIN_A_CELL.sub(r"\g<0>'", cell)
    return f"'{inside}" if _NOT_TEXT.match(cell) else inside


def table(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """Rows as CSV with a byte order mark, every cell in quotation marks; a column that a row lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return BOM + text.getvalue()
