"""A folder for one process at a time: a lock that ends with the process, however that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samihs_runtime.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: nothing is held there
    fcntl = None  # type: ignore[assignment]


@contextmanager
def held_alone(folder: Path, doing: str) -> Iterator[None]:
    """Hold ``folder``, which is there, for this process alone.

    Nothing is written into it. A file system without locks holds nothing.

    Args:
        folder: what to hold.
        doing: what another holder is doing, for the message, such as ``trains``.

    Raises:
        OutputError: another process holds it.
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
