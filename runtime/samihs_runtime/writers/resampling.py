"""Resample the mask of unevenly spaced slices to an even grid, for formats that need one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.errors import FormatError
from samihs_runtime.geometry import (
    GRID_TOLERANCE_MM,
    affine_of,
    along_normal,
    same_orientation,
)

if TYPE_CHECKING:
    from samihs_runtime.series import CTSeries

Array = NDArray[np.float64]

FINEST_STEP_MM = 0.5
"""The step is no finer than this: smaller gaps are rounding, and the file would only grow."""
MOST_SLICES = 2048
_ROUNDING = 1e-6
"""Fraction of a step: a height of a whole number of steps up to rounding gets no extra step."""


def resampled(
    series: CTSeries, volume: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The mask on evenly spaced slices, and their affine to LPS mm.

    A new slice takes the mask of the slice in whose extent it lies: nothing is interpolated, and
    boundaries between slices move by at most half a step.

    Args:
        series: slices of one orientation with positions on a line; tilt is kept as shear.
        volume: [Z, rows, columns].

    Returns:
        [K, rows, columns] and [4, 4] from (column, row, slice, 1).

    Raises:
        FormatError: slices of several orientations or spacings, or shifted within their planes.
    """
    line = slice_line(series)
    places = along_normal(series.planes) - along_normal(series.planes)[0]
    ends = places[-1] + series.extents_mm[-1] - _half_gap(places, -1)
    begin = -(series.extents_mm[0] - _half_gap(places, 0))
    height = float(ends - begin)
    count = _count(height, min(float(np.diff(places).min()), float(series.extents_mm.min())))
    step = height / count
    centres = begin + step * (np.arange(count) + 0.5)  # mm along the normal, from the first slice
    middles = (places[:-1] + places[1:]) / 2
    nearest = np.searchsorted(middles, centres)
    affine = affine_of(series.planes[0], line * step)
    affine[:3, 3] += line * centres[0]
    return volume[nearest], affine


def slice_line(series: CTSeries) -> Array:
    """Displacement [3] in mm of the first pixel per mm along the normal; longer under tilt.

    Raises:
        FormatError: slices of several orientations or spacings, or shifted within their planes.
    """
    planes = series.planes
    positions = np.array([plane.position for plane in planes], dtype=np.float64)
    places = along_normal(planes) - along_normal(planes)[0]
    line = np.asarray((positions[-1] - positions[0]) / places[-1])
    off = np.linalg.norm(positions - positions[0] - places[:, None] * line, axis=1).max()
    alike = all(
        same_orientation(plane, planes[0]) and np.allclose(plane.spacing, planes[0].spacing)
        for plane in planes
    )
    if off > GRID_TOLERANCE_MM or not alike:
        raise FormatError(
            "--resample evens out distances only, and these slices are turned, scaled or shifted "
            f"against each other (by {off:.2f} mm at most): take the DICOM SEG",
            reason="uneven_slices",
        )
    return line


def _half_gap(places: Array, end: int) -> float:
    gaps = np.diff(places)
    return float(gaps[end]) / 2


def _count(height: float, narrowest: float) -> int:
    """How many new slices fill the height, within the limits.

    No step is wider than the narrowest gap or extent, so that each old slice contains the centre of
    a new one: a thin end slice may represent less than any gap.
    """
    count = math.ceil(height / max(narrowest, FINEST_STEP_MM) - _ROUNDING)
    return min(max(count, 1), MOST_SLICES)
