"""Training: every method on every family, exact losses, and runs that survive being killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from safetensors.numpy import load_file

from stages import train as stage
from stages.lib import artifacts, checkpoints
from stages.lib.errors import UserError
from tests import workspace

ROOT = Path(__file__).resolve().parent.parent
STANDSTILL = 1e-30  # a rate at which no weight moves, so no judgement is better than the first


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workspace.make(tmp_path_factory.mktemp("llama"))


def tune(root: Path, out: Path, state: Path | None = None, **overrides: Any) -> stage.Tuned:
    """Train in this process; by default four steps of two rows."""
    settings = {"lr": 5e-3, "max_steps": 4, "epochs": 9, "evals_per_epoch": 2} | overrides
    out.mkdir(parents=True)
    state = state or out.with_name(out.name + "-state")
    return stage.train(
        root / "data/packed", root / "models/base", out, state, workspace.params("train", **settings), seed=7
    )


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_every_method_learns_on_every_family(tmp_path: Path, kind: str, method: str) -> None:
    root = workspace.make(tmp_path, kind)

    tuned = tune(root, tmp_path / "adapter", method=method, max_steps=12)

    losses = [one["loss"] for one in tuned.train_loss]
    assert losses[-1] < losses[0] - 0.2
    assert tuned.metrics["eval_loss"] < losses[0]
    assert tuned.metrics["steps"] == 12
    assert {file.suffix for file in (tmp_path / "adapter").iterdir()} == {".json", ".safetensors", ".jinja"}


def test_the_loss_does_not_depend_on_how_a_batch_is_cut(llama: Path, tmp_path: Path) -> None:
    """Field fault 18: answers of very different lengths, one step of eight rows cut in three ways."""
    root = workspace.make(tmp_path / "w", max_length=96, train=40, longest=30)
    weights = []
    for batch, accumulation in ((1, 8), (4, 2), (8, 1)):
        out = tmp_path / f"{batch}x{accumulation}"
        tune(root, out, batch_size=batch, accumulation=accumulation, max_steps=1, warmup=0.0, precision="fp32")
        weights.append(load_file(out / "adapter_model.safetensors"))

    for other in weights[1:]:
        for name, value in weights[0].items():
            assert abs(value - other[name]).max() < 1e-5, name


def test_the_validation_loss_does_not_depend_on_the_batch_size(llama: Path, tmp_path: Path) -> None:
    """Field fault 23: judged at step 1, before the rate has left 0 (the first warm-up step changes nothing)."""
    found = [
        tune(llama, tmp_path / str(size), batch_size=size, max_steps=1, warmup=1.0, precision="fp32").eval_loss[0][
            "loss"
        ]
        for size in (1, 3, 6)
    ]

    assert max(found) - min(found) < 1e-6


def test_modules_that_the_model_lacks_are_answered_with_those_it_has(llama: Path, tmp_path: Path) -> None:
    """Field fault 22."""
    lora = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["c_attn"]}

    with pytest.raises(UserError, match=r"train\.lora\.target_modules.*down_proj, gate_proj, k_proj"):
        tune(llama, tmp_path / "adapter", lora=lora)


def test_training_without_validation_rows_says_nothing_of_them(tmp_path: Path) -> None:
    root = workspace.make(tmp_path / "w", validation=0)

    tuned = tune(root, tmp_path / "adapter")

    assert tuned.eval_loss == []
    assert "eval_loss" not in tuned.metrics
    assert tuned.metrics["best_step"] == tuned.metrics["steps"] == 4


def test_packed_rows_that_were_changed_behind_our_back_are_refused(tmp_path: Path) -> None:
    root = workspace.make(tmp_path / "w")
    with open(root / "data/packed/train.arrow", "ab") as file:
        file.write(b"x")

    with pytest.raises(UserError, match=r"train\.arrow is not the file that tokenize wrote"):
        tune(root, tmp_path / "adapter")


def test_it_stops_when_validation_gets_no_better(llama: Path, tmp_path: Path) -> None:
    tuned = tune(llama, tmp_path / "adapter", lr=STANDSTILL, max_steps=60, early_stopping=2)

    assert tuned.metrics["stopped_early"]
    assert len(tuned.eval_loss) == 3  # the first, and two that were no better
    assert tuned.metrics["best_step"] == tuned.eval_loss[0]["step"]


class Killed(Exception):
    pass


def kill_after(monkeypatch: pytest.MonkeyPatch, step: int, times: int = 1) -> None:
    """Make the trainer die right after `step`, as kill -9 would."""
    from stages.lib.trainer import Progress

    left = [times]
    original = Progress.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **passed: Any) -> None:
        original(self, args, state, control, **passed)
        if state.global_step == step and left[0]:
            left[0] -= 1
            raise Killed

    monkeypatch.setattr(Progress, "on_step_end", on_step_end)


@pytest.mark.parametrize(
    ("method", "dies_after"),
    [("lora", 3), ("lora", 5), ("lora", 9), ("qlora", 5), ("full", 5)],  # in warm-up, in the decay, in another epoch
)
def test_a_killed_run_ends_as_if_it_had_never_been_killed(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, dies_after: int
) -> None:
    """Field faults 19 and 20: rates, order of rows and weights, to the bit."""
    settings: dict[str, Any] = {"method": method, "max_steps": 10, "warmup": 0.4, "accumulation": 2, "batch_size": 1}
    settings["lora"] = {"r": 4, "alpha": 8, "dropout": 0.1, "target_modules": "all-linear"}
    whole = tune(llama, tmp_path / "whole", **settings)

    kill_after(monkeypatch, dies_after)
    with pytest.raises(Killed):
        tune(llama, tmp_path / "died", tmp_path / "state", **settings)
    resumed = tune(llama, tmp_path / "resumed", tmp_path / "state", **settings)

    for file in sorted((tmp_path / "whole").iterdir()):
        assert file.read_bytes() == (tmp_path / "resumed" / file.name).read_bytes(), file.name
    assert resumed.train_loss == whole.train_loss
    assert resumed.eval_loss == whole.eval_loss
    assert resumed.metrics == whole.metrics


def test_patience_survives_a_kill(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Field fault 21: a run that dies after every judgement stops where the unbroken one does."""
    settings: dict[str, Any] = {"lr": STANDSTILL, "max_steps": 60, "early_stopping": 3}
    whole = tune(llama, tmp_path / "whole", **settings)
    assert whole.metrics["stopped_early"]

    steps = [one["step"] for one in whole.eval_loss]
    for number, step in enumerate(steps[:-1]):
        kill_after(monkeypatch, step + 1)
        with pytest.raises(Killed):
            tune(llama, tmp_path / f"died-{number}", tmp_path / "state", **settings)
    resumed = tune(llama, tmp_path / "resumed", tmp_path / "state", **settings)

    assert [one["step"] for one in resumed.eval_loss] == steps
    assert resumed.metrics == whole.metrics


