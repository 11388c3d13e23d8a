"""A command that is told to end (SIGTERM: ``kill``, ``timeout``, a container that stops) tidies up.

By itself Python ends there and then: hidden folders with a patient's pictures would stay.
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
    """Within it SIGTERM raises :class:`SystemExit`, so that ``finally`` runs.

    For commands alone: whose process it is decides about its signals. Where somebody has decided
    already, or in another thread than the main one, nothing is changed.
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
