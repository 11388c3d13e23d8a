"""The bounds of the window, by either rule."""

from __future__ import annotations

import numpy as np
import pytest

from samihs_runtime.bundle.entries import WindowRule
from samihs_runtime.encoding.preprocessing import window_of


def test_windows() -> None:
    ramp = np.arange(10000, dtype=np.float32).reshape(100, 100)
    assert window_of(ramp, WindowRule("fixed", 0, 80)) == (0, 80)
    low, high = window_of(ramp, WindowRule("percentiles", 0.05, 99.5))
    assert (low, high) == pytest.approx((4.9995, 9949.005))
    flat = np.full((4, 4), 7, np.float32)
    assert window_of(flat, WindowRule("percentiles", 0.05, 99.5)) == (7, 8)
