"""Queued experiments: nothing stays behind unnoticed."""

import re
import shlex
from pathlib import Path

import pytest

from stages.lib import experiments, sources, streams
from stages.lib.errors import UserError


def test_every_kind_of_file_that_can_be_read_is_missed_when_it_stays_behind():
    assert set(experiments.DATA) == set(sources.ENDINGS.split(", "))
    assert set(experiments.PACKED) == set(streams.PACKED)


@pytest.fixture
def complaint(tmp_path, monkeypatch):
    """`complaint("b.csv", …)`: what is said when these files stand only in the main folder."""

    def of(*names):
        for folder, its in (("main", ["a.jsonl", *names]), ("copy", ["a.jsonl"])):
            for name in its:
                (tmp_path / folder / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / folder / "raw" / name).touch()
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / "main"))
        monkeypatch.chdir(tmp_path / "copy")
        with pytest.raises(UserError) as raised:
            experiments.require_all_files(Path("raw"))
        return str(raised.value)

    return of


def test_a_compressed_file_is_missed_too(complaint):
    assert complaint("b.csv.GZ", ".x/c.json").startswith("raw/b.csv.GZ stayed behind")


def test_the_command_that_brings_files_along_works_as_it_is_printed(complaint):
    names = ["new rows.csv", "it's.json", "plain.json", "$HOME.json"]
    command = re.search(r"`(.*)`", complaint(*names))[1]
    assert shlex.split(command) == ["git", "add", *sorted(f"raw/{name}" for name in names)]
