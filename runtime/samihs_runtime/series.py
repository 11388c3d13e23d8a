"""A CT series once it has been read: Hounsfield units, and where each pixel lies.

Conventions, used by every module:

- Arrays are ``[Z, rows, columns]``. Slices ascend along the normal (``row_direction x
  column_direction``), whatever InstanceNumber says.
- A point ``(x, y)`` is ``(column, row)``, zero-based, pixel centres at integers: ``(0, 0)`` is the
  centre of the top left stored pixel, whose position is ImagePositionPatient.
- Patient coordinates are DICOM's LPS, in mm (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.lossy import LossyCompression


@dataclass(frozen=True)
class SlicePlane:
    """Where one slice lies in the patient. Source: Image Plane module, PS3.3 C.7.6.2."""

    position: tuple[float, float, float]
    """ImagePositionPatient: centre of the first stored pixel, mm, LPS."""
    row_direction: tuple[float, float, float]
    """Unit vector of increasing column index (first three of ImageOrientationPatient)."""
    column_direction: tuple[float, float, float]
    """Unit vector of increasing row index (last three of ImageOrientationPatient)."""
    spacing: tuple[float, float]
    """PixelSpacing: mm between rows, mm between columns, in that order."""
    thickness: float | None
    """SliceThickness in mm, or None if the file does not state it."""

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit normal [3]: row_direction x column_direction."""
        normal = np.cross(self.row_direction, self.column_direction)
        return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)

    @property
    def pixel_area(self) -> float:
        """Area of one pixel, mm^2."""
        return self.spacing[0] * self.spacing[1]

    def to_patient(self, x: float, y: float) -> NDArray[np.float64]:
        """Patient coordinates [3], mm, of pixel (column x, row y); PS3.3 equation C.7.6.2.1-1."""
        row, column = np.asarray(self.row_direction), np.asarray(self.column_direction)
        offset = row * (self.spacing[1] * x) + column * (self.spacing[0] * y)
        return np.asarray(self.position, dtype=np.float64) + offset


@dataclass(frozen=True, eq=False)
class SourceSlice:
    """The DICOM object (or one frame of it) that a slice was read from."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    frame: int | None
    """One-based frame number in a multi-frame object, None in a single-frame one."""
    header: Any
    """pydicom.Dataset without pixel data. Contains the patient's identity: for writers only."""
    lossy: LossyCompression | None = None
    """How its pixels lost precision, or may have done; None if they did not."""


@dataclass(frozen=True, eq=False)
class CTSeries:
    """One readable CT series, in memory."""

    hu: NDArray[np.int16] | NDArray[np.float32]
    """Hounsfield units [Z, rows, columns]; int16 if the rescale is integral, otherwise float32."""
    planes: tuple[SlicePlane, ...]
    """Z planes, ascending along the normal."""
    extents_mm: NDArray[np.float64]
    """[Z] the length along the normal that each slice represents: half the distance to each
    neighbour, half the slice's own thickness at an open end. Volume = sum of area x extent."""
    sources: tuple[SourceSlice, ...]
    """Z sources, in the same order."""
    series_uid: str
    description: str
    """SeriesDescription, without anything that identifies the patient (``identity.py``)."""
    notes: tuple[str, ...] = field(default=())
    """What the user should know about the series: lossy compression, uneven gaps, tilt, ...;
    without anything that identifies the patient."""

    def __len__(self) -> int:
        return len(self.planes)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of each slice."""
        return int(self.hu.shape[1]), int(self.hu.shape[2])
