"""A future slice: a classic CT image, or one frame of an Enhanced (multi-frame) one.

Enhanced objects keep attributes that may differ between frames in functional groups: these are
looked up per frame first, then shared (PS3.3 C.7.6.16). Classic objects keep them at the top level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from samihs_runtime.series import SlicePlane

from .fields import integer, items, number, numbers, text, words
from .headers import CT_CLASSES, Header

_MACROS = {  # functional group that holds the attribute, PS3.3 C.7.6.16.2 and C.8.15.3
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "FrameType": "CTImageFrameTypeSequence",
    "ConvolutionKernel": "CTReconstructionSequence",
    "GantryDetectorTilt": "CTGeometrySequence",
}
_UNIT_TOLERANCE = 1e-2  # for length and dot product of directions: headers are rounded


class UnreadableError(Exception):
    """Why a frame cannot be placed or scaled; becomes the reason given for its series."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame, and where to look up its attributes."""

    header: Header
    number: int | None
    """One-based in a multi-frame object, None in a classic one."""
    groups: tuple[Any, ...] = ()
    """Per-frame and shared functional groups, in the order of precedence."""

    def place(self, keyword: str) -> Any:
        """The data set that holds an attribute of this frame."""
        for group in self.groups:
            for item in items(group, _MACROS[keyword])[:1]:
                if keyword in item:
                    return item
        return self.header.dataset

    @property
    def image_type(self) -> tuple[str, ...]:
        """FrameType if there is one, otherwise ImageType; upper case."""
        own = words(self.place("FrameType"), "FrameType") if self.groups else ()
        return own or words(self.header.dataset, "ImageType")


def frames_of(header: Header) -> list[Frame]:
    """The one frame of a classic object, or all of an Enhanced one (none if it has no groups)."""
    dataset = header.dataset
    if text(dataset, "SOPClassUID") not in CT_CLASSES[1:]:
        return [Frame(header, None)]
    shared = items(dataset, "SharedFunctionalGroupsSequence")[:1]
    per_frame = items(dataset, "PerFrameFunctionalGroupsSequence")
    return [Frame(header, k + 1, (group, *shared)) for k, group in enumerate(per_frame)]


def plane_of(frame: Frame) -> SlicePlane:
    """The frame's plane; UnreadableError if the header does not define it."""
    position = _triple(frame, "ImagePositionPatient", 3)
    orientation = np.array(_triple(frame, "ImageOrientationPatient", 6))
    spacing = _triple(frame, "PixelSpacing", 2)
    if min(spacing) <= 0:
        raise UnreadableError("PixelSpacing is not positive")
    lengths = np.linalg.norm(orientation.reshape(2, 3), axis=1)
    if np.abs(lengths - 1).max() > _UNIT_TOLERANCE:
        raise UnreadableError("ImageOrientationPatient holds no unit vectors")
    row, column = orientation[:3] / lengths[0], orientation[3:] / lengths[1]
    if abs(row @ column) > _UNIT_TOLERANCE:
        raise UnreadableError("ImageOrientationPatient holds rows not at right angles to columns")
    return SlicePlane(
        position=(position[0], position[1], position[2]),
        row_direction=(float(row[0]), float(row[1]), float(row[2])),
        column_direction=(float(column[0]), float(column[1]), float(column[2])),
        spacing=(spacing[0], spacing[1]),
        thickness=_positive(frame, "SliceThickness"),
    )


def rescale_of(frame: Frame) -> tuple[float, float]:
    """Slope and intercept to HU; UnreadableError if the values are not HU (PS3.3 C.11.1)."""
    kind = text(frame.place("RescaleType"), "RescaleType").upper()
    if kind not in ("", "HU"):  # empty means HU in a CT image, PS3.3 C.8.2.1
        raise UnreadableError(f"its values are not HU (RescaleType {kind[:16]})")
    slope = number(frame.place("RescaleSlope"), "RescaleSlope")
    intercept = number(frame.place("RescaleIntercept"), "RescaleIntercept")
    if slope is None or intercept is None:
        raise UnreadableError("no RescaleSlope and RescaleIntercept: its values cannot become HU")
    if slope <= 0:
        raise UnreadableError(f"RescaleSlope is {slope:g}, a positive number was expected")
    return slope, intercept


def spacing_between_slices(frame: Frame) -> float | None:
    """SpacingBetweenSlices in mm, if it is positive."""
    return _positive(frame, "SpacingBetweenSlices")


def instance_number(frame: Frame) -> int:
    """InstanceNumber, 0 if missing; used only to make the order among equals definite."""
    return integer(frame.header.dataset, "InstanceNumber") or 0


def _triple(frame: Frame, keyword: str, count: int) -> tuple[float, ...]:
    found = numbers(frame.place(keyword), keyword, count)
    if found is None:
        raise UnreadableError(f"{keyword} is missing or malformed")
    return found


def _positive(frame: Frame, keyword: str) -> float | None:
    found = number(frame.place(keyword), keyword)
    return found if found is not None and found > 0 else None
