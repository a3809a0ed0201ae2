"""Queued experiments: nothing stays behind unnoticed."""

from pathlib import Path

import pytest

from stages.lib import experiments, sources, streams
from stages.lib.errors import UserError


def test_every_kind_of_file_that_can_be_read_is_missed_when_it_stays_behind():
    assert set(experiments.DATA) == set(sources.ENDINGS.split(", "))
    assert set(experiments.PACKED) == set(streams.PACKED)


def test_a_compressed_file_is_missed_too(tmp_path, monkeypatch):
    for folder, names in (("main", ["a.jsonl", "b.csv.GZ", ".x/c.json"]), ("copy", ["a.jsonl"])):
        for name in names:
            (tmp_path / folder / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "raw" / name).touch()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "main"))
    monkeypatch.chdir(tmp_path / "copy")
    with pytest.raises(UserError, match=r"^raw/b\.csv\.GZ stayed behind"):
        experiments.require_all_files(Path("raw"))
