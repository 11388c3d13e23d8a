"""Group frames into series, and judge whether each can be read as axial CT in HU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from samihs_runtime.geometry import by_place, same_orientation
from samihs_runtime.series import SlicePlane

from .fields import integer, items, strings, text, value
from .frames import Frame, UnreadableError, frames_of, plane_of, rescale_of
from .headers import CT_CLASSES, CT_IMAGE, Header
from .kernels import Sharpness, sharpness
from .limits import MAX_MATRIX, MAX_PIXELS

AXIAL_COSINE = 0.7
"""Between the normal and the body's axis: axial up to 45 degrees; gantries tilt by at most 30."""
_NEEDED_TO_DECODE = (  # Image Pixel module, PS3.3 C.7.6.3: all type 1, and none can be guessed
    *("SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
)
_MAPS = {  # ImageType values of derived maps, PS3.3 C.8.15.2.1.4 and C.8.2.1.1.4
    *("PERFUSION", "RCBF", "RCBV", "CBF", "CBV", "MTT", "TTP", "TMAX", "TTD", "PERMEABILITY"),
    *("IODINE", "MAT_SPECIFIC", "MAT_FRACTIONAL", "MAT_REMOVED", "MAT_MODIFIED"),
    *("EFF_ATOMIC_NUM", "ELECTRON_DENSITY", "VMI", "RHO_Z"),
}


@dataclass(frozen=True)
class Verdict:
    """What a series is, and whether it can be read."""

    kind: str
    """axial, coronal, sagittal, localizer, secondary capture, map, damaged, or the modality."""
    readable: bool
    """Whether it can be read at all, on request."""
    reason: str
    """Why it is not eligible or, if it is, what speaks for it."""

    @property
    def eligible(self) -> bool:
        """Whether it may be chosen without being asked for."""
        return self.readable and self.kind == "axial"


@dataclass(frozen=True, eq=False)
class Candidate:
    """The frames of one series that belong together, judged."""

    study_uid: str
    uid: str
    frames: list[Frame]
    planes: list[SlicePlane]
    """One per frame, in the same order; empty if the series is not readable."""
    images: int
    """Frames, with copies and images taken again at the same place."""
    slices: int
    """Places that have an image; all images if the series is not readable."""
    verdict: Verdict

    @property
    def first(self) -> Any:
        """Header of the first frame."""
        return self.frames[0].header.dataset

    @property
    def number(self) -> int | None:
        return integer(self.first, "SeriesNumber")

    @property
    def description(self) -> str:
        return text(self.first, "SeriesDescription")

    @property
    def original(self) -> bool:
        return self.frames[0].image_type[:1] == ("ORIGINAL",)

    @property
    def enhanced_by_contrast(self) -> bool:
        """Whether the header records a contrast agent (PS3.3 C.7.6.4)."""
        agent = text(self.first, "ContrastBolusAgent").upper()
        return agent not in ("", "NO", "NONE", "N") or bool(
            items(self.first, "ContrastBolusAgentSequence")
        )

    @property
    def sharpness(self) -> Sharpness:
        place = self.frames[0].place("ConvolutionKernel")
        first = strings(place, "ConvolutionKernel")[:1]  # others give the strength of a filter
        return sharpness("".join(first), self.description)


def candidates(headers: Iterable[Header]) -> list[Candidate]:
    """All series, judged. Images that cannot belong to the same stack (a localizer or a screenshot
    filed under the scan's series) become a separate candidate with the same UID."""
    groups: dict[tuple[object, ...], list[Header]] = {}
    for header in headers:
        groups.setdefault(_key(header), []).append(header)
    return [_candidate(members) for members in groups.values()]


def _key(header: Header) -> tuple[object, ...]:
    dataset = header.dataset
    uids = (text(dataset, "StudyInstanceUID"), text(dataset, "SeriesInstanceUID"))
    kinds = (text(dataset, "Modality"), text(dataset, "SOPClassUID"))
    if kinds[1] not in CT_CLASSES:
        return (*uids, *kinds)
    localizer = "LOCALIZER" in Frame(header, None).image_type
    return (*uids, *kinds, localizer, integer(dataset, "SamplesPerPixel"))


def _candidate(members: list[Header]) -> Candidate:
    frames = [frame for header in members for frame in frames_of(header)]
    shown = frames or [Frame(members[0], None)]
    dataset = members[0].dataset
    uids = (text(dataset, "StudyInstanceUID"), text(dataset, "SeriesInstanceUID"))
    images = len(frames)
    try:
        _check_object(members, shown)
        planes = _checked_planes(frames)
        verdict = _orientation(planes)
    except _RefusedError as refused:
        verdict = Verdict(refused.kind, False, str(refused))
        return Candidate(*uids, shown, [], images, images, verdict)
    return Candidate(*uids, shown, planes, images, len(by_place(planes)), verdict)


class _RefusedError(Exception):
    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def _check_object(members: list[Header], frames: list[Frame]) -> None:
    """Check what the objects are, before their positions."""
    dataset = members[0].dataset
    modality = text(dataset, "Modality")[:16] or "unknown"
    if modality != "CT":
        raise _RefusedError(modality, f"modality {modality}, not CT")
    if text(dataset, "SOPClassUID") not in CT_CLASSES:
        raise _RefusedError("secondary capture", "a screenshot or result labelled CT, no CT image")
    if "LOCALIZER" in frames[0].image_type:
        raise _RefusedError("localizer", "a localizer (scout view)")
    for frame in frames:
        if maps := _MAPS.intersection(frame.image_type[2:]):
            raise _RefusedError("map", f"its values are not HU ({min(maps).lower()} map)")
    if integer(dataset, "SamplesPerPixel") not in (None, 1):  # missing: see _check_matrix
        raise _RefusedError("secondary capture", "a colour image")
    for member in members:
        _check_matrix(member.dataset)
    if len({(m.dataset.get("Rows"), m.dataset.get("Columns")) for m in members}) > 1:
        raise _RefusedError("damaged", "its slices differ in matrix size")
    if len({text(m.dataset, "FrameOfReferenceUID") for m in members}) > 1:
        raise _RefusedError("damaged", "its slices lie in different frames of reference")
    pixels = (integer(dataset, "Rows") or 0) * (integer(dataset, "Columns") or 0) * len(frames)
    if pixels > MAX_PIXELS:
        raise _RefusedError("CT", f"{pixels:,} pixels, the limit is {MAX_PIXELS:,}")


def _check_matrix(dataset: Any) -> None:
    for keyword in ("Rows", "Columns"):
        size = integer(dataset, keyword)
        if size is None or not 1 <= size <= MAX_MATRIX:
            raise _RefusedError("damaged", f"{keyword} is not within 1 to {MAX_MATRIX}")
    for keyword in _NEEDED_TO_DECODE:
        if value(dataset, keyword) is None:
            raise _RefusedError("damaged", f"{keyword} is missing")
    if integer(dataset, "BitsAllocated") not in (8, 16, 32):
        raise _RefusedError("damaged", "BitsAllocated is not 8, 16 or 32")
    _check_stored_bits(dataset)
    count = integer(dataset, "NumberOfFrames") or 1
    if text(dataset, "SOPClassUID") == CT_IMAGE:
        if count > 1:
            raise _RefusedError(
                "damaged", "a classic CT image with several frames: none has a position"
            )
    elif count != (groups := len(items(dataset, "PerFrameFunctionalGroupsSequence"))):
        raise _RefusedError("damaged", f"{count} frames, but functional groups for {groups}")


def _check_stored_bits(dataset: Any) -> None:
    """The stored bits must be the lowest ones (PS3.5 8.1.1), or else the values' top bits would be
    dropped. Too low a HighBit loses nothing and occurs in old archives."""
    stored, high = integer(dataset, "BitsStored") or 0, integer(dataset, "HighBit")
    if not 1 <= stored <= dataset.BitsAllocated:
        raise _RefusedError("damaged", f"BitsStored is not within 1 to {dataset.BitsAllocated}")
    if high is not None and high >= stored:
        raise _RefusedError(
            "damaged",
            f"HighBit is {high}, expected {stored - 1} for {stored} bits stored: convert its "
            "values to the lowest bits first",
        )


def _checked_planes(frames: list[Frame]) -> list[SlicePlane]:
    for frame in frames:
        try:
            rescale_of(frame)
        except UnreadableError as error:
            raise _RefusedError("map", str(error)) from error
    try:
        return [plane_of(frame) for frame in frames]
    except UnreadableError as error:
        raise _RefusedError("damaged", str(error)) from error


def _orientation(planes: list[SlicePlane]) -> Verdict:
    if any(not same_orientation(plane, planes[0]) for plane in planes):
        raise _RefusedError("mixed orientations", "its slices lie in different orientations")
    kind = ("sagittal", "coronal", "axial")[int(abs(planes[0].normal).argmax())]
    if abs(planes[0].normal[2]) >= AXIAL_COSINE:
        return Verdict("axial", True, "axial CT in HU")
    if kind == "axial":
        kind = "oblique"
    return Verdict(kind, True, f"{kind}, not axial")
