"""Heads without hemorrhage, in memory, of which every pixel's tissue is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.series import CTSeries
from tests.runtime.series_factory import make_series

SIDE = 120
BRAIN_HU, VESSEL_HU, SCALP_HU, BONE_HU = 32, 60, 40, 900


def head(spacing: tuple[float, float] = (1.5, 1.5), gap_mm: float = 0.0) -> NDArray[np.int16]:
    """[SIDE, SIDE]: brain with a bright vessel at the back, a skull with a gap in front, scalp."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(float)
    y, x = (rows - (SIDE - 1) / 2) * spacing[0], (columns - (SIDE - 1) / 2) * spacing[1]
    radius = np.hypot(y, x)
    hu = np.full((SIDE, SIDE), -1000, np.int16)
    hu[radius < 82] = SCALP_HU
    hu[(radius < 76) & ~((np.abs(x) < gap_mm / 2) & (y < 0))] = BONE_HU
    hu[radius < 70] = BRAIN_HU
    hu[np.hypot(y - 50, x) < 12] = VESSEL_HU
    return hu


def head_series(slices: int = 6, spacing: tuple[float, float] = (1.5, 1.5)) -> CTSeries:
    """Slices of that head between one of air and one of neck, which shows no brain."""
    series = make_series([5.0 * z for z in range(slices + 2)], shape=(SIDE, SIDE), spacing=spacing)
    plane = head(spacing)
    neck = np.where(plane == BONE_HU, SCALP_HU, plane).astype(np.int16)
    air = np.full_like(plane, -1000)
    return replace(series, hu=np.stack([neck, *[plane] * slices, air]))
