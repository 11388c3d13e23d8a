"""Put a series' frames in order along the normal, and note what is unusual about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.errors import StudyError
from samihs_runtime.geometry import aspect_of, by_place, fit_grid, shear_angle, slice_gaps
from samihs_runtime.series import SlicePlane
from samihs_runtime.wording import counted

from .fields import number
from .files import SourceFile
from .frames import Frame, instance_number
from .judging import Candidate
from .pixels import read_frames

_TILT_WORTH_SAYING = 0.1  # degrees
_HOLE = 1.5  # a gap this many times the usual one and the slices' thickness has missing slices


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames in order, with duplicates at one position together."""

    places: list[list[Frame]]
    """[Z] the frames at each position: one, except for duplicates."""
    planes: list[SlicePlane]
    """[Z] the plane of the first frame at each position."""


def stack(candidate: Candidate) -> Stack:
    """Order along the normal (not by InstanceNumber).

    Frames at one position stay together until their pixels are compared: UIDs would not tell a copy
    from another image, since some exports leave them out or use one for several images.
    """
    frames = candidate.frames
    places = [
        sorted(place, key=lambda k: instance_number(frames[k]))
        for place in by_place(candidate.planes)
    ]
    return Stack(
        places=[[frames[k] for k in place] for place in places],
        planes=[candidate.planes[place[0]] for place in places],
    )


def read_stack(
    places: list[list[Frame]], progress: Callable[[int, int], None] | None
) -> tuple[NDArray[np.int16] | NDArray[np.float32], int]:
    """HU [Z, rows, columns] of a stack, and the number of duplicate slices, which were identical.

    Each file is opened once. Raises StudyError if two different images have the same position.
    """
    jobs: dict[SourceFile, list[tuple[int, Frame]]] = {}
    for index, frames in enumerate(places):
        for frame in frames:
            jobs.setdefault(frame.header.source, []).append((index, frame))
    first = places[0][0].header.dataset
    shape = (len(places), int(first.Rows), int(first.Columns))
    volume: NDArray[np.int16] | NDArray[np.float32] = np.empty(shape, dtype=np.int16)
    filled = np.zeros(len(places), dtype=bool)
    done, total = 0, sum(map(len, places))
    for source, job in jobs.items():
        for (index, _), hu in zip(job, read_frames(source, [f for _, f in job]), strict=True):
            volume = _fitting(volume, hu)
            if filled[index] and not np.array_equal(volume[index], hu.astype(volume.dtype)):
                raise StudyError(
                    f"{source.name}: a second, different image lies at the same place; the series "
                    "mixes phases or reconstructions: keep the files of one of them",
                    reason="mixed_series",
                )
            volume[index] = hu
            filled[index] = True
            done += 1
            if progress is not None:
                progress(done, total)
    return volume, total - len(places)


def _fitting(
    volume: NDArray[np.int16] | NDArray[np.float32], hu: NDArray[np.generic]
) -> NDArray[np.int16] | NDArray[np.float32]:
    """The volume, converted to float32 at the first slice that int16 cannot hold exactly."""
    if volume.dtype == np.float32:
        return volume
    limits = np.iinfo(np.int16)
    if hu.dtype.kind == "i" and limits.min <= int(hu.min()) and int(hu.max()) <= limits.max:
        return volume
    return volume.astype(np.float32)


def geometry_notes(planes: list[SlicePlane], frame: Frame) -> list[str]:
    """Oblong pixels, tilt, uneven gaps, holes: what the user should know about the stack."""
    notes = _oblong(planes[0])
    if len(planes) == 1:
        return notes
    grid = fit_grid(planes)
    if not grid.uniform:
        notes.append(f"uneven stack: {grid.reason}; volumes use each slice's own extent")
    notes += _holes(planes)
    tilt = shear_angle(planes)
    stated = number(frame.place("GantryDetectorTilt"), "GantryDetectorTilt")
    if tilt > _TILT_WORTH_SAYING:
        notes.append(f"gantry tilt of {tilt:.1f} degrees: slices keep their sheared places")
    if stated is not None and abs(abs(stated) - tilt) > 1.0:
        notes.append(
            f"the header states a gantry tilt of {abs(stated):.1f} degrees, the slices' positions "
            f"one of {tilt:.1f}: the positions are followed"
        )
    return notes


def _oblong(plane: SlicePlane) -> list[str]:
    """A note on oblong pixels, since the model is given them resampled."""
    if aspect_of(plane.spacing) == 1:
        return []
    between_rows, between_columns = plane.spacing
    return [
        f"pixels of {between_rows:.3g} mm between rows and {between_columns:.3g} mm between "
        "columns: the model sees them resampled to square ones; masks keep the stored pixels"
    ]


def _holes(planes: list[SlicePlane]) -> list[str]:
    gaps = slice_gaps(planes)
    usual = float(np.median(gaps))
    wide = []
    for k, gap in enumerate(gaps):
        own = max(planes[k].thickness or usual, planes[k + 1].thickness or usual)
        if gap > _HOLE * max(usual, own):
            wide.append(float(gap))
    if not wide:
        return []
    missing = sum(round(gap / usual) - 1 for gap in wide)
    return [
        f"about {counted(missing, 'slice')} missing: {counted(len(wide), 'gap')} of up to "
        f"{max(wide):.2f} mm where {usual:.2f} mm is usual"
    ]
