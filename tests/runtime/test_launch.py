"""The console scripts before and after their commands run: Ctrl-C is quiet there as well."""

from __future__ import annotations

import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
INTERRUPTED = """
import os, signal, sys
from importlib.metadata import EntryPoint

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "click":  # each command imports it
            os.kill(os.getpid(), signal.SIGINT)

# As at a terminal: tests that run in the background have inherited that it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
EntryPoint("command", sys.argv[1], "console_scripts").load()()
"""
OBSERVED = """
import signal, sys
from types import SimpleNamespace

def main():
    print("runs with", getattr(signal.getsignal(signal.SIGINT), "__name__", "another"))
    raise SystemExit(3)

inherited = {"at a terminal": signal.default_int_handler, "in the background": signal.SIG_IGN}
signal.signal(signal.SIGINT, inherited[sys.argv[1]])
sys.modules["samihs_runtime.cli"] = SimpleNamespace(main=main)
from samihs_runtime.launch import infer
try:
    infer()
finally:
    print("ends with", signal.getsignal(signal.SIGINT).name)
"""


def run(program: str, argument: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the signal would end this one."""
    return subprocess.run(
        [sys.executable, "-c", program, argument],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("entry", PROJECT["scripts"].values(), ids=PROJECT["scripts"].keys())
def test_an_interruption_while_modules_are_imported_is_quiet(entry: str) -> None:
    done = run(INTERRUPTED, entry)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_command_that_runs_is_interrupted_as_python_does_it() -> None:
    """So that it can clean up; and after it, quietly again."""
    done = run(OBSERVED, "at a terminal")
    assert done.returncode == 3
    assert done.stdout.splitlines() == ["runs with default_int_handler", "ends with SIG_DFL"]


def test_a_command_in_the_background_stays_deaf_to_the_keyboard() -> None:
    done = run(OBSERVED, "in the background")
    assert done.stdout.splitlines() == ["runs with another", "ends with SIG_IGN"]
