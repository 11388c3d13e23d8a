"""How many slices or prompts go in one run: what the program takes, less where memory is short."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from samihs_runtime.errors import DeviceMemoryError

R = TypeVar("R")


class BatchLimit:
    """The most in one run.

    A batch that is larger than any before and finds no memory lowers it to the half, or to the
    largest that ran. A batch that ran before has had its memory: what is short then is short for
    another reason, and the caller may make room.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._ran = 1

    def split(self, count: int, run: Callable[[slice], R]) -> list[R]:
        """Run ``count`` in order, as many at once as go.

        Args:
            count: slices or prompts.
            run: runs a part of them.

        Raises:
            DeviceMemoryError: not even one fits, or fewer than have fitted before.
        """
        done: list[R] = []
        start = 0
        while start < count:
            part = slice(start, min(count, start + self.most))
            size = part.stop - part.start
            try:
                done.append(run(part))
            except DeviceMemoryError:
                if not self.lower(size):
                    raise
            else:
                self.note(size)
                start = part.stop
        return done

    def note(self, size: int) -> None:
        """Take note that a batch has run."""
        self._ran = max(self._ran, size)

    def lower(self, size: int) -> bool:
        """Take note that a batch found no memory; whether a smaller one is worth trying."""
        if size <= self._ran:
            return False
        self.most = max(self._ran, size // 2)
        return True
