"""Nothing else may happen on the GPU while ONNX Runtime captures a CUDA graph.

It captures in CUDA's global mode: a ``cudaMalloc`` or ``cudaFree`` of any thread of the process
fails meanwhile, and spoils the capture. So whatever may allocate here is work, of which any amount
goes on at once, and a capture waits until it is alone. One lock serves the process, as the mode
does; threads of other libraries do not know it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Quiet:
    """A lock that many share or one holds; who wants it alone goes first. Not to be nested."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._working = 0
        self._wanting = 0
        """Threads that want to be alone, or are."""
        self._alone = False

    @contextmanager
    def work(self) -> Iterator[None]:
        """Share it through the body of the ``with`` statement."""
        with self._changed:
            self._changed.wait_for(lambda: not self._wanting)
            self._working += 1
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold it through the body of the ``with`` statement."""
        with self._changed:
            self._wanting += 1
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._working and not self._alone)
                self._alone = True
            try:
                yield
            finally:
                with self._changed:
                    self._alone = False
        finally:
            with self._changed:
                self._wanting -= 1
                self._changed.notify_all()


QUIET = Quiet()
"""The process's one."""
