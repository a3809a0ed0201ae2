"""What the docs say is so: tables, links, commands, keys, paths and example rows."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages import validate
from stages.lib.findings import ABOUT
from stages.lib.params import sections
from stages.lib.rejects import Code
from stages.lib.symptoms import Symptom
from tools import docs_tables

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
PIPELINE = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
KEYS = {"seed"} | {key for name, section in sections().items() for key, _ in docs_tables.fields(section, name)}
BLOCKS = {key.rpartition(".")[0] for key in KEYS}  # `train`, `train.lora`
MADE_BESIDES = {
    "reports/harness.json",
    "reports/runtime",
    ".cache/splits",
    "data/sheets",
    ".dvc/plots_offline.html",
    ".dvc/cache",
    ".dvc/tmp/exps",
}  # in no stage's `outs`
PLACEHOLDER = re.compile(r"…|(?<![A-Z])NAME(?![A-Z])")  # what the reader puts something in for

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\((?P<file>[^)#\s]*)(?:#(?P<heading>[^)\s]*))?\)")
_FILE_ENDINGS = (".json", ".jsonl", ".csv", ".parquet", ".py", ".md", ".yaml", ".toml", ".txt", ".lock", ".html")

every_page = pytest.mark.parametrize("page", TEXTS)


def fences(page: str, *languages: str) -> Iterator[str]:
    return (fence["code"] for fence in _FENCE.finditer(TEXTS[page]) if fence["language"] in languages)


def spans(page: str) -> Iterator[str]:
    return (span[1] for span in _SPAN.finditer(_FENCE.sub("", TEXTS[page])))


def commands(page: str) -> Iterator[list[str]]:
    """The words of every command line, in code blocks and in running text."""
    lines = [line for code in fences(page, "sh", "") for line in code.splitlines()]
    for line in [*lines, *spans(page)]:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # an apostrophe: no command
            continue
        start = 0
        for place, word in enumerate([*words, "&&"]):
            if word in ("&&", ";", "|"):
                yield words[start:place]
                start = place + 1


def calls_of(page: str, *start: str) -> Iterator[list[str]]:
    """What follows in the commands that begin so."""
    return (words[len(start) :] for words in commands(page) if words[: len(start)] == list(start))


def outputs() -> set[str]:
    kinds = [stage.get(kind, []) for stage in PIPELINE.values() for kind in ("outs", "metrics", "plots")]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entries in kinds for entry in entries}


@every_page
def test_the_tables_are_what_the_code_says(page: str) -> None:
    assert TEXTS[page] == docs_tables.filled(TEXTS[page]), "run `python -m tools.docs_tables`"


def test_every_key_and_every_code_stands_in_a_table() -> None:
    assert [key for key in sorted(KEYS) if f"| `{key}` |" not in TEXTS["docs/engineer.md"]] == []
    assert [code for code in (*Code, *ABOUT) if f"| `{code}` |" not in TEXTS["docs/curator.md"]] == []
    assert [name for name in Symptom if f"| `{name}` |" not in TEXTS["docs/reviewer.md"]] == []


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_link_leads_somewhere(page: str) -> None:
    for link in _LINK.finditer(TEXTS[page]):
        if link["file"].startswith(("https://", "mailto:")):
            continue
        target = (ROOT / page).parent / link["file"] if link["file"] else ROOT / page
        assert target.exists(), link["file"]
        if link["heading"]:
            assert link["heading"] in anchors(target.read_text(encoding="utf-8")), link[0]


@every_page
def test_every_make_target_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in calls_of(page, "make"):
        assert {word for word in words if "=" not in word} <= targets, words


def stages_named(words: list[str]) -> Iterator[str]:
    """The targets of `dvc repro` or `dvc exp run`, after their options and settings."""
    takes_value = False
    for word in words:
        if not takes_value and not word.startswith("-") and not PLACEHOLDER.search(word):
            yield word
        takes_value = word in ("-S", "--set-param", "-n", "--name", "-C", "-j")


@every_page
def test_every_stage_and_module_that_a_command_names_exists(page: str) -> None:
    named = [*calls_of(page, "dvc", "repro"), *calls_of(page, "dvc", "exp", "run")]
    assert {stage for words in named for stage in stages_named(words)} <= set(PIPELINE)
    for words in calls_of(page, "python", "-m"):
        if words[0].startswith(("stages", "tools")) and not PLACEHOLDER.search(words[0]):
            assert (ROOT / f"{words[0].replace('.', '/')}.py").is_file(), words[0]


@every_page
def test_every_key_of_params_that_is_named_exists(page: str) -> None:
    set_by_commands = {
        setting.partition("=")[0]
        for words in commands(page)
        for option, setting in pairwise(words)
        if option == "-S" and not PLACEHOLDER.search(setting)
    }
    assert set_by_commands <= KEYS
    for span in spans(page):
        key = re.match(r"[a-z_]+(?:\.[a-z_]+)+(?=$|: |=)", span)
        if key and key[0].partition(".")[0] in sections() and not key[0].endswith(_FILE_ENDINGS):
            assert key[0] in KEYS | BLOCKS, span


@every_page
def test_every_path_that_is_named_exists_or_is_made_by_a_stage(page: str) -> None:
    made = outputs() | MADE_BESIDES
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for span in spans(page):
        path = span.rstrip("/")
        if " " in path or PLACEHOLDER.search(path) or "/" not in path or path.partition("/")[0] not in folders:
            continue
        is_made = any(path.startswith(f"{out}/") or fnmatch(out, path) for out in made)
        assert is_made or any(ROOT.glob(path)), span


@pytest.mark.parametrize("page", ["README.md", "docs/curator.md"])
def test_every_example_row_is_accepted(page: str, tmp_path: Path, params_for: Callable[..., Any]) -> None:
    for ending in ("json", "csv"):
        for number, code in enumerate(fences(page, ending)):
            file = tmp_path / f"{number}.{ending}"
            file.write_text(code, encoding="utf-8")
            assert list(validate.check([file], params_for("validate"))) == []


# Their keys are the data's or the user's own: files, categories, codes, speakers, gates.
NAMED_BY_DATA = {
    "by_category",
    "by_file",
    "categories",
    "flagged",
    "gates",
    "rejected",
    "renamed_speakers",
    "scripts",
    "unused_fields",
}


def figures(content: Any) -> Iterator[str]:
    """The names of the figures in a report."""
    for name, value in content.items():
        yield name
        if isinstance(value, dict) and name not in NAMED_BY_DATA:
            yield from figures(value)


@pytest.mark.parametrize("report", sorted((ROOT / "reports").glob("*.json")), ids=lambda path: path.name)
def test_every_figure_of_the_reports_is_explained(report: Path) -> None:
    content = json.loads(report.read_text(encoding="utf-8"))
    assert set(figures(content)) - set(spans("docs/reviewer.md")) == set()
