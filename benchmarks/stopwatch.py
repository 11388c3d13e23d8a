"""Timing side by side: A B C A B C, so that a busy minute slows all alike."""

from __future__ import annotations

import os
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


def process(command: Sequence[str]) -> tuple[float, float]:
    """Wall seconds and peak resident MB of a process, by the operating system's account of it."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    taken = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {child.returncode}")
    return taken, usage.ru_maxrss / 1024  # Linux counts KiB
