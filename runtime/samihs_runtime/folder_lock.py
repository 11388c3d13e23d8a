"""A folder for one process at a time: a lock that is released however the process ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samihs_runtime.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]


@contextmanager
def held_alone(folder: Path, doing: str) -> Iterator[None]:
    """Lock an existing ``folder`` for this process alone.

    Nothing is written into it. On a file system without locks nothing is locked.

    Args:
        folder: what to lock.
        doing: what another holder is doing, for the message, such as ``trains``.

    Raises:
        OutputError: another process holds the lock.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"another process {doing} in {folder}: wait for it, or end it"
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
