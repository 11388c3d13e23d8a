"""The lock between CUDA graph captures and everything else that the runtime does on a GPU.

ONNX Runtime captures in CUDA's global mode: meanwhile a ``cudaMalloc`` or ``cudaFree`` in any
thread of the process fails and invalidates the capture. So work that may allocate shares the lock,
any number of threads at once, and a capture holds it exclusively. Like the mode, the lock is
process-wide; threads of other libraries do not respect it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CaptureLock:
    """Shared by many or held by one; exclusive requests go first. Must not be nested."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._exclusive_wanted = 0
        """Number of threads that hold it exclusively or wait to do so."""
        self._exclusive_held = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Share it during the body of the ``with`` statement: for work that may allocate."""
        with self._changed:
            self._changed.wait_for(lambda: not self._exclusive_wanted)
            self._sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold it during the body of the ``with`` statement: for a capture."""
        with self._changed:
            self._exclusive_wanted += 1
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._sharing and not self._exclusive_held)
                self._exclusive_held = True
            try:
                yield
            finally:
                with self._changed:
                    self._exclusive_held = False
        finally:
            with self._changed:
                self._exclusive_wanted -= 1
                self._changed.notify_all()


CAPTURE_LOCK = CaptureLock()
"""The one lock of the process."""
