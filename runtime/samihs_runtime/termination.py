"""Clean up when a command is terminated (SIGTERM: ``kill``, ``timeout``, a container that stops).

By default Python ends at once, and hidden folders with a patient's images would be left behind.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from samihs_runtime.errors import EXIT_TERMINATED


@contextmanager
def tidy_termination() -> Iterator[None]:
    """Inside it SIGTERM raises :class:`SystemExit`, so that ``finally`` blocks run.

    For commands only: signals are the business of whoever owns the process. If a handler is already
    installed, or outside the main thread, nothing is changed.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` sends two; one is enough
    raise SystemExit(EXIT_TERMINATED)
