"""The libraries behind the formats, loaded while the model loads and computes.

They are a quarter of a cold command. The interpreter is idle while a graph is made ready and run,
and that is when they load: on a thread of its own.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain

_FOR_ALL = ("scipy.ndimage", "scipy.spatial", "samihs_runtime.writers.report_json")
"""Measuring needs the first two."""
_BEHIND = {
    "overlay": ("samihs_runtime.writers.overlay", "samihs_runtime.writers.contact_sheet"),
    "nifti": ("samihs_runtime.writers.nifti", "nibabel"),
    "stl": ("samihs_runtime.writers.stl",),
    "seg": ("samihs_runtime.writers.seg", "highdicom"),
    "capture": ("samihs_runtime.writers.capture", "highdicom"),
}
"""In the order in which they are written."""


def prepare(formats: Sequence[str]) -> threading.Thread:
    """Begin to load what writing ``formats`` needs; ``join`` the thread before a DICOM format.

    What cannot be loaded is reported by whoever needs it, not here.
    """
    behind = (names for kind, names in _BEHIND.items() if kind in formats)
    modules = (*_FOR_ALL, *chain.from_iterable(behind))
    thread = threading.Thread(target=_load, args=(modules,), name="samihs-prepare-writing")
    thread.start()
    return thread


def _load(modules: Sequence[str]) -> None:
    for name in modules:
        with suppress(Exception):
            importlib.import_module(name)
    if "highdicom" in modules:
        with suppress(Exception):  # not of its public interface
            _read_dicom_standard()


def _read_dicom_standard() -> None:
    """highdicom looks up in 22 MB of JSON, read once, which attributes an object may have."""
    from highdicom._standard_utils import get_module_attribute_map

    get_module_attribute_map()
