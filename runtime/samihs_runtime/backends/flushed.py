"""ONNX Runtime on the CPU without denormal numbers, whichever thread calls it.

The tails of softmax and of click maps are denormal, and a CPU takes many times longer for such
numbers. ONNX Runtime can flush them to zero on its own worker threads. But the calling thread also
computes its share of a run, and ONNX Runtime sets the mode of only one such thread: the one that
creates the first session of the process. A thread inherits the mode of the thread that starts it.
So all sessions are created on one thread, and each runs on a thread that was started there. The
caller's own arithmetic is not affected.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.session_thread import SessionThread

FLUSHING = ("session.set_denormal_as_zero", "1")
"""Entry of the ``SessionOptions`` that enables it."""


class FlushedSession:
    """A session with its own thread."""

    def __init__(self, session: Any, thread: SessionThread) -> None:
        self._session, self._thread = session, thread

    @classmethod
    def made(cls, make: Callable[[], Any], name: str) -> Self:
        """Make a session, whose options must have :data:`FLUSHING`; raises what ``make`` raises."""
        return _maker(os.getpid()).call(partial(cls._made_here, make, name))

    @classmethod
    def _made_here(cls, make: Callable[[], Any], name: str) -> Self:
        session, thread = make(), SessionThread(name)
        thread.call(lambda: None)  # the thread starts with its first call
        return cls(session, thread)

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, NDArray[np.generic]]
    ) -> list[NDArray[Any]]:
        """As ``InferenceSession.run``; takes about 50 us longer."""
        return self._thread.call(lambda: self._session.run(list(outputs), dict(feeds)))

    @property
    def is_ours(self) -> bool:
        """Whether this process made it; a forked child has neither its thread nor its workers."""
        return self._thread.is_ours

    def check(self) -> None:
        """Refuse to continue in a forked child. Raises BackendError."""
        self._thread.check()

    def close(self) -> None:
        """End the thread after the run in progress."""
        self._thread.close()


@cache
def _maker(process: int) -> SessionThread:
    """The thread that makes all sessions of a process; a forked child gets its own."""
    return SessionThread(f"samihs-sessions-{process}")
