"""Timing side by side: A B C A B C, so that a busy minute slows all alike."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def interleaved(
    works: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> dict[str, tuple[float, ...]]:
    """Wall seconds of each work in each round."""
    for _ in range(warm_up):
        for work in works.values():
            work()
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            taken[name].append(seconds(work))
    return {name: tuple(each) for name, each in taken.items()}


_MEASURED = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
taken = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # Linux counts KiB
print(json.dumps([taken, peak, done.returncode]))
"""
"""Run by a small Python between: a child's peak is never below that of the process it came from."""


def process(command: Sequence[str]) -> tuple[float, float]:
    """Wall seconds and peak resident MB of a process, by the operating system's account of it."""
    between = [sys.executable, "-S", "-c", _MEASURED, *command]
    done = subprocess.run(between, capture_output=True, text=True, check=True)
    taken, peak, code = json.loads(done.stdout)
    if code:
        sys.exit(f"error: {' '.join(command)} ended with {code}")
    return taken, peak
