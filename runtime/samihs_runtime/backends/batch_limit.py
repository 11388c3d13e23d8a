"""How many slices or prompts go into one run: the program's limit, or less if memory is short."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from samihs_runtime.errors import DeviceMemoryError

R = TypeVar("R")


class BatchLimit:
    """The most slices or prompts in one run.

    If a batch larger than all before runs out of memory, the limit drops to half of that batch, but
    not below the largest that ran. A batch of a size that ran before had enough memory then, so
    something else has taken it since: the limit stays, and the caller may free memory.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._ran = 1

    def split(self, count: int, run: Callable[[slice], R]) -> list[R]:
        """Run ``count`` of them in order, in batches as large as the limit.

        Args:
            count: how many slices or prompts.
            run: runs the batch of these indices.

        Raises:
            DeviceMemoryError: not even one fits, or a size that ran before no longer fits.
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
        """Record that a batch of this size has run."""
        self._ran = max(self._ran, size)

    def lower(self, size: int) -> bool:
        """Lower the limit after a batch ran out of memory; False if one as large ran before."""
        if size <= self._ran:
            return False
        self.most = max(self._ran, size // 2)
        return True
