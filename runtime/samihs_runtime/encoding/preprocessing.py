"""The encoder's inputs: finite pixels and the two bounds of the window.

Windowing itself, resizing to the model's frame and thresholding happen in the graphs. A slice of
another matrix size is fitted by :class:`~samihs_runtime.encoding.slice_frame.SliceFrame`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.bundle.entries import WindowRule
from samihs_runtime.errors import StudyError


def as_pixels(hu: NDArray[np.int16] | NDArray[np.float32]) -> NDArray[np.float32]:
    """A slice as contiguous float32 [rows, columns].

    Raises:
        StudyError: not two-dimensional, empty, or with values that are not finite.
    """
    if hu.ndim != 2 or hu.size == 0:
        raise StudyError(f"a slice of shape {hu.shape}: expected [rows, columns], neither empty")
    pixels = np.ascontiguousarray(hu, dtype=np.float32)
    if not np.isfinite(pixels).all():
        raise StudyError("the slice holds values that are not finite: read the series again")
    return pixels


def window_of(hu: NDArray[np.float32], rule: WindowRule) -> tuple[float, float]:
    """Low and high HU of a slice's window by the bundle's rule.

    Percentiles are taken over the stored slice, before padding. A constant slice gets a window one
    HU wide, so that the graph does not divide by zero.
    """
    if rule.rule == "fixed":
        return rule.low, rule.high
    low, high = np.percentile(hu, (rule.low, rule.high))
    return float(low), float(max(high, low + 1.0))
