"""Where pixels lie in the patient: mappings, distances, extents, tilt, and the affine of a grid.

Everything here works on a series' planes (:class:`samihs_runtime.series.SlicePlane`), in ascending
order along the normal unless another is named. Coordinates are LPS as in DICOM, in mm (PS3.3
C.7.6.2), except where RAS is named.

Two distances between slices must not be confused. Under gantry tilt the table moves along the
patient while the planes are inclined, so ``|position[k+1] - position[k]|`` is longer than the
distance between the planes, which is the projection of that difference onto the normal. Volumes
need the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import StudyError
from .series import SlicePlane

Array = NDArray[np.float64]

GRID_TOLERANCE_MM = 0.05
"""How far a slice may lie from its place in an even grid: a tenth of the finest head CT pixel, and
more than the rounding of positions to 0.01 mm that is seen in real headers."""
SAME_PLACE_MM = 0.01
"""Slices closer than this are at the same place: a twentieth of the thinnest CT slices."""
DIRECTION_TOLERANCE = 1e-3
"""How far unit vectors may differ and still count as equal: 0.06 degrees, 0.25 mm over a head.
Headers have six or seven decimals."""
UNKNOWN_THICKNESS_MM = 1.0
"""The thickness assumed for a single slice of unknown thickness, so that its volume in mm^3 is its
area in mm^2; the reader adds a note."""
OBLONG = 1.05
"""From this ratio of its sides on, a pixel counts as oblong. Heads differ in shape by more than
that, and resampling blurs. Square pixels from scanners agree to the last digit."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def is_inside(x: float, y: float, shape: tuple[int, int]) -> bool:
    """Whether a point (x, y) lies on one of the pixels of an image of ``(rows, columns)``.

    A pixel extends half a pixel beyond its centre, and the edge between two belongs to the second:
    -0.5 is inside, ``columns - 0.5`` is not. NaN is never inside.
    """
    rows, columns = shape
    return -0.5 <= x < columns - 0.5 and -0.5 <= y < rows - 0.5


def aspect_of(spacing: tuple[float, float]) -> float:
    """Height of a pixel divided by its width; exactly 1 up to :data:`OBLONG`.

    Args:
        spacing: mm between rows, mm between columns, as in PixelSpacing.
    """
    between_rows, between_columns = spacing
    if max(spacing) <= OBLONG * min(spacing):
        return 1.0
    return between_rows / between_columns


def to_pixel(plane: SlicePlane, point: ArrayLike) -> tuple[float, float, float]:
    """The inverse of :meth:`SlicePlane.to_patient`: ``(x, y, distance)`` of a patient point [3].

    ``x`` and ``y`` are the column and row of the point's projection onto the plane, ``distance`` is
    its distance from the plane along the normal, in mm.
    """
    offset = np.asarray(point, dtype=np.float64) - np.asarray(plane.position)
    x = float(offset @ np.asarray(plane.row_direction)) / plane.spacing[1]
    y = float(offset @ np.asarray(plane.column_direction)) / plane.spacing[0]
    return x, y, float(offset @ plane.normal)


def nearest_slice(planes: Sequence[SlicePlane], point: ArrayLike) -> tuple[int, float, float]:
    """The slice nearest to a patient point [3], and the pixel there: ``(index, x, y)``."""
    feet = [to_pixel(plane, point) for plane in planes]
    index = min(range(len(feet)), key=lambda k: abs(feet[k][2]))
    return index, feet[index][0], feet[index][1]


def along_normal(planes: Sequence[SlicePlane]) -> Array:
    """Each plane's position [Z] along the first plane's normal, mm."""
    positions = np.array([plane.position for plane in planes], dtype=np.float64)
    return np.asarray(positions @ planes[0].normal, dtype=np.float64)


def slice_gaps(planes: Sequence[SlicePlane]) -> Array:
    """Distances [Z-1] between neighbouring planes along the normal, mm."""
    return np.diff(along_normal(planes))


def by_place(planes: Sequence[SlicePlane]) -> list[list[int]]:
    """Indices of the planes at each place, ascending along the normal; the planes in any order.

    A place has several if images were copied, or taken again there.
    """
    heights = along_normal(planes)
    places: list[list[int]] = []
    last = -np.inf
    for index in map(int, np.argsort(heights, kind="stable")):
        if heights[index] - last > SAME_PLACE_MM:
            places.append([])
            last = heights[index]
        places[-1].append(index)
    return places


