"""A thread that does all the work of one ONNX Runtime session, on a GPU or a CPU.

A session's CUDA graphs belong to the thread that captured them. So does a CPU's floating-point mode
to the thread in which it was set (``flushed``).
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from samihs_runtime.errors import BackendError

R = TypeVar("R")


class SessionThread:
    """Starts at the first call; ends with :meth:`close`. A forked child does not have it."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._process = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether this process made it."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Refuse to wait for a thread that a forked child does not have, which would be for ever.

        Raises:
            BackendError: this process was forked after the thread was made.
        """
        if not self.is_ours:
            raise BackendError(
                "this process was forked after the segmenter had begun to work: open the segmenter "
                "in the child, or start it with multiprocessing's 'spawn' method"
            )

    def call(self, work: Callable[[], R]) -> R:
        """Do the work there and wait; raises what it raises. Adds about 50 us to the work.

        Raises:
            BackendError: see :meth:`check`.
        """
        self.check()
        try:
            return self._pool.submit(work).result()
        except BaseException as error:
            _let_go(error)
            raise

    def close(self) -> None:
        """End the thread after the work in progress; in a forked child there is none to end."""
        if self.is_ours:
            self._pool.shutdown()


def _let_go(error: BaseException) -> None:
    """Clear the frames of a failed call: a session in them must not outlive its stream."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__
