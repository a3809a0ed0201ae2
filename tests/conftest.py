"""Fixtures that more than one test file needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.lib.params import Section, sections

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def params_for() -> Callable[..., Any]:
    """`params_for("train", lr=1e-3)`: the section as params.yaml has it, with overrides."""

    def make(section: str, **overrides: Any) -> Section:
        document = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        return sections()[section].model_validate(document[section] | overrides)

    return make
