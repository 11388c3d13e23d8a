"""The lock between CUDA graph captures and everything else that the runtime does on a GPU.

ONNX Runtime captures in CUDA's global mode: a ``cudaMalloc`` or ``cudaFree`` of any thread of the
process fails meanwhile, and spoils the capture. So whatever may allocate shares the lock, any
amount of it at once, and a capture holds it exclusively. One lock serves the process, as the mode
does; threads of other libraries do not know it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CaptureLock:
    """Shared by many or held by one; who wants it exclusively goes first. Not to be nested."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._exclusive_wanted = 0
        """Threads that hold it exclusively, or wait to."""
        self._exclusive_held = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Share it through the body of the ``with`` statement: work that may allocate."""
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
        """Hold it through the body of the ``with`` statement: a capture."""
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
"""The process's one."""
