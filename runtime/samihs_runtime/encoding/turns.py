"""Take turns: one encode at a time, and first the one that someone is waiting for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock with two classes: the background waits whenever the foreground wants a turn."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._busy = False
        self._foreground_waiting = 0

    @contextmanager
    def take(self, *, background: bool) -> Iterator[None]:
        """Wait for a turn and hold it during the body of the ``with`` statement."""
        with self._condition:
            if background:
                self._condition.wait_for(lambda: not self._busy and not self._foreground_waiting)
            else:
                self._foreground_waiting += 1
                try:
                    self._condition.wait_for(lambda: not self._busy)
                finally:
                    self._foreground_waiting -= 1
            self._busy = True
        try:
            yield
        finally:
            with self._condition:
                self._busy = False
                self._condition.notify_all()
