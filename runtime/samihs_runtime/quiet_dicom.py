"""Warnings of pydicom and highdicom, kept from user and logs: they quote values, which may name the
patient."""

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
    """Within it pydicom neither warns nor logs, and highdicom does not warn; other packages do.

    What matters of it (lossy or short pixel data, unusable geometry) the reader finds itself and
    says in its notes; the sources' own flaws are copied as they are. For any number of threads at
    once: each one's log is its own affair, and warnings, whose filters Python keeps once for a
    process, are silent until the last has left.
    """
    token = _QUIET.set(True)
    try:
        with _SILENCE:
            yield
    finally:
        _QUIET.reset(token)


class _Silence:
    """One entry among the process's warning filters, for as long as anybody is inside.

    ``warnings.catch_warnings`` would put back, when one thread leaves, what it found when it came:
    in the midst of another's reading.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._entry: object = None

    def __enter__(self) -> None:
        with self._lock:
            # Each time: it goes before whatever was put in front of it since.
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
