"""Commands that take turns, each in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Run = TypeVar("Run")


def timed(folder: Path, *command: str, **environment: str) -> float:
    """Seconds that a Python command takes in `folder`, start-up included."""
    settings = os.environ | environment
    begin = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL, env=settings)
    return time.perf_counter() - begin


def in_turn(runs: dict[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Every run once in each round, so that what else the machine does falls on all of them."""
    done: dict[str, list[Run]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            done[name].append(run())
    return done
