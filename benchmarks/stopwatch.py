"""Interleaved timing, A B C A B C, so that a busy minute slows all alike; and peak memory."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Budget:
    """The time that rounds may take; whatever it cuts short is reported."""

    seconds: float = math.inf
    shortened: list[str] = field(default_factory=list)
    """What was cut short: ``encode: 3 of 5``. Shared with the parts of this budget."""
    started: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds left; 0 when they are used up."""
        return max(0.0, self.seconds - (time.perf_counter() - self.started))

    def part(self, share: float) -> Budget:
        """A share of the time left, for a step that starts now."""
        return Budget(share * self.left, self.shortened)

    def rounds(self, count: int, what: str, least: int = 2) -> Iterator[int]:
        """0, 1, ... ``count`` - 1; at least ``least`` of them, even if the time is used up."""
        for turn in range(count):
            if turn >= least and not self.left:
                self.shortened.append(f"{what}: {turn} of {count}")
                return
            yield turn


UNLIMITED = Budget()


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def interleaved(
    works: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    budget: Budget = UNLIMITED,
) -> dict[str, tuple[float, ...]]:
    """Wall seconds of each work in every round that the budget allowed."""
    for _ in range(warm_up):
        for work in works.values():
            work()
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in budget.rounds(rounds, f"rounds of {', '.join(works)}"):
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
"""Run by a small intermediate Python: the peak of a child is never below that of its parent."""


def processes(
    commands: Mapping[str, Sequence[str]], rounds: int, budget: Budget = UNLIMITED
) -> dict[str, list[tuple[float, float]]]:
    """Wall seconds and peak MB of each command in each round, after an uncounted first run.

    The first run leaves bytecode and disk cache as on any machine that has run the command before.
    """
    for command in commands.values():
        process(command)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in budget.rounds(rounds, f"rounds of {', '.join(commands)}"):
        for name, command in commands.items():
            taken[name].append(process(command))
    return taken


def process(command: Sequence[str]) -> tuple[float, float]:
    """Wall seconds and peak resident MB of a process, as counted by the operating system.

    It may write bytecode even if this process may not, since an installed command has bytecode.
    """
    between = [sys.executable, "-S", "-c", _MEASURED, *command]
    may = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(between, capture_output=True, text=True, check=True, env=may)
    taken, peak, code = json.loads(done.stdout)
    if code:
        sys.exit(f"error: {' '.join(command)} ended with {code}")
    return taken, peak


def peak_mb() -> float:
    """Peak resident MB of this process so far, of its own program alone; NaN except on Linux.

    ``ru_maxrss`` would include the parent process before ``exec``.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) / 1024
    return float("nan")
