"""How a stage fails: a sentence for the person who can fix it, and a traceback only for our own bugs."""

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import stages

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR)


class UserError(Exception):
    """A mistake that the user can fix. Its text says what is wrong, where (file:line or param), and what to do."""


def warn(sentence: str) -> None:
    """Tell the user something that does not stop the stage."""
    print(f"warning: {sentence}", file=sys.stderr, flush=True)


def run(main: Callable[[], None]) -> None:
    """Run a stage's `main` and turn what the user can fix into one sentence and exit code 1.

    Ctrl-C and SIGTERM exit with 130 and 143, as shells expect, and let the stage remove what it had half written. Any
    other exception is a bug of ours and keeps its traceback.
    """
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # set by stages/__init__.py while modules were loaded
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _end_with_dvc()
    try:
        _refuse_foreign_code()
        main()
    except UserError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        _stop("interrupted; outputs are written whole or not at all, so `dvc repro` carries on from here.", code=130)
    except Exception as error:
        place = getattr(error, "filename", None) or Path.cwd()
        if isinstance(error, OSError) and error.errno in _FORBIDDEN:
            _stop(f"{place} cannot be written or read: {error.strerror}. Make way for it, then run `dvc repro` again.")
        if not is_disk_full(error):
            raise
        _stop(
            f"the disk is full ({place}). Free some space (`dvc gc --workspace --all-experiments --all-branches "
            "--all-tags --dry` shows what DVC could drop), then run `dvc repro` again: nothing half-written was left."
        )


def _end_with_dvc() -> None:
    """A killed `dvc repro` leaves no stage at work behind."""
    if "DVC_ROOT" in os.environ:
        end_with_parent(signal.SIGTERM, os.getppid())


def end_with_parent(number: signal.Signals, parent: int) -> None:
    """Ask Linux to send this signal when the parent dies; at once when it is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, number)  # 1 = PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os.kill(os.getpid(), number)


def is_disk_full(error: Exception) -> bool:
    """Whether the disk, or the user's share of it, was too small; libraries in Rust wrap that error in their own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _refuse_foreign_code() -> None:
    """An editable install would make queued experiments run the edited workspace instead of their own snapshot."""
    code = Path(stages.__file__).resolve()
    if Path.cwd().resolve() not in code.parents:
        raise UserError(
            f"the stages were imported from {code.parent}, not from this folder. Run `python -m stages.…` at the top "
            "of the clone, and uninstall any `pip install -e` of Retune."
        )


def _stop(sentence: str, code: int = 1) -> None:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(code)
