"""A person who can mend it gets one sentence; only our own bugs get a traceback."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import stages
from stages.lib import errors
from stages.lib.errors import UserError, run

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def sigterm_as_before():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def outcome(error, capsys):
    """Exit code and stderr of a stage whose work raises `error`."""

    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        run(main)
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError('data/raw/a.json:3: "output" is empty.'), 1, 'data/raw/a.json:3: "output" is empty.\n'),
        (KeyboardInterrupt(), 130, "interrupted; outputs are written whole or not at all, so `dvc repro` carries on"),
        (
            OSError(errno.ENOSPC, "No space left on device", "models/base"),
            1,
            "the disk is full (models/base). Free some",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, "the disk is full ("),
        (PermissionError(errno.EACCES, "Permission denied", "reports/x.json"), 1, "reports/x.json cannot be written"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "reports/x.json"), 1, "reports/x.json cannot be written"),
        # as safetensors words it
        (RuntimeError("I/O error: No space left on device (os error 28)"), 1, "the disk is full ("),
    ],
)
def test_what_the_user_can_mend_is_one_sentence_and_no_traceback(capsys, error, code, said):
    got, err = outcome(error, capsys)
    assert got == code
    assert err.startswith(f"error: {said}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EBADF, "Bad file"), AssertionError()])
def test_a_bug_of_ours_keeps_its_traceback(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        run(main)


def test_a_stage_that_ends_well_says_nothing_more(capsys):
    run(lambda: print("base: done"))
    assert capsys.readouterr() == ("base: done\n", "")


def test_code_from_another_folder_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    """A queued experiment that imports the edited workspace would not run its own snapshot."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        run(lambda: pytest.fail("the stage ran"))
    assert caught.value.code == 1
    assert f"imported from {Path(stages.__file__).parent}" in capsys.readouterr().err


def test_a_clone_that_is_reached_through_a_link_is_no_foreign_code(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(ROOT)
    monkeypatch.chdir(tmp_path / "link")
    done = []
    run(lambda: done.append(True))
    assert done


def test_a_warning_goes_to_stderr_so_that_stdout_stays_the_summary(capsys):
    errors.warn("params.yaml: train.lr is 0.1.")
    assert capsys.readouterr() == ("", "warning: params.yaml: train.lr is 0.1.\n")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stage_that_is_stopped_leaves_nothing_half_written(tmp_path, sent, code):
    code_of_stage = (
        "import signal, sys, time; from pathlib import Path; from stages.lib import artifacts, errors\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs inherit it ignored
        "def main():\n"
        "    with artifacts.replacing(Path(sys.argv[1])) as out:\n"
        "        (out / 'half').touch(); print('ready', flush=True); time.sleep(60)\n"
        "errors.run(main)"
    )
    command = [sys.executable, "-c", code_of_stage, str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, sent)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["validate", "train"])
def test_ctrl_c_while_modules_are_loaded_ends_without_a_traceback(stage):
    command = [sys.executable, "-X", "importtime", "-m", f"stages.{stage}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for line in process.stderr:
        if line.endswith("| stages\n"):
            break
    os.kill(process.pid, signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in rest


def test_a_python_without_the_packages_is_told_how_to_find_them():
    """As when `.venv/bin/dvc repro` is run where .venv was not activated."""
    command = [sys.executable, "-S", "-E", "-m", "stages.validate"]  # -S: without site-packages
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Run `. .venv/bin/activate` first" in done.stderr
    assert "Traceback" not in done.stderr
