"""Kill training again and again, and see whether it ends as if it had never been killed: `python -m tools.soak`.

A tiny model is tuned in a temporary folder in several ways, each once undisturbed. Then each is started, killed
(SIGKILL) at a random moment after a step drawn at random, and started again until it has ended; adapter and reports
must be the same to the byte.
"""

import argparse
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from tqdm import tqdm

from stages import tokenize
from stages.lib import artifacts
from stages.lib.plural import counted
from tests import workspace

ROOT = Path(__file__).parents[1]
OUTCOME = ("models/adapter", "reports/train.json", "reports/train_loss.csv", "reports/eval_loss.csv")
LIVE = "reports/runtime/train_live.csv"
STEPS = 40
WAYS: list[dict[str, Any]] = [
    {"method": method, "packed": packed, "batch_size": 2, "accumulation": accumulation}
    for method, packed, accumulation in itertools.product(("lora", "qlora", "full"), (True, False), (1, 3))
]
WAYS.append(WAYS[0] | {"launch": {"processes": 2, "config": None}})


def prepare(folder: Path) -> None:
    """Everything that `python -m stages.train` needs, and packed rows of both kinds."""
    workspace.make(folder)
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data/packed").rename(folder / "data/packed-True")
    with artifacts.replacing(folder / "data/packed-False") as out:
        settings = workspace.params("tokenize", max_length=96, pack=False)
        tokenize.tokenize(folder / "data/prompts", folder / "models/base", out, settings, seed=7)


def choose(folder: Path, way: dict[str, Any]) -> None:
    """Set the folder up for one way of training."""
    document = YAML().load(ROOT / "params.yaml")
    settings = dict(way)
    packed = settings.pop("packed")
    document["train"] |= settings | {"lr": 5e-3, "epochs": 9, "max_steps": STEPS, "evals_per_epoch": 1, "warmup": 0.3}
    document["train"]["lora"]["dropout"] = 0.1
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(document, file)
    shutil.rmtree(folder / "data/packed", ignore_errors=True)
    shutil.copytree(folder / f"data/packed-{packed}", folder / "data/packed")


def start(folder: Path) -> "subprocess.Popen[str]":
    """Start the stage."""
    environment = os.environ | {"RETUNE_CKPT_ROOT": str(folder / ".ckpt")}
    command = [sys.executable, "-m", "stages.train"]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def steps_done(folder: Path) -> int:
    """How many steps the live curve shows."""
    try:
        return len((folder / LIVE).read_text(encoding="utf-8").splitlines()) - 1
    except FileNotFoundError:
        return 0


def finish(folder: Path) -> dict[str, str]:
    """Run the stage to its end; the hash of each file that it wrote."""
    process = start(folder)
    said, _ = process.communicate()
    if process.returncode:
        sys.exit(f"training failed:\n{said}")
    return outcome(folder)


def outcome(folder: Path) -> dict[str, str]:
    """The hash of each file that training wrote."""
    files = [file for name in OUTCOME for file in ([folder / name] if "." in name else (folder / name).iterdir())]
    found = {file.relative_to(folder).as_posix(): artifacts.sha256(file) for file in sorted(files)}
    for name in OUTCOME:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def soak(folder: Path, kills: int, seed: int) -> Iterator[tuple[dict[str, Any], str, bool]]:
    """The way, what the kill met, and whether the outcome was the same, for each kill."""
    rng = random.Random(seed)
    expected: dict[int, dict[str, str]] = {}
    for number in range(kills):
        way = number % len(WAYS)
        choose(folder, WAYS[way])
        if way not in expected:
            expected[way] = finish(folder)
        whole = expected[way]
        (folder / LIVE).unlink(missing_ok=True)
        process = start(folder)
        step = rng.randrange(STEPS)
        while process.poll() is None and steps_done(folder) < step:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        ended = process.poll() is not None
        process.kill()
        process.communicate()
        there = len(list(folder.glob(".ckpt/*/checkpoint-*")))
        met = "the end" if ended else f"step {steps_done(folder)} with {counted(there, 'checkpoint')}"
        yield WAYS[way], met, (outcome(folder) if ended else finish(folder)) == whole


def main() -> None:
    """Soak, and count."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=36)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="retune-") as name:
        folder = Path(name)
        prepare(folder)
        others = 0
        for way, met, same in tqdm(
            soak(folder, arguments.kills, arguments.seed), total=arguments.kills, desc="soak", unit="kill"
        ):
            others += not same
            tqdm.write(f"{'same' if same else 'OTHER'}: killed at {met}: {way}")
            sys.stdout.flush()
    print(f"{arguments.kills} kills, {others} with another outcome")
    sys.exit(others > 0)


if __name__ == "__main__":
    main()
