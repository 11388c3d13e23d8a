"""Small DICOM objects for the reader's tests: complete where it matters, awkward on request."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MR = "1.2.840.10008.5.1.4.1.1.4"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
PATIENT = "SECRET^NAME"


def uid(*what: object) -> str:
    """A UID that depends on what it names only."""
    return str(generate_uid(entropy_srcs=["samihs-tests", *map(str, what)]))


def pattern(index: int = 0, rows: int = 12, columns: int = 10) -> NDArray[np.int16]:
    """HU that differ between pixels and slices, with air in the first row."""
    hu = (np.arange(rows * columns).reshape(rows, columns) + 200 * index) % 1500 - 100
    hu[0] = -1000
    return hu.astype(np.int16)


def ct_image(
    index: int = 0,
    hu: NDArray[np.int16] | None = None,
    *,
    position: Sequence[float] | None = None,
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = (0.5, 0.5),
    thickness: float | None = 5.0,
    **tags: Any,
) -> Dataset:
    """One classic CT image at 5 mm x index; `tags` override, and None deletes."""
    hu = pattern(index) if hu is None else hu
    image = Dataset()
    image.SOPClassUID = CT
    image.SOPInstanceUID = uid("image", index, tags.get("SeriesInstanceUID"), position)
    image.PatientName = PATIENT
    image.PatientID = "SECRET-ID"
    image.StudyInstanceUID = uid("study")
    image.SeriesInstanceUID = uid("series")
    image.SeriesNumber = 2
    image.SeriesDescription = "Head"
    image.InstanceNumber = index + 1
    image.Modality = "CT"
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.FrameOfReferenceUID = uid("frame of reference")
    image.ImagePositionPatient = list((0.0, 0.0, 5.0 * index) if position is None else position)
    image.ImageOrientationPatient = list(orientation)
    image.PixelSpacing = list(spacing)
    image.SliceThickness = thickness
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, -1024, "HU"
    _add_pixels(image, (hu.astype(np.int32) + 1024).astype("<u2"))
    _override(image, tags)
    image.file_meta = _meta(image)
    return image


def _add_pixels(image: Dataset, stored: NDArray[Any]) -> None:
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = stored.shape[-2:]
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 0
    image.PixelData = stored.tobytes()


def _override(image: Dataset, tags: dict[str, Any]) -> None:
    for keyword, given in tags.items():
        if given is None:
            if keyword in image:
                delattr(image, keyword)
        else:
            setattr(image, keyword, given)


def _meta(image: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = image.SOPClassUID
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def save(image: Dataset, path: Path) -> Path:
    """Write one object, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, count: int = 4, **tags: Any) -> Path:
    """`count` slices as IM0, IM1, ...; the folder."""
    for index in range(count):
        save(ct_image(index, **tags), folder / f"IM{index}")
    return folder


def write_bleed(folder: Path, count: int = 6, **tags: Any) -> Path:
    """A series of 64 x 64 pixels with a bleed that the tiny model finds; the folder.

    Brain at 30 HU below a row of air, and in it a bleed around column 36, row 30: widest on slice
    2, where it has 70 HU, and narrower and darker on two slices to each side.
    """
    rows, columns = np.mgrid[:64, :64]
    for index in range(count):
        away = abs(index - 2)
        disc = (columns - 36) ** 2 + (rows - 30) ** 2 <= (12 - 2 * away) ** 2
        hu = np.where(disc & (away < 3), 70 - 3 * away, 30).astype(np.int16)
        hu[0] = -1000
        save(ct_image(index, hu, **tags), folder / f"IM{index}")
    return folder


def enhanced_ct(heights: Sequence[float], **tags: Any) -> Dataset:
    """An Enhanced CT image with one frame per height, its own intercept in every frame."""
    image = ct_image(0)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(image, keyword)
    for keyword in ("SliceThickness", "RescaleSlope", "RescaleIntercept", "RescaleType"):
        delattr(image, keyword)
    image.SOPClassUID = ENHANCED_CT
    image.NumberOfFrames = len(heights)
    image.SharedFunctionalGroupsSequence = [_shared()]
    image.PerFrameFunctionalGroupsSequence = [_own(k, z) for k, z in enumerate(heights)]
    stored = [pattern(k).astype(np.int32) + 1024 + k for k in range(len(heights))]
    _add_pixels(image, np.stack(stored).astype("<u2"))
    _override(image, tags)
    image.file_meta = _meta(image)
    return image


def _item(**tags: Any) -> Dataset:
    item = Dataset()
    _override(item, tags)
    return item


def _shared() -> Dataset:
    return _item(
        PlaneOrientationSequence=[_item(ImageOrientationPatient=list(AXIAL))],
        PixelMeasuresSequence=[_item(PixelSpacing=[0.5, 0.5], SliceThickness=3.0)],
        CTImageFrameTypeSequence=[_item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])],
    )


def _own(index: int, height: float) -> Dataset:
    rescale = _item(RescaleSlope=1, RescaleIntercept=-1024 - index, RescaleType="HU")
    return _item(
        PlanePositionSequence=[_item(ImagePositionPatient=[0.0, 0.0, height])],
        PixelValueTransformationSequence=[rescale],
    )


def dicomdir(folder: Path, files: list[list[str]]) -> Path:
    """A DICOMDIR in ``folder`` of the images at these paths, part by part."""
    directory = Dataset()
    directory.DirectoryRecordSequence = []
    for parts in files:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of "..", which is the point
            record.ReferencedFileID = parts
        directory.DirectoryRecordSequence.append(record)
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return save(directory, folder / "DICOMDIR")
