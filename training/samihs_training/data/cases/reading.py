"""One case as arrays, from files of any layout."""

from __future__ import annotations

from pathlib import Path

from samihs_runtime.errors import DataError
from samihs_training.data.cases.case import (
    PAIRED_FOLDERS,
    SCAN_ENDS,
    CaseFiles,
    Volume,
    nifti_stem,
)
from samihs_training.data.cases.dicom import read_dicom_case
from samihs_training.data.cases.dicom_cases import DicomCase
from samihs_training.data.cases.nifti import read_nifti_pair
from samihs_training.data.cases.pictures import PictureCase, read_picture_case


def read_case(case: CaseFiles) -> Volume:
    """Read scan and mask of one case.

    Raises:
        DataError: one is missing or unreadable, or their geometries differ; names the file.
    """
    if case.image is None:
        wanted = _scan_of(case.mask, case) if case.mask else "one"
        raise DataError(f"{case.mask}: a mask without a scan: expected {wanted}")
    if case.mask is None:
        raise DataError(
            f"{case.image}: a scan without a mask: expected {_mask_of(case.image, case)}"
        )
    if isinstance(case, DicomCase):
        return read_dicom_case(case)
    if isinstance(case, PictureCase):
        return read_picture_case(case)
    return read_nifti_pair(case.image, case.mask, case.labels)


def _scan_of(mask: Path, case: CaseFiles) -> str:
    """The scan that a mask lacks, for a message."""
    if isinstance(case, DicomCase):
        return f"the CT series that it refers to ({case.series_uid or 'it names none'})"
    if case.layout in PAIRED_FOLDERS:
        stem = nifti_stem(mask)
        name = f"{stem}{SCAN_ENDS.get(case.layout, '')}{mask.name.removeprefix(stem)}"
        return f"{PAIRED_FOLDERS[case.layout][0]}/{name}"
    stem = nifti_stem(mask)
    return f"{'image' if stem == 'mask' else stem.removesuffix('_mask')}.nii.gz beside it"


def _mask_of(scan: Path, case: CaseFiles) -> str:
    """The mask that a scan lacks, for a message."""
    if isinstance(case, DicomCase):
        return "a DICOM SEG that refers to one of its series, anywhere in the data set"
    if case.layout in PAIRED_FOLDERS:
        name = f"{case.name}{scan.name.removeprefix(nifti_stem(scan))}"
        return f"{PAIRED_FOLDERS[case.layout][1]}/{name}, all 0 if nothing bleeds"
    stem = nifti_stem(scan)
    name = "mask" if stem == "image" else f"{stem}_mask"
    return f"{name}.nii.gz beside it, all 0 if nothing bleeds"
