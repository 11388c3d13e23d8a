"""Keep the warnings of pydicom and highdicom from the user and from logs: they quote values, which
may identify the patient."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

_PACKAGES = r"(pydicom|highdicom|pylibjpeg|libjpeg|openjpeg|rle)(\.|$)"
_QUIET: ContextVar[bool] = ContextVar("quiet_dicom", default=False)
"""Whether this thread (or task) is inside :func:`quiet_dicom`."""


@contextmanager
def quiet_dicom() -> Iterator[None]:
    """Inside it pydicom neither warns nor logs, and highdicom does not warn; other packages do.

    The reader itself detects what matters (lossy or short pixel data, unusable geometry) and says
    so in its notes; other flaws of the sources are copied unchanged. Any number of threads may be
    inside at once: logging is silenced per thread, while warnings, whose filters Python keeps per
    process, are silenced until the last thread has left.
    """
    token = _QUIET.set(True)
    try:
        with _SILENCE:
            yield
    finally:
        _QUIET.reset(token)


class _Silence:
    """One entry among the process's warning filters, for as long as any thread is inside.

    ``warnings.catch_warnings`` would not do: when one thread leaves, it restores the filters from
    when that thread entered, even while another is still reading.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._entry: object = None

    def __enter__(self) -> None:
        with self._lock:
            # Every time: it must go in front of filters that were added since.
            warnings.filterwarnings("ignore", category=UserWarning, module=_PACKAGES)
            self._entry = warnings.filters[0]
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            filters = cast(list[Any], warnings.filters)
            if not self._inside and self._entry in filters:
                filters.remove(self._entry)


_SILENCE = _Silence()


def _may_be_said(_: logging.LogRecord) -> bool:
    return not _QUIET.get()


logging.getLogger("pydicom").addFilter(_may_be_said)
