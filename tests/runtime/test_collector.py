"""The collector's patience begins and ends with the command."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from samihs_runtime.collector import PATIENCE, patient_collector


def test_patience_ends_with_the_command() -> None:
    before = gc.get_threshold()
    inside = []

    def command() -> None:
        inside.append(gc.get_threshold())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), patient_collector():
        command()
    assert inside == [(PATIENCE, *before[1:])]
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0  # this process goes on, and collects as before


def test_at_its_end_a_process_collects_nothing() -> None:
    script = (
        "import atexit, gc\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000))\n"  # the last to be called
        "from samihs_runtime.collector import patient_collector\n"
        "for _ in range(2):\n"
        "    with patient_collector(): pass\n"
        "print(gc.get_freeze_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["0", "True"], done.stderr
