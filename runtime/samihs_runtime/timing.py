"""Where the time went: a stopwatch per named stage, safe to use from several threads.

The time of a nested stage is not counted in the outer one: a first encode that loads the encoder
shows as ``load encoder`` and ``encode``, and the two add up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class StageTime:
    """How long one stage took."""

    count: int = 0
    """How often it ran."""
    total: float = 0.0
    """Seconds of all runs together."""
    last: float = 0.0
    """Seconds of the latest run."""


class Timings:
    """Wall-clock seconds by stage, in the order in which the stages first ended."""

    def __init__(self) -> None:
        self._stages: dict[str, StageTime] = {}
        self._lock = threading.Lock()
        self._thread = threading.local()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body of a ``with`` statement; a body that raises is timed as well."""
        inner: list[float] = []  # seconds of the stages inside this one
        outer = getattr(self._thread, "inner", None)
        self._thread.inner = inner
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._thread.inner = outer
            if outer is not None:
                outer.append(seconds)
            self.add(name, seconds - sum(inner))

    def add(self, name: str, seconds: float) -> None:
        """Add one run of a stage."""
        with self._lock:
            before = self._stages.get(name, StageTime())
            self._stages[name] = StageTime(before.count + 1, before.total + seconds, seconds)

    def __getitem__(self, name: str) -> StageTime:
        """The stage's time; zeros if it never ran."""
        return self._stages.get(name, StageTime())

    def stages(self) -> dict[str, StageTime]:
        """A copy of all stages."""
        with self._lock:
            return dict(self._stages)
