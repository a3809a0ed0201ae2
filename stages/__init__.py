"""Retune's pipeline: one module per DVC stage, `stages.lib` for what they share, `stages.params` for their knobs."""

import signal
import sys

if sys.argv[0] == "-m":  # `python -m stages.…`: while modules are loaded Ctrl-C ends it without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
