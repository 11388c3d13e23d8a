"""Import the libraries behind the formats while the model loads and computes.

They take a quarter of the time of a cold command. The interpreter is idle while a graph is loaded
and run, so they are imported meanwhile, on a separate thread.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain

_FOR_ALL = ("scipy.ndimage", "scipy.spatial", "samihs_runtime.writers.report_json")
"""The first two are needed for measuring."""
_BEHIND = {
    "overlay": ("samihs_runtime.writers.overlay", "samihs_runtime.writers.contact_sheet"),
    "nifti": ("samihs_runtime.writers.nifti", "nibabel"),
    "stl": ("samihs_runtime.writers.stl",),
    "seg": ("samihs_runtime.writers.seg", "highdicom"),
    "capture": ("samihs_runtime.writers.capture", "highdicom"),
}
"""In the order in which the formats are written."""


def prepare(formats: Sequence[str]) -> threading.Thread:
    """Start importing what writing ``formats`` needs; ``join`` the thread before a DICOM format.

    A failed import is reported where the module is needed, not here.
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
        with suppress(Exception):  # not part of its public interface
            _read_dicom_standard()


def _read_dicom_standard() -> None:
    """Load highdicom's table of attributes that an object may have: 22 MB of JSON, read once."""
    from highdicom._standard_utils import get_module_attribute_map

    get_module_attribute_map()
