"""Checkpoints that can be trusted: one folder per fingerprint, one trainer at a time, complete or ignored.

They live outside DVC's outputs, which DVC deletes before a stage runs. The same fingerprint resumes; any change starts
fresh, and changing back finds its own checkpoint again.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.lib import artifacts
from stages.lib.errors import UserError, warn

STATE = "trainer_state.json"  # Trainer's, in each checkpoint
COMPLETE = "complete.json"  # written last: the hashes of every file of the checkpoint
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes")


def root() -> Path:
    """Where checkpoints lie: outside every output, and outside the temporary folder of a queued experiment."""
    if "RETUNE_CKPT_ROOT" in os.environ:
        return Path(os.environ["RETUNE_CKPT_ROOT"])
    return Path(os.environ.get("DVC_ROOT", ".")) / ".ckpt"


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Hex digest over what decides the result: `facts` (params, data, base), the code, the library versions."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    content = json.dumps({**facts, "code": _code(), "versions": versions}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _code() -> dict[str, str]:
    """Hashes of our modules that are loaded: the stage itself and `stages.lib`; other stages' params decide nothing."""
    loaded = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    ours = {
        Path(file) for name, file in loaded.items() if file and (name.startswith("stages.lib.") or name == "__main__")
    }
    return {file.name: artifacts.sha256(file) for file in sorted(ours)}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process alone; it goes when it is left without a checkpoint.

    Raises:
        UserError: when another trainer holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"another process ({file.read().strip() or 'unknown'}) is training this very run. "
                "Wait for it, or stop it; its checkpoint is kept and this run goes on from there."
            ) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()}")
        file.flush()
        try:
            yield
        finally:
            if not any(folder.glob("checkpoint-*")):
                shutil.rmtree(folder)


def is_finished(checkpoint: Path, steps: int) -> bool:
    """Whether training had come to its end there, by its number of steps or by early stopping."""
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    control = state["stateful_callbacks"]["TrainerControl"]["args"]
    return bool(state["global_step"] >= steps or control["should_training_stop"])


def batch_size(folder: Path) -> int | None:
    """Rows of a forward pass in the run that left checkpoints here; all of them have the same."""
    for file in folder.glob(f"checkpoint-*/{STATE}"):
        try:
            return int(json.loads(file.read_text(encoding="utf-8"))["train_batch_size"])
        except (OSError, ValueError, KeyError, TypeError):  # half written
            continue
    return None


def mark_complete(checkpoint: Path) -> None:
    """Write the marker that says that every file of this checkpoint is there, whole."""
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != COMPLETE)
    files = {path.relative_to(checkpoint).as_posix(): artifacts.sha256(path) for path in paths}
    artifacts.write_json(checkpoint / COMPLETE, files)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is complete and intact, and so is the best one that it names.

    Newer ones are passed over, with a sentence, and removed: the next ones are numbered like them, and Trainer keeps
    the highest number whatever it holds.
    """
    found = (path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal())
    for checkpoint in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        if not _intact(checkpoint):
            warn(f"{checkpoint} is incomplete or damaged and is passed over.")
        elif (best_before := best(checkpoint)) is not None and not _intact(best_before):
            warn(f"{checkpoint} is passed over: {best_before}, the best before it, is incomplete or damaged.")
        else:
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def _intact(checkpoint: Path) -> bool:
    try:
        expected = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
        same = all(artifacts.sha256(checkpoint / name) == digest for name, digest in expected.items())
    except (OSError, ValueError):
        return False
    return same and STATE in expected


def best(checkpoint: Path) -> Path | None:
    """The best checkpoint so far, which training loads at its end; beside this one, wherever the folder was moved."""
    step = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["best_global_step"]
    return named(checkpoint.parent, step) if step else None


def named(folder: Path, step: int) -> Path:
    """Where Trainer puts the checkpoint of a step."""
    return folder / f"checkpoint-{step}"


def drop_older(folder: Path, best: str | None) -> None:
    """Keep the newest checkpoint and the best; only once the newest is whole, lest a kill leave neither."""
    from transformers.trainer_utils import rotate_checkpoints

    rotate_checkpoints(str(folder), save_total_limit=2, best_model_checkpoint=best)


def discard(folder: Path) -> None:
    """Remove the checkpoints of a run, but not its lock, which this process still holds."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