def fail_to_save(*_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "settings",
    [{"max_steps": 7}, {"lr": STANDSTILL, "max_steps": 60, "early_stopping": 2}],
    ids=["by its steps", "by early stopping"],
)
def test_a_run_that_only_failed_to_save_is_not_trained_past_its_end(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    whole = tune(llama, tmp_path / "whole", **settings)

    with monkeypatch.context() as disk:
        disk.setattr(stage, "_save", fail_to_save)
        with pytest.raises(OSError, match="No space left"):
            tune(llama, tmp_path / "died", tmp_path / "state", **settings)
    resumed = tune(llama, tmp_path / "resumed", tmp_path / "state", **settings)

    assert resumed.metrics == whole.metrics
    assert resumed.train_loss == whole.train_loss
    assert resumed.eval_loss == whole.eval_loss
    for file in sorted((tmp_path / "whole").iterdir()):
        assert file.read_bytes() == (tmp_path / "resumed" / file.name).read_bytes(), file.name


def test_training_without_judgements_that_only_failed_to_save_is_restored_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = workspace.make(tmp_path / "w", validation=0)
    whole = tune(root, tmp_path / "whole", method="full")
    with monkeypatch.context() as disk:
        disk.setattr(stage, "_save", fail_to_save)
        with pytest.raises(OSError, match="No space left"):
            tune(root, tmp_path / "died", tmp_path / "state", method="full")
    tune(root, tmp_path / "resumed", tmp_path / "state", method="full")

    digests = [artifacts.sha256(tmp_path / name / "model.safetensors") for name in ("whole", "resumed")]
    assert digests[0] == digests[1]
    assert whole.metrics["steps"] == 4


def test_a_run_that_diverges_stops_at_once_with_advice(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.lib.trainer import PackedTrainer

    original = PackedTrainer.compute_loss

    def compute_loss(self: Any, *passed: Any, **named: Any) -> Any:
        return original(self, *passed, **named) * (float("nan") if self.state.global_step == 2 else 1.0)

    monkeypatch.setattr(PackedTrainer, "compute_loss", compute_loss)
    with pytest.raises(UserError, match=r"training diverged: \w+ is nan at step 3\. Lower train\.lr"):
        tune(llama, tmp_path / "adapter", max_steps=20)


def test_a_damaged_checkpoint_is_passed_over(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kill_after(monkeypatch, 7)
    with pytest.raises(Killed):
        tune(llama, tmp_path / "died", tmp_path / "state", max_steps=8)
    newest = checkpoints.latest(tmp_path / "state")
    assert newest is not None
    (newest / "optimizer.pt").write_bytes(b"half")

    tune(llama, tmp_path / "resumed", tmp_path / "state", max_steps=8)

    assert f"{newest} is incomplete or damaged and is passed over" in capsys.readouterr().err


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    """A folder in which `python -m stages.train` runs."""
    for part in ("models/base", "data/packed", "origin"):
        shutil.copytree(llama / part, tmp_path / part)
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    yaml = YAML()
    document = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    document["train"] |= {"lr": 5e-3, "max_steps": 9000, "epochs": 9000, "evals_per_epoch": 1, "early_stopping": None}
    with open(tmp_path / "params.yaml", "w", encoding="utf-8") as file:
        yaml.dump(document, file)
    return tmp_path


def start(folder: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stages.train"]
    return subprocess.Popen(
        command, cwd=folder, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for_checkpoint(folder: Path) -> None:
    for _ in range(1200):
        if list(folder.glob(".ckpt/*/checkpoint-*/complete.json")):
            return
        time.sleep(0.1)
    raise AssertionError("no checkpoint was written")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_a_second_trainer_is_refused(folder: Path, sent: signal.Signals) -> None:
    """Field fault 3: never two trainers; what was stopped goes on from where it stood."""
    first = start(folder)
    wait_for_checkpoint(folder)

    second = start(folder)
    _, second_says = second.communicate(timeout=120)
    first.send_signal(sent)
    _, first_says = first.communicate(timeout=120)

    assert second.returncode == 1
    assert f"another process (pid {first.pid}) is training this very run" in second_says
    assert "Traceback" not in second_says
    assert first.returncode == 128 + sent, first_says
    assert f"stopped by {sent.name}; saved" in first_says
    assert not (folder / "models/adapter").exists()
    assert not (folder / "reports/train.json").exists()

    third = start(folder, PYTHONUNBUFFERED="1")
    says = str(third.stdout.readline() if third.stdout else "")
    third.kill()
    third.communicate()
    assert "resuming" in says


def test_another_model_code_starts_afresh(folder: Path) -> None:
    """The fingerprint covers code that training loads late: a fix there must not go on from what the fault made."""
    for edit in ("", "# another attention\n"):
        with open(folder / "stages/lib/attention.py", "a") as file:
            file.write(edit)
        run = start(folder)
        for _ in range(1200):
            if len(list(folder.glob(".ckpt/*/lock"))) > bool(edit):
                break
            time.sleep(0.1)
        run.kill()
        run.communicate()

    assert len(list(folder.glob(".ckpt/*/lock"))) == 2


def test_the_adapter_is_the_same_whatever_the_hash_seed(folder: Path) -> None:
    document = (folder / "params.yaml").read_text().replace("max_steps: 9000", "max_steps: 2")
    (folder / "params.yaml").write_text(document)
    digests = []
    for seed in ("1", "2"):
        run = start(folder, PYTHONHASHSEED=seed)
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
        digests.append({file.name: artifacts.sha256(file) for file in (folder / "models/adapter").iterdir()})

    assert digests[0] == digests[1]
    assert str(folder) not in (folder / "reports/train.json").read_text()
