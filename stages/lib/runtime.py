"""What varies from run to run (seconds, speed, device), kept apart from the metrics that must not.

`reports/runtime/` is tracked neither by git nor by DVC.
"""

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.lib import artifacts

RUNTIME = Path("reports/runtime")


@contextmanager
def measured(stage: str) -> Iterator[dict[str, Any]]:
    """Time the block and write `reports/runtime/<stage>.json`; the block may add figures of its own."""
    figures: dict[str, Any] = {}
    start = time.perf_counter()
    yield figures
    figures["seconds"] = round(time.perf_counter() - start, 3)
    figures["python"] = platform.python_version()
    figures["machine"] = platform.machine()
    artifacts.write_json(RUNTIME / f"{stage}.json", artifacts.finite(figures))
