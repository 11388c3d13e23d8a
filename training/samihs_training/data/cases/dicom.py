"""A DICOM series through the runtime's reader, and its DICOM SEG through highdicom."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.errors import DataError, StudyError
from samihs_runtime.series import CTSeries
from samihs_runtime.study import read_study
from samihs_training.data.cases.case import Volume

SEG_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"


def read_dicom_case(folder: Path) -> Volume:
    """The CT series of a folder, and the union of all segments of the SEG beside it.

    Frames are matched by the SOP instances that they refer to, so slices may be unevenly spaced.

    Raises:
        DataError: no readable CT, no SEG, several of them, or one of another series.
    """
    try:
        series = read_study(folder)
    except StudyError as error:
        raise DataError(f"{folder}: {error}") from error
    return Volume(
        hu=series.hu.astype(np.float32),
        labels=_labels(series, _segmentation(folder)),
        spacing_mm=series.planes[0].spacing,
        extents_mm=series.extents_mm,
    )


def _segmentation(folder: Path) -> Path:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    found = []
    for path in sorted(folder.iterdir()):
        try:
            header = dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
        except (InvalidDicomError, OSError):
            continue
        if header.get("SOPClassUID") == SEG_STORAGE:
            found.append(path)
    if len(found) != 1:
        raise DataError(
            f"{folder}: {len(found)} DICOM SEG objects; expected one, in the folder of its series"
        )
    return found[0]


def _labels(series: CTSeries, path: Path) -> NDArray[np.float32]:
    """[Z, rows, columns] of 0 and 1."""
    import highdicom as hd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # flaws of others' headers
        try:
            segmentation: Any = hd.seg.segread(path)
            pixels = segmentation.pixel_array
        except Exception as error:  # highdicom and pydicom raise many kinds
            raise DataError(f"{path}: not readable as DICOM SEG ({error})") from error
    known = {source.sop_instance_uid: index for index, source in enumerate(series.sources)}
    labels = np.zeros(series.hu.shape, np.float32)
    frames = pixels[None] if pixels.ndim == 2 else pixels
    if frames.shape[1:] != series.shape:
        raise DataError(f"{path}: frames of {frames.shape[1:]}, but the series has {series.shape}")
    for frame, about in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        index = known.get(_source_of(about, path))
        if index is None:
            raise DataError(f"{path}: refers to an image that the series beside it does not have")
        labels[index] = np.maximum(labels[index], frame > 0)
    return labels


def _source_of(frame: Any, path: Path) -> str:
    """SOP instance UID of the image that a frame was drawn on.

    A SEG may also place its frames by their position in space alone; this is not supported.
    """
    try:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        return str(source.ReferencedSOPInstanceUID)
    except (AttributeError, IndexError) as error:
        raise DataError(
            f"{path}: a frame names no image that it was drawn on; expected one in "
            "DerivationImageSequence, SourceImageSequence"
        ) from error
