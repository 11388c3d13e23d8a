"""The reported time and memory of a process are its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from stopwatch import peak_mb

ROOT = Path(__file__).parents[2]
_BIG = """
import subprocess, sys
ballast = b"x" * 400_000_000
child = (
    "import resource, sys; sys.path.insert(0, 'benchmarks'); from stopwatch import peak_mb;"
    "print(peak_mb(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
)
print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_peak_is_not_that_of_the_process_it_was_started_from() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BIG], cwd=ROOT, capture_output=True, text=True, check=True
    )
    own, inherited = map(float, done.stdout.split())
    assert 3 < own < 200
    assert inherited > 380  # the value that benchmarks used before


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_peak_stays_when_memory_is_given_back() -> None:
    before = peak_mb()
    ballast = bytearray(int((before + 50) * 2**20))
    del ballast
    assert peak_mb() > before + 40
