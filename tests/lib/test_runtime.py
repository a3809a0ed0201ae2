"""What varies from run to run is written where nothing looks for results."""

import json
import math

import pytest

from stages.lib import runtime


def test_figures_of_the_stage_stand_beside_the_time_it_took(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with runtime.measured("train") as figures:
        figures["tokens_per_second"] = 303.5
        figures["undefined"] = math.nan
    written = json.loads((tmp_path / "reports/runtime/train.json").read_text(encoding="utf-8"))
    assert written["tokens_per_second"] == 303.5
    assert written["seconds"] >= 0
    assert "undefined" not in written


def test_a_stage_that_failed_leaves_no_figures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError), runtime.measured("train"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
