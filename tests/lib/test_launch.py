"""Several processes train as one would: the same rows, the same loss, one writer, and no remains.

accelerate takes only GPUs for FSDP. The tests have it take CPUs for GPUs there; everything else is as it is.
"""

import csv
import json
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
from torch.utils.data import BatchSampler, SequentialSampler

from stages.lib import launch
from stages.lib.errors import UserError
from stages.params.train import LaunchParams
from tests import workspace

ROOT = Path(__file__).resolve().parent.parent.parent
READY = sorted((ROOT / "configs").glob("*.yaml"))

FSDP_ON_CPUS = """
import os
if "RETUNE_LAUNCHER" in os.environ and os.environ.get("ACCELERATE_USE_FSDP") == "true":
    from accelerate import state
    from accelerate.utils import DistributedType

    original = state.AcceleratorState.__init__

    def start(self, *passed, **named):
        shared = state.PartialState._shared_state
        if shared.get("distributed_type") == DistributedType.MULTI_CPU:
            shared["distributed_type"] = DistributedType.MULTI_GPU
        original(self, *passed, **named)

    state.AcceleratorState.__init__ = start
"""

# 50 rows in steps of six: the last of an epoch holds two, and the order of the second epoch is another.
SETTINGS = {"lr": 5e-3, "epochs": 3, "evals_per_epoch": 2, "precision": "fp32", "early_stopping": None, "warmup": 0.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workspace.make(tmp_path_factory.mktemp("made"), train=70, validation=9, longest=20)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A folder in which `python -m stages.train` runs."""
    for part in ("models/base", "data/packed", "origin"):
        shutil.copytree(made / part, tmp_path / part)
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "sitecustomize.py").write_text(FSDP_ON_CPUS)
    return tmp_path


def start(folder: Path, **settings: Any) -> subprocess.Popen[str]:
    yaml = YAML()
    document = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    document["train"] |= SETTINGS | settings
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        yaml.dump(document, file)
    return subprocess.Popen(
        [sys.executable, "-m", "stages.train"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(folder: Path, **settings: Any) -> str:
    """What training printed."""
    told, errors = (process := start(folder, **settings)).communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    return told


def curve(folder: Path, name: str) -> list[float]:
    with open(folder / f"reports/{name}_loss.csv") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def curves(folder: Path) -> list[float]:
    return [*curve(folder, "train"), *curve(folder, "eval")]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Any, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def in_shares(folder: Path) -> dict[str, Any]:
    """Two processes, each with its share of the weights (FSDP2)."""
    config = YAML(typ="safe", pure=True).load((ROOT / "configs/fsdp2-8.yaml").read_text(encoding="utf-8"))
    (folder / "two.yaml").write_text(json.dumps(config | {"num_processes": 2}))
    return TOGETHER | {"launch": {"processes": 2, "config": "two.yaml"}}


TOGETHER: dict[str, Any] = {"batch_size": 1, "accumulation": 3, "launch": {"processes": 2, "config": None}}


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the children of a process")
def test_two_processes_train_as_one_and_go_on_after_a_kill_as_if_nothing_had_been(folder: Path) -> None:
    run(folder, batch_size=2, accumulation=3)
    alone = curves(folder)
    told = run(folder, **TOGETHER)

    assert curves(folder) == pytest.approx(alone, abs=1e-5)
    lines = [line for line in told.splitlines() if line.startswith("train:")]
    assert len(lines) == len(set(lines)) > len(curve(folder, "eval"))  # one process talks
    whole = {file.name: file.read_bytes() for file in (folder / "models/adapter").iterdir()}
    losses = curves(folder)

    process = start(folder, **TOGETHER)  # killed in the middle of the second epoch
    wait_until(lambda: list(folder.glob(".ckpt/*/checkpoint-12/complete.json")))
    workers = children(process.pid)
    process.kill()
    process.communicate()
    assert len(workers) == 2
    wait_until(lambda: not any(map(is_alive, workers)), seconds=5)
    told = run(folder, **TOGETHER)

    assert "resuming" in told
    assert losses == curves(folder)
    assert whole == {file.name: file.read_bytes() for file in (folder / "models/adapter").iterdir()}
    assert not list(folder.glob(".ckpt/*"))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the children of a process")
def test_weights_in_shares_give_the_same_curve_and_are_saved_whole_after_a_signal(folder: Path) -> None:
    """FSDP2, every weight trained. Stopped by SIGTERM, both processes save the same step.

    Then training comes to its end and fails to write the outcome: what the checkpoint holds is written the next time.
    """
    settings = {"method": "full", "lr": 1e-3}
    run(folder, batch_size=2, accumulation=3, **settings)
    alone = curves(folder)
    weights = load_file(folder / "models/adapter/model.safetensors")
    together = in_shares(folder) | settings

    process = start(folder, **together)
    wait_until(lambda: list(folder.glob(".ckpt/*/checkpoint-12/complete.json")))
    assert list(folder.glob(".ckpt/*/checkpoint-12/pytorch_model_fsdp_0/__1_0.distcp"))  # the share of the second
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert errors.count("stopped by SIGTERM; saved") == 1
    assert "Traceback" not in errors
    template = folder / "data/packed/template.json"
    content = template.read_text()
    template.write_text("{}")
    _, errors = (process := start(folder, **together)).communicate(timeout=120)
    assert process.returncode == 1
    assert "KeyError: 'chat_template'" in errors
    steps = len((folder / "reports/runtime/train_live.csv").read_text().splitlines())
    template.write_text(content)
    told = run(folder, **together)

    assert "resuming" in told
    assert len((folder / "reports/runtime/train_live.csv").read_text().splitlines()) == steps  # no step more
    assert curves(folder) == pytest.approx(alone, abs=1e-5)
    whole = load_file(folder / "models/adapter/model.safetensors")
    assert whole.keys() == weights.keys()
    assert max(float(abs(value - weights[name]).max()) for name, value in whole.items()) < 1e-4


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the children of a process")
def test_an_adapter_on_weights_in_shares_is_that_of_one_process_and_survives_a_kill_to_the_bit(folder: Path) -> None:
    run(folder, batch_size=2, accumulation=3)
    alone, weights = curves(folder), load_file(folder / "models/adapter/adapter_model.safetensors")
    run(folder, **in_shares(folder))
    assert curves(folder) == pytest.approx(alone, abs=1e-5)
    shared = load_file(folder / "models/adapter/adapter_model.safetensors")
    assert shared.keys() == weights.keys()
    assert max(float(abs(value - weights[name]).max()) for name, value in shared.items()) < 1e-4
    whole = {file.name: file.read_bytes() for file in (folder / "models/adapter").iterdir()}

    process = start(folder, **in_shares(folder))
    wait_until(lambda: list(folder.glob(".ckpt/*/checkpoint-12/complete.json")))
    process.kill()
    process.communicate()
    told = run(folder, **in_shares(folder))

    assert "resuming" in told
    assert whole == {file.name: file.read_bytes() for file in (folder / "models/adapter").iterdir()}


FAILING = """
import os, sys, time
from pathlib import Path
from stages.lib import launch
from stages.lib.errors import UserError

with launch.working(Path(sys.argv[1])):
    print("rank", os.environ["RANK"])
    if os.environ["RANK"] == "1":
        raise UserError("the rate is too high.")
    time.sleep(.3)
    raise RuntimeError("connection lost")
"""


def test_an_error_of_one_process_is_raised_once_and_only_the_first_process_talks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    handler = signal.getsignal(signal.SIGTERM)
    params = LaunchParams(processes=2, config=None)

    with pytest.raises(UserError, match="the rate is too high"):
        launch.start("failing", tmp_path / "task.json", params, launch.settings(params))

    assert capfd.readouterr().err == ""
    assert signal.getsignal(signal.SIGTERM) == handler
    assert not launch.is_worker()


@pytest.mark.parametrize("path", READY, ids=[path.stem for path in READY])
def test_the_ready_made_files_are_read_by_accelerate(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: name)  # DeepSpeed need not be here

    told = launch.settings(LaunchParams(processes=int(path.stem.rpartition("-")[2]), config=str(path)))

    assert told["num_processes"] == 8 * told.get("num_machines", 1)
    assert launch.shards(told) == (not path.stem.startswith("ddp"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "train.launch.config is x.yaml, which does not exist"),
        ("distributed_type: MULTI_GPU\nnum_procs: 2", "x.yaml is no config file of accelerate: .*num_procs"),
        ("distributed_type: XLA", "x.yaml: only the distributed_type MULTI_GPU, FSDP, DEEPSPEED is known"),
        ("distributed_type: MULTI_GPU\nnum_processes: 8", "processes is 2, but x.yaml is for 8. Make them equal"),
        ("distributed_type: DEEPSPEED", "DeepSpeed, which is not installed. Run `pip install deepspeed`"),
    ],
)
def test_a_config_file_that_cannot_be_followed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    if content:
        Path("x.yaml").write_text(content)

    with pytest.raises(UserError, match=sentence):
        launch.settings(LaunchParams(processes=2, config="x.yaml"))


@pytest.mark.parametrize("rows", [1, 5, 6, 7, 12, 25])
@pytest.mark.parametrize(("batch", "processes"), [(1, 2), (2, 3), (4, 2)])
def test_every_row_is_dealt_out_exactly_once_in_the_order_of_one_process(rows: int, batch: int, processes: int) -> None:
    from accelerate.data_loader import BatchSamplerShard

    from stages.lib.trainer import WholeRounds

    order = WholeRounds(SequentialSampler(range(rows)), rows, batch * processes)
    dealt = [
        list(BatchSamplerShard(BatchSampler(order, batch, drop_last=False), processes, index))
        for index in range(processes)
    ]

    assert len({len(batches) for batches in dealt}) == 1
    in_turn = [row for turn in zip(*dealt, strict=True) for one in turn for row in one]
    assert in_turn[:rows] == list(range(rows))
    assert set(in_turn[rows:]) <= {rows}  # the filler
