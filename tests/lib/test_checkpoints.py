"""Which checkpoint is trusted, and which run it belongs to."""

import json
from pathlib import Path

import pytest

from stages.lib import checkpoints
from stages.lib.errors import UserError


def checkpoint(folder: Path, step: int, whole: bool = True) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(bytes([step]))
    (made / "trainer_state.json").write_text('{"best_global_step": null}')
    if whole:
        checkpoints.mark_complete(made)
    return made


def test_the_newest_complete_checkpoint_wins(tmp_path: Path) -> None:
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)  # by number, not by letters
    checkpoint(tmp_path, 11, whole=False)

    assert checkpoints.latest(tmp_path) == newest


@pytest.mark.parametrize("damage", ["truncated", "missing", "marker", "nothing listed"])
def test_a_damaged_checkpoint_is_passed_over_with_a_sentence(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    if damage == "truncated":
        (newer / "model.safetensors").write_bytes(b"")
    elif damage == "missing":
        (newer / "model.safetensors").unlink()
    else:
        (newer / checkpoints.COMPLETE).write_text("{" if damage == "marker" else "{}")

    assert checkpoints.latest(tmp_path) == older
    assert f"{newer} is incomplete or damaged" in capsys.readouterr().err
    assert not newer.exists()


def test_the_best_checkpoint_lies_beside_whatever_the_folder_is_called_now(tmp_path: Path) -> None:
    old = tmp_path / "old"
    for step in (1, 2):
        checkpoint(old, step)
    state = {"best_global_step": 1, "best_model_checkpoint": str(old / "checkpoint-1")}
    (old / "checkpoint-2/trainer_state.json").write_text(json.dumps(state))
    checkpoints.mark_complete(old / "checkpoint-2")
    folder = old.rename(tmp_path / "new")

    assert checkpoints.latest(folder) == folder / "checkpoint-2"
    assert checkpoints.best(folder / "checkpoint-2") == folder / "checkpoint-1"
    assert checkpoints.best(folder / "checkpoint-1") is None


def test_no_checkpoint_means_a_fresh_start(tmp_path: Path) -> None:
    assert checkpoints.latest(tmp_path) is None


def test_the_fingerprint_follows_what_decides_the_result() -> None:
    facts = {"params": {"lr": 5e-5, "r": 8}, "seed": 7}

    same = checkpoints.fingerprint({"seed": 7, "params": {"r": 8, "lr": 5e-05}})

    assert same == checkpoints.fingerprint(facts)
    assert same != checkpoints.fingerprint(facts | {"seed": 8})


def test_only_one_process_holds_a_folder(tmp_path: Path) -> None:
    with checkpoints.locked(tmp_path), pytest.raises(UserError, match="another process"), checkpoints.locked(tmp_path):
        pass
    with checkpoints.locked(tmp_path):  # free again
        pass


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ".ckpt"),
        ({"DVC_ROOT": "/main"}, "/main/.ckpt"),
        ({"DVC_ROOT": "/main", "RETUNE_CKPT_ROOT": "/fast"}, "/fast"),
    ],
)
def test_checkpoints_lie_outside_of_a_queued_experiments_folder(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name in ("DVC_ROOT", "RETUNE_CKPT_ROOT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert checkpoints.root() == Path(expected)


def test_discarding_keeps_the_lock(tmp_path: Path) -> None:
    with checkpoints.locked(tmp_path):
        checkpoint(tmp_path, 1)
        checkpoints.discard(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == ["lock"]
