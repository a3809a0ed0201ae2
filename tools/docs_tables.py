"""Write the tables in the docs that can be read off the code: `python -m tools.docs_tables`.

Reads   params.yaml (its comments), stages/params/ (what is allowed, what is usual),
        stages/lib/{rejects,findings,constraints,symptoms}.py
Writes  docs/*.md, between the marks `<!-- table: NAME … -->` and `<!-- end of table -->`
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic.fields import FieldInfo

from stages.lib.constraints import KINDS
from stages.lib.findings import ABOUT
from stages.lib.params import PARAMS, Group, Usual, allowed, sections
from stages.lib.rejects import Code
from stages.lib.symptoms import Symptom

DOCS = Path("docs")
_TABLE = re.compile(r"(<!-- table: (?P<name>[a-z]+)[^>]*-->\n).*?(?=<!-- end of table -->)", re.DOTALL)
_LINE = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: [^#]*)?(?:# (?P<comment>.*))?")
_RANGE = re.compile(r"; [\d.e-]+ … [\d.e-]+$")  # stands in a column of its own


def comments(text: str) -> dict[str, str]:
    """What params.yaml says beside each of its keys, by dotted key, in order."""
    found: dict[str, str] = {}
    path: list[str] = []
    for match in filter(None, map(_LINE.fullmatch, text.splitlines())):
        path = [*path[: len(match["indent"]) // 2], match["key"]]
        found[".".join(path)] = match["comment"] or ""
    return found


def fields(group: type[Group], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """The knobs of a section and of the blocks inside it, by dotted key."""
    for name, field in group.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Group):
            yield from fields(kind, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", field


def params_table() -> str:
    """Every key of params.yaml: what it is for, what is allowed, what is usual. Not its value: that changes daily."""
    known = {key: field for name, section in sections().items() for key, field in fields(section, name)}
    rows = []
    for key, comment in comments(PARAMS.read_text(encoding="utf-8")).items():
        if key == "seed":
            rows.append((f"`{key}`", comment, "a whole number from 0 to 4294967295", ""))
        elif key in known:
            ranges = [f"{rule.low:g} … {rule.high:g}" for rule in known[key].metadata if isinstance(rule, Usual)]
            purpose = _RANGE.sub("", comment) if ranges else comment
            rows.append((f"`{key}`", purpose, allowed(known[key]), "".join(ranges)))
    return _table(("key", "what it is for", "allowed", "usual"), rows)


def rejects_table() -> str:
    """Every reject code: what it says of the row, and what to do."""
    return _table(("code", "what is wrong", "what to do"), [(f"`{code}`", code.meaning, code.remedy) for code in Code])


def remarks_table() -> str:
    """Everything that a remark on a kept row can be about."""
    return _table(("about", "what is the matter"), [(f"`{about}`", meaning) for about, meaning in ABOUT.items()])


def constraints_table() -> str:
    """Every kind of constraint: what an answer has to be, and how it is written."""
    rows = [
        (f"`{name}`", kind.meaning, f"`{json.dumps({name: kind.example}, ensure_ascii=False)}`")
        for name, kind in KINDS.items()
    ]
    return _table(("kind", "what the answer has to be or have", "for instance"), rows)


def symptoms_table() -> str:
    """Everything that the diagnosis of a training can find, the most important first."""
    return _table(("name", "what it means", "what to do"), [(f"`{one}`", one.meaning, one.advice) for one in Symptom])


TABLES = {
    "params": params_table,
    "rejects": rejects_table,
    "remarks": remarks_table,
    "constraints": constraints_table,
    "symptoms": symptoms_table,
}


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header), *([cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def filled(text: str) -> str:
    """A page with its tables written anew."""
    return _TABLE.sub(lambda match: match[1] + TABLES[match["name"]](), text)


def main() -> None:
    """Write the tables of every page."""
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8", newline="\n")
            print(f"docs_tables: {page} has new tables")


if __name__ == "__main__":
    main()
