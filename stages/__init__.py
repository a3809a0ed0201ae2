"""Retune's pipeline: one module per DVC stage, `stages.lib` for what they share, `stages.params` for their knobs."""

import importlib.util
import signal
import sys

if sys.argv[0] == "-m":  # `python -m stages.…`
    # While modules are loaded Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if importlib.util.find_spec("pydantic") is None:  # `.venv/bin/dvc repro` finds the system's Python
        sys.exit(
            f"error: {sys.executable} has none of the packages that Retune needs. Run `. .venv/bin/activate` first "
            "(`make setup` makes .venv), or `make repro`."
        )
