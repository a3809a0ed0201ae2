"""The pipeline under real DVC, in a repository of its own, on a tiny random model: what runs when, what it leaves."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.lib import artifacts
from tests import workspace

ROOT = Path(__file__).resolve().parent.parent.parent
WORDS = ["late", "broken", "missing", "heavy", "blue", "small", "wrong", "lovely", "empty", "torn"]
THINGS = ["lamp", "chair", "parcel", "mug", "book", "coat", "kettle", "phone", "scarf", "clock"]


def run(repository: Path, *command: str, expect: int = 0, **environment: str) -> str:
    """Run a command; its whole output is the answer."""
    found = subprocess.run(
        command, cwd=repository, env=os.environ | environment, text=True, capture_output=True, check=False
    )
    says = found.stdout + found.stderr
    assert found.returncode == expect, says
    return says


def ran(says: str) -> list[str]:
    """The stages that really ran."""
    return [line.split("'")[1] for line in says.splitlines() if line.startswith("Running stage")]


def rows(first: int, count: int) -> list[dict[str, Any]]:
    made = []
    for n in range(first, first + count):
        order = str(7919 * n % 90000 + 10000)
        text = f"My {WORDS[n % 10]} {THINGS[n // 10 % 10]} came {WORDS[n // 3 % 10]}, it was {order}"
        made.append({"instruction": "Find the order number.", "input": text, "output": order, "category": f"c{n % 2}"})
    return made


def edit_params(repository: Path, **sections: dict[str, Any]) -> None:
    yaml = YAML()
    document = yaml.load((repository / "params.yaml").read_text(encoding="utf-8"))
    for name, changes in sections.items():
        document[name] |= changes
    with open(repository / "params.yaml", "w", encoding="utf-8") as file:
        yaml.dump(document, file)


def commit(repository: Path, message: str) -> None:
    run(repository, "git", "add", "-A")
    run(repository, "git", "commit", "-qm", message)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with its own small data and base, run once and committed."""
    made = tmp_path_factory.mktemp("pipeline") / "retune"
    tracked = run(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, tracked):
        if name.startswith(("data/raw/", "data/benchmarks/", "reports/", "dvc.lock")) or not (ROOT / name).exists():
            continue
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, made / name)
    for name in ("data/raw", "data/benchmarks", "reports"):
        (made / name).mkdir(parents=True)
    (made / "data/raw/orders.json").write_text(json.dumps(rows(0, 60), indent=1))
    (made / "data/raw/more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(60, 20)))
    (made / "data/benchmarks/one.jsonl").write_text('{"prompt": "What is the capital of the moon?"}\n')
    workspace.save_tiny_model(made / "tiny")
    edit_params(
        made,
        base={"name": "tiny"},
        train={"lr": 5e-3, "max_steps": 4, "evals_per_epoch": 1},
        evaluate={"max_new_tokens": 4, "resamples": 100, "known_rows": 4},
        merge={"gates": []},
    )
    for command in (
        ["git", "init", "-q"],
        ["git", "config", "user.name", "T"],
        ["git", "config", "user.email", "t@example.com"],
    ):
        run(made, *command)
    commit(made, "start")
    first = run(made, "dvc", "repro")
    assert ran(first) == list(YAML(typ="safe").load((made / "dvc.yaml").read_text())["stages"])
    commit(made, "first run")
    return made


def test_a_run_leaves_nothing_that_git_does_not_know(repository: Path) -> None:
    assert run(repository, "git", "status", "--porcelain") == ""
    tracked = run(repository, "git", "ls-files", "models", "data").split()
    assert not [name for name in tracked if name.endswith((".safetensors", ".arrow", ".parquet"))]


def test_every_metrics_file_is_strict_json(repository: Path) -> None:
    """Field fault 4."""
    for file in sorted((repository / "reports").glob("*.json")):
        json.loads(file.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_a_second_run_does_nothing(repository: Path) -> None:
    assert "Data and pipelines are up to date" in run(repository, "dvc", "repro")


def test_words_about_the_rows_are_no_rows(repository: Path) -> None:
    readme = repository / "data/raw/README.md"
    readme.write_text("What these rows are.\n")
    try:
        assert "Data and pipelines are up to date" in run(repository, "dvc", "repro")
    finally:
        readme.unlink()


def test_the_lock_is_current_in_a_clean_clone(repository: Path, tmp_path: Path) -> None:
    run(tmp_path, "git", "clone", "-q", str(repository), "clone")

    assert ran(run(tmp_path / "clone", "dvc", "repro", "--allow-missing", "--dry")) == []


def test_a_new_rate_reruns_train_and_what_follows_and_the_old_one_comes_from_the_cache(repository: Path) -> None:
    """Field fault 1 rides along: `-S` writes 5e-05, which YAML 1.1 reads as text."""
    changed = run(repository, "dvc", "exp", "run", "-S", "train.lr=5e-5")
    assert ran(changed) == ["train", "evaluate", "ratings", "merge", "report"]
    assert "train.lr" in run(repository, "dvc", "params", "diff")
    assert "eval_loss" in run(repository, "dvc", "metrics", "diff")

    back = run(repository, "dvc", "exp", "run", "-S", "train.lr=0.005")
    assert ran(back) in (["merge"], [])
    assert run(repository, "git", "status", "--porcelain", "dvc.lock", "reports") == ""


def test_an_edited_row_reruns_only_what_its_output_changes(repository: Path) -> None:
    raw = repository / "data/raw/orders.json"
    before = raw.read_text()
    raw.write_text(before + "\n\n")  # another file to DVC, the same rows to us
    try:
        assert ran(run(repository, "dvc", "repro")) == ["validate"]
        raw.write_text(before.replace("lamp", "vase", 1))
        again = ran(run(repository, "dvc", "repro"))
        assert again[:2] == ["validate", "split"]
        assert "base" not in again
    finally:
        raw.write_text(before)
        run(repository, "dvc", "repro")


def test_a_queued_run_names_the_raw_file_that_it_would_miss(repository: Path) -> None:
    """Field fault 2: git does not track it yet, so a queued run would train on less, without a word."""
    new = repository / "data/raw/new.jsonl"
    new.write_text(json.dumps(rows(200, 1)[0]) + "\n")
    try:
        says = run(repository, "dvc", "exp", "run", "--temp", "-S", "validate.min_answer_chars=2", expect=255)
        assert "new.jsonl" in says
        assert "git add" in says
        assert "Traceback" not in says
        # Here validate's outcome comes from the cache, and it is not asked.
        assert "new.jsonl" in run(repository, "dvc", "exp", "run", "--temp", "-S", "train.lr=2e-3", expect=255)
    finally:
        new.unlink()


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("lr", "fast", 'params.yaml: train.lr is "fast"; a number above 0'),
        ("learning_rate", 1e-4, "params.yaml: train.learning_rate is not a known key"),
    ],
)
def test_a_broken_params_file_stops_before_any_work(repository: Path, key: str, value: Any, sentence: str) -> None:
    before = (repository / "params.yaml").read_text()
    edit_params(repository, train={key: value}, validate={"min_answer_chars": 2})
    try:
        says = run(repository, "dvc", "repro", expect=255)
        assert sentence in says
        assert "Traceback" not in says
        assert len(ran(says)) == 1
    finally:
        (repository / "params.yaml").write_text(before)
        run(repository, "dvc", "checkout")
        run(repository, "dvc", "repro")