def slice_extents(planes: Sequence[SlicePlane]) -> Array:
    """The length along the normal [Z] that each slice represents, mm: area x extent is its volume.

    Half the distance to each neighbour; at an open end half the slice's own thickness, or half its
    only gap if the thickness is unknown. A single slice represents its own thickness
    (:data:`UNKNOWN_THICKNESS_MM` if unknown).
    """
    if len(planes) == 1:
        return np.array([planes[0].thickness or UNKNOWN_THICKNESS_MM])
    gaps = slice_gaps(planes)
    first = planes[0].thickness or gaps[0]
    last = planes[-1].thickness or gaps[-1]
    around = np.concatenate([[first], gaps, [last]])  # [Z+1]
    return np.asarray((around[:-1] + around[1:]) / 2)


def shear_angle(planes: Sequence[SlicePlane]) -> float:
    """Angle in degrees between the stack's direction and its normal: the gantry tilt, unsigned.

    0 for a single slice, and for an oblique stack whose slices lie directly above each other.
    """
    if len(planes) == 1:
        return 0.0
    step = np.subtract(planes[-1].position, planes[0].position)
    up = float(step @ planes[0].normal)
    aside = float(np.linalg.norm(step - up * planes[0].normal))
    return float(np.degrees(np.arctan2(aside, abs(up))))


@dataclass(frozen=True, eq=False)
class Grid:
    """Whether a stack is one even, possibly sheared, grid."""

    uniform: bool
    reason: str
    """Why it is not; empty if it is."""
    step: Array
    """[3] from one slice's first pixel to the next one's, mm, LPS; the mean if not uniform."""


def fit_grid(planes: Sequence[SlicePlane]) -> Grid:
    """Fit an even grid through the planes; a single slice is one (its step is its thickness)."""
    if len(planes) == 1:
        return Grid(True, "", planes[0].normal * float(slice_extents(planes)[0]))
    positions = np.array([plane.position for plane in planes])
    step = (positions[-1] - positions[0]) / (len(planes) - 1)
    return Grid(*_evenness(planes, positions, step), step)


def _evenness(planes: Sequence[SlicePlane], positions: Array, step: Array) -> tuple[bool, str]:
    gaps = slice_gaps(planes)
    off = positions - (positions[0] + np.arange(len(planes))[:, None] * step)  # [Z, 3]
    off_normal = np.abs(off @ planes[0].normal)
    if off_normal.max() > GRID_TOLERANCE_MM:
        return False, f"slice distances vary: {describe_gaps(gaps)}"
    if np.linalg.norm(off, axis=1).max() > GRID_TOLERANCE_MM:
        return False, "slices are shifted against each other within their planes"
    if any(not np.allclose(p.spacing, planes[0].spacing, rtol=1e-4) for p in planes):
        return False, "slices differ in pixel spacing"
    if any(not same_orientation(plane, planes[0]) for plane in planes):
        return False, "slices differ in orientation"
    return True, ""


def same_orientation(a: SlicePlane, b: SlicePlane) -> bool:
    """Whether the rows and the columns of two planes point the same way."""
    return bool(
        np.allclose(a.row_direction, b.row_direction, atol=DIRECTION_TOLERANCE)
        and np.allclose(a.column_direction, b.column_direction, atol=DIRECTION_TOLERANCE)
    )


def describe_gaps(gaps: Array) -> str:
    """Distances in words, in their order: ``13 x 4.00 mm, 1 x 1.08 mm, 13 x 7.00 mm``."""
    runs: list[tuple[float, int]] = []
    for gap in gaps:
        if runs and abs(runs[-1][0] - gap) <= GRID_TOLERANCE_MM:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((float(gap), 1))
    shown = ", ".join(f"{count} x {gap:.2f} mm" for gap, count in runs[:6])
    return shown + (f", and {len(runs) - 6} more changes" if len(runs) > 6 else "")


def affine_lps(planes: Sequence[SlicePlane]) -> Array:
    """[4, 4] from ``(column, row, slice, 1)`` to LPS mm; sheared if the gantry was tilted.

    Raises StudyError with the reason if the slices are not an even grid: no affine exists then.
    """
    grid = fit_grid(planes)
    if not grid.uniform:
        raise StudyError(f"no single affine describes this series: {grid.reason}")
    return affine_of(planes[0], grid.step)


def affine_ras(planes: Sequence[SlicePlane]) -> Array:
    """The same to RAS mm, as in NIfTI (nifti1.h, METHOD 3); for data [columns, rows, Z]."""
    return to_ras(affine_lps(planes))


def affine_of(first: SlicePlane, step: Array) -> Array:
    """[4, 4] to LPS mm for a grid of slices like ``first``, each offset by ``step`` [3] (mm)."""
    affine = np.eye(4)
    affine[:3, 0] = np.asarray(first.row_direction) * first.spacing[1]
    affine[:3, 1] = np.asarray(first.column_direction) * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return affine


def to_ras(affine: Array) -> Array:
    """Convert an affine [4, 4] to LPS mm into one to RAS mm."""
    return np.asarray(_LPS_TO_RAS @ affine)
