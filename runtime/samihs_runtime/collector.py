"""The garbage collector in a command that runs once.

Imports, DICOM headers and the tables of the DICOM standard are objects by the hundred thousand, and
all of them are kept. To look through them after every 700 new ones, and once more at the end, is
time spent on finding nothing: on two cores half a second of a cold ``samihs-infer``.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 100_000
"""New objects until the collector looks at them; Python's own number is 700."""


@contextmanager
def patient_collector() -> Iterator[None]:
    """Collect seldom inside, and not at all when the process ends: memory then goes back whole."""
    before = gc.get_threshold()
    gc.set_threshold(PATIENCE, *before[1:])
    atexit.register(gc.freeze)  # several times do no harm
    try:
        yield
    finally:
        gc.set_threshold(*before)
