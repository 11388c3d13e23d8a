"""A thread that does all the work of one session: its CUDA graphs belong to the thread, and so does
the mode in which a CPU computes (``flushed``)."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

R = TypeVar("R")


class DeviceThread:
    """Started at the first call; ends with :meth:`close`. A forked child does not have it."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def call(self, work: Callable[[], R]) -> R:
        """Do it there, and wait; raises what it raises. Costs some 50 us on top of the work."""
        try:
            return self._pool.submit(work).result()
        except BaseException as error:
            _let_go(error)
            raise

    def close(self) -> None:
        """End the thread after the work under way."""
        self._pool.shutdown()


def _let_go(error: BaseException) -> None:
    """Drop what the frames of a failed call hold: a session must not outlive its stream in them."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__
