"""Training in several processes: started by accelerate, and ended together.

The stage stays one process, DVC's own. It holds the lock on the checkpoints, tells of errors and writes what is written
once; the processes that train are its children. How they share the work is accelerate's business.
"""

import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from stages.lib import artifacts
from stages.lib.errors import UserError, end_with_parent
from stages.params.train import LaunchParams

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

# Set for the processes that train: the process that started them.
LAUNCHER = "RETUNE_LAUNCHER"
# Which of several machines this is, if the config file does not say so: it is then the same file on all of them.
MACHINE_RANK = "RETUNE_MACHINE_RANK"

SECONDS_TO_SAVE = 3600  # a checkpoint of a large model takes minutes; a second signal ends the wait
_ERRORS = "error-*.json"
_KINDS = ("MULTI_GPU", "FSDP", "DEEPSPEED")


def settings(params: LaunchParams) -> dict[str, Any]:
    """What accelerate's config file says, for the fingerprint.

    Raises:
        UserError: when the file cannot be read, or asks for what this machine or Retune cannot do.
    """
    if params.config is None:
        return {"distributed_type": "MULTI_GPU"}
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        told: dict[str, Any] = load_config_from_file(params.config).to_dict()
    except FileNotFoundError:
        raise UserError(f"params.yaml: train.launch.config is {params.config}, which does not exist.") from None
    except Exception as error:  # whatever YAML and accelerate find wrong
        raise UserError(f"{params.config} is no config file of accelerate: {error}") from None
    if told["distributed_type"] not in _KINDS or told.get("parallelism_config"):
        raise UserError(
            f"{params.config}: only the distributed_type {', '.join(_KINDS)} is known here, without a "
            "parallelism_config: every process trains on rows of its own."
        )
    if told["distributed_type"] == "DEEPSPEED" and find_spec("deepspeed") is None:
        raise UserError(
            f"{params.config} asks for DeepSpeed, which is not installed. Run `pip install deepspeed`, or set "
            "train.launch.config to configs/fsdp2-8.yaml, which shares the weights as ZeRO-3 does."
        )
    if told["num_processes"] not in (-1, params.processes):
        raise UserError(
            f"params.yaml: train.launch.processes is {params.processes}, but {params.config} is for "
            f"{told['num_processes']}. Make them equal."
        )
    return told


def shards(told: dict[str, Any]) -> bool:
    """Whether each process holds a part of the weights only."""
    return told["distributed_type"] != "MULTI_GPU"


def machine_rank(told: dict[str, Any]) -> int:
    """Which machine this is; the first one, 0, writes the outputs."""
    return int(os.environ.get(MACHINE_RANK, told.get("machine_rank", 0)))


def is_worker() -> bool:
    """Whether this process is one of several that train."""
    return LAUNCHER in os.environ