def test_killed_outright_the_next_run_goes_on_from_the_checkpoint(repository: Path) -> None:
    """Field fault 3: kill -9 of dvc; no orphan, no advice to delete locks, and the run goes on where it stood.

    Without SHELL, DVC runs commands in sh, which unlike bash stays between DVC and the command.
    """
    edit_params(repository, train={"max_steps": 300, "epochs": 200, "early_stopping": None})
    whole = subprocess.Popen(
        ["dvc", "repro", "train"],
        cwd=repository,
        env={name: value for name, value in os.environ.items() if name != "SHELL"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    trainer = wait_for_trainer(repository)
    os.kill(whole.pid, signal.SIGKILL)
    whole.wait()
    for _ in range(600):
        if not Path(f"/proc/{trainer}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{trainer}").exists(), "the trainer outlived dvc"

    says = run(repository, "dvc", "repro", "train")

    assert "resuming" in says
    assert json.loads((repository / "reports/train.json").read_text())["steps"] == 300
    assert not list(repository.glob(".ckpt/*/checkpoint-*"))  # what is finished needs none
    resumed = artifacts.sha256(repository / "models/adapter/adapter_model.safetensors")
    says = run(repository, "dvc", "repro", "-f", "-s", "train")
    assert "afresh" in says
    assert artifacts.sha256(repository / "models/adapter/adapter_model.safetensors") == resumed
    run(repository, "git", "checkout", "-q", "params.yaml", "dvc.lock", "reports")
    run(repository, "dvc", "checkout", "--force")


def wait_for_trainer(repository: Path) -> int:
    """The process id that the lock file names, once a checkpoint is complete."""
    for _ in range(1200):
        for marker in repository.glob(".ckpt/*/checkpoint-*/complete.json"):
            return int((marker.parent.parent / "lock").read_text().split()[1])
        time.sleep(0.1)
    raise AssertionError("no checkpoint was written")
