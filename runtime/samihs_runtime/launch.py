"""The console scripts: Ctrl-C ends a command quietly even before it runs.

Importing a command's modules takes up to seconds on a cold disk, and
:func:`~samihs_runtime.errors.one_line_errors` guards it only once they are there. Until then, and
after it while threads are waited for, there is nothing to clean up, so the system's default ends
the process: at once, without a traceback, and a shell reports 130 as for any interrupted program.

Commands of the other packages are named here, not imported: the runtime does not need them.
"""

import signal
from importlib import import_module


def infer() -> None:
    """``samihs-infer``."""
    _launch("samihs_runtime.cli")


def doctor() -> None:
    """``samihs-doctor``."""
    _launch("samihs_runtime.doctor")


def calibrate() -> None:
    """``samihs-calibrate``."""
    _launch("samihs_runtime.calibration.cli")


def train() -> None:
    """``samihs-train``."""
    _launch("samihs_training.cli")


def evaluate() -> None:
    """``samihs-evaluate``."""
    _launch("samihs_training.evaluation.cli")


def export() -> None:
    """``samihs-export``."""
    _launch("samihs_export.cli")


def phantom() -> None:
    """``samihs-phantom``."""
    _launch("samihs_training.data.phantom.cli")


def _launch(module: str) -> None:
    """Import the module and run its ``main``."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:  # nohup and shells' background jobs ignore it: that stays
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    main = import_module(module).main
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