def start(module: str, task: Path, params: LaunchParams, told: dict[str, Any]) -> None:
    """Run `python -m MODULE TASK` in `params.processes` processes, and wait for them all.

    SIGTERM and SIGINT (Ctrl-C) are passed on, once; the processes save and end. If this process is killed, Linux kills
    them at once.

    Raises:
        UserError: as a process raised it, or when one was killed.
        SystemExit: after a signal, with the code that shells expect.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    _refuse_too_many(params, told)
    for leftover in task.parent.glob(_ERRORS):
        leftover.unlink()
    with tempfile.TemporaryDirectory() as folder, _signals_passed_on():
        config = params.config or str(_plain(Path(folder)))
        options = ["--config_file", config, "--num_processes", str(params.processes)]
        options += ["--machine_rank", str(machine_rank(told)), "--mixed_precision", "no"]  # train.precision decides
        if told.get("num_machines", 1) == 1:
            options += ["--main_process_port", "0"]  # a free one
        arguments = launch_command_parser().parse_args([*options, "--module", module, str(task)])
        arguments.signals_to_handle, arguments.shutdown_timeout = "SIGHUP", SECONDS_TO_SAVE  # torchrun's own options
        os.environ[LAUNCHER] = str(os.getpid())
        logging.disable(logging.ERROR)  # torchrun reports each failure at length; we have a sentence
        try:
            launch_command(arguments)
        except SignalException as stopped:
            raise SystemExit(128 + stopped.sigval) from None
        except ChildFailedError as failed:
            _raise_first(failed, task.parent, params.processes)
        finally:
            logging.disable(logging.NOTSET)
            del os.environ[LAUNCHER]


@contextmanager
def working(task: Path) -> Iterator[None]:
    """In a process that trains: end with the launcher, be silent but for the first, hand errors to the launcher."""
    import torch

    end_with_parent(signal.SIGKILL, int(os.environ[LAUNCHER]))
    for number in (signal.SIGTERM, signal.SIGINT):  # before training there is nothing to save, and nothing to clean up
        signal.signal(number, signal.SIG_DFL)
    rank = int(os.environ["RANK"])
    if rank > 0:  # what CUDA and NCCL write stays visible
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        yield
    except Exception as error:
        artifacts.write_json(task.parent / _ERRORS.replace("*", str(rank)), _in_words(error))
        raise SystemExit(1) from None
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _in_words(error: Exception) -> dict[str, Any]:
    """What `_as_raised` makes the error of again."""
    if isinstance(error, UserError):
        return {"sentence": str(error)}
    if isinstance(error, OSError) and error.errno is not None:  # a full disk, a file that may not be written
        return {"system": [error.errno, error.strerror, error.filename and str(error.filename)]}
    return {"traceback": "".join(traceback.format_exception(error))}


def _as_raised(told: dict[str, Any]) -> Exception:
    if "sentence" in told:
        return UserError(told["sentence"])
    if "system" in told:
        return OSError(*told["system"])
    return RuntimeError(f"in one of the processes:\n{told['traceback']}")


def _raise_first(failed: "ChildFailedError", folder: Path, processes: int) -> None:
    """Raise what went wrong first: when one process ends, the others fail too, for want of it."""
    files = sorted(folder.glob(_ERRORS), key=lambda file: file.stat().st_mtime_ns)
    errors = [_as_raised(artifacts.read_json(file, made_by="train")) for file in files]
    for error in errors:
        if isinstance(error, UserError):
            raise error from None
    rank, first = next(iter(failed.failures.items()))
    if first.exitcode < 0:
        raise UserError(
            f"process {rank} of {processes} was ended by {signal.Signals(-first.exitcode).name}, and the others with "
            "it. If nobody killed it, the machine ran out of memory: `dmesg` tells. Checkpoints are kept."
        ) from None
    if errors:
        raise errors[0]
    raise SystemExit(first.exitcode)


def _refuse_too_many(params: LaunchParams, told: dict[str, Any]) -> None:
    import torch

    here = params.processes // told.get("num_machines", 1)
    if torch.cuda.is_available() and here > torch.cuda.device_count():
        raise UserError(
            f"params.yaml: train.launch.processes asks for {here} GPUs on this machine, which has "
            f"{torch.cuda.device_count()}. Lower it, and raise train.accumulation by the same factor."
        )


def _plain(folder: Path) -> Path:
    """A config file for DDP. Without any, accelerate would read the one in the user's home."""
    path = folder / "ddp.yaml"
    path.write_text("distributed_type: MULTI_GPU\n", encoding="utf-8")
    return path


@contextmanager
def _signals_passed_on() -> Iterator[None]:
    """Let the first SIGTERM or SIGINT go to the processes; torchrun waits for them. A second stops at once."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    def pass_on(number: int, frame: FrameType | None) -> None:
        restore()
        os.write(2, b"\ntrain: saving after this step; the next signal stops at once\n")
        raise SignalException(f"signal {number}", signal.Signals(number))

    for number, handler in former.items():
        if handler != signal.SIG_IGN:  # as a shell's background jobs inherit SIGINT
            signal.signal(number, pass_on)
    try:
        yield
    finally:
        restore()
