"""A DICOM series through the runtime's reader, and its DICOM SEG through highdicom."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.errors import DataError, StudyError
from samihs_runtime.series import CTSeries, SlicePlane
from samihs_runtime.study import read_files
from samihs_runtime.study.judging import AXIAL_COSINE
from samihs_training.data.cases.case import PLACE_TOLERANCE_MM, Volume
from samihs_training.data.cases.dicom_cases import DicomCase
from samihs_training.data.cases.labels import Labels
from samihs_training.data.cases.segments import hemorrhage_segments, labels_seen


def read_dicom_case(case: DicomCase) -> Volume:
    """A CT series, and the union of those segments that are hemorrhage of the SEG drawn on it.

    Frames are matched by the images (of multi-frame CT: the frames) that they refer to, so slices
    may be unevenly spaced.

    Raises:
        DataError: the CT cannot be read or is not axial, several SEG refer to it, or the SEG does
            not lie where its images lie, or does not tell which segments are hemorrhage.
    """
    assert case.image is not None
    if len(case.segmentations) != 1:
        named = ", ".join(path.name for path in case.segmentations)
        raise DataError(
            f"{case.image}: {len(case.segmentations)} DICOM SEG objects refer to one series "
            f"({named}); expected one: keep the one that is to be learned"
        )
    try:
        series = read_files(case.slices, series=case.series_uid or None)
    except StudyError as error:
        raise DataError(f"{case.image}: {error}") from error
    if abs(series.planes[0].normal[2]) < AXIAL_COSINE:
        raise DataError(f"{case.image}: the series of its SEG is not axial; expected axial CT")
    path = case.segmentations[0]
    segmentation, frames = _read_seg(path, case.labels)
    return Volume(
        hu=series.hu.astype(np.float32),
        labels=_labels(series, segmentation, frames, path),
        spacing_mm=series.planes[0].spacing,
        extents_mm=series.extents_mm,
        seen=labels_seen(segmentation.SegmentSequence, case.labels),
    )


def _labels(
    series: CTSeries, segmentation: Any, frames: NDArray[np.bool_], path: Path
) -> NDArray[np.float32]:
    """[Z, rows, columns] of 0 and 1."""
    if frames.shape[1:] != series.shape:
        raise DataError(f"{path}: frames of {frames.shape[1:]}, but the series has {series.shape}")
    known = {
        (source.sop_instance_uid, source.frame): index
        for index, source in enumerate(series.sources)
    }
    labels = np.zeros(series.hu.shape, np.float32)
    for frame, about in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        uid, number = _source_of(about, path)
        index = known.get((uid, number), known.get((uid, None)))
        if index is None:
            raise DataError(f"{path}: refers to an image that its series does not have")
        _check_place(segmentation, about, series, index, path)
        labels[index] = np.maximum(labels[index], frame)
    return labels


def _read_seg(path: Path, hemorrhage: Labels) -> tuple[Any, NDArray[np.bool_]]:
    """A SEG, and where its frames mark hemorrhage: bool [frames, rows, columns].

    A FRACTIONAL one marks what is occupied by more than half, or more likely than not.
    """
    import highdicom as hd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # flaws of others' headers
        try:
            segmentation: Any = hd.seg.segread(path)
            pixels = segmentation.pixel_array
            kind = str(segmentation.SegmentationType)
            full = int(segmentation.MaximumFractionalValue) if kind == "FRACTIONAL" else 1
            shown = None if kind == "LABELMAP" else _segments_shown(segmentation)
        except Exception as error:  # highdicom and pydicom raise many kinds
            raise DataError(f"{path}: not readable as DICOM SEG ({error})") from error
    frames = pixels[None] if pixels.ndim == 2 else pixels
    chosen = hemorrhage_segments(segmentation.SegmentSequence, hemorrhage, path)
    if shown is None:  # each pixel is the number of its segment
        return segmentation, np.isin(frames, list(chosen))
    marked = np.asarray(frames > full // 2)
    marked[~np.isin(shown, list(chosen))] = False
    return segmentation, marked


def _segments_shown(segmentation: Any) -> list[int]:
    """Number of the segment that each frame shows."""
    groups = segmentation.PerFrameFunctionalGroupsSequence
    identified = (_group(segmentation, each, "SegmentIdentificationSequence") for each in groups)
    return [int(each.ReferencedSegmentNumber) for each in identified]


def _check_place(segmentation: Any, frame: Any, series: CTSeries, index: int, path: Path) -> None:
    """Raise a DataError if a frame's corners lie elsewhere than its image's, or in another order.

    A program that turned the scan around before it was drawn on may refer to the right image with
    rows in the wrong order.
    """
    place = _group(segmentation, frame, "PlanePositionSequence")
    turn = _group(segmentation, frame, "PlaneOrientationSequence")
    pixels = _group(segmentation, frame, "PixelMeasuresSequence")
    if place is None or turn is None or pixels is None:
        return
    x, y, z = (float(each) for each in place.ImagePositionPatient)
    a, b, c, d, e, f = (float(each) for each in turn.ImageOrientationPatient)
    down, across = (float(each) for each in pixels.PixelSpacing)
    drawn = SlicePlane((x, y, z), (a, b, c), (d, e, f), (down, across), thickness=None)
    rows, columns = series.shape
    off = max(
        float(np.linalg.norm(drawn.to_patient(*at) - series.planes[index].to_patient(*at)))
        for at in ((0, 0), (columns - 1, 0), (0, rows - 1))
    )
    if not off <= PLACE_TOLERANCE_MM:
        raise DataError(
            f"{path}: a frame lies {off:.2f} mm from the image that it refers to; expected at most "
            f"{PLACE_TOLERANCE_MM:g} mm: export it on the series' own grid"
        )


def _group(segmentation: Any, frame: Any, keyword: str) -> Any:
    """The item of a functional group, in the frame or shared by all; None if there is none."""
    shared = segmentation.get("SharedFunctionalGroupsSequence") or [{}]
    items = frame.get(keyword) or shared[0].get(keyword)
    return items[0] if items else None


def _source_of(frame: Any, path: Path) -> tuple[str, int | None]:
    """SOP instance UID of the image that a frame was drawn on, and the frame in it if it has many.

    A SEG may also place its frames by their position in space alone; this is not supported.
    """
    try:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        number = source.get("ReferencedFrameNumber")
        return str(source.ReferencedSOPInstanceUID), None if number is None else int(number)
    except (AttributeError, IndexError, TypeError) as error:
        raise DataError(
            f"{path}: a frame names no image that it was drawn on; expected one in "
            "DerivationImageSequence, SourceImageSequence"
        ) from error
