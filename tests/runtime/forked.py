"""What a forked child says of work that it tries: a real fork, and a child that cannot hang."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

import pytest

from samihs_runtime.errors import BackendError


def needs_fork(test: Callable[..., None]) -> Callable[..., None]:
    """Marks for a test that forks while threads run."""
    warning = "ignore:.*multi-threaded, use of fork:DeprecationWarning"
    test = pytest.mark.filterwarnings(warning)(test)
    return pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")(test)


def said_in_child(works: Sequence[Callable[[], object]]) -> list[str]:
    """One line for each work: the BackendError's message, else what it gave.

    A child that waits for a thread it does not have dies of the alarm, and says nothing.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(20)
        said = []
        for work in works:
            try:
                said.append(f"gave {work()}")
            except BackendError as error:
                said.append(str(error))
        os.write(writing, "\n".join(said).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()
    os.waitpid(child, 0)
    return lines
