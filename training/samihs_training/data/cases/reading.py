"""One case as arrays, from files of any layout."""

from __future__ import annotations

from samihs_runtime.errors import DataError
from samihs_training.data.cases.case import CaseFiles, Volume
from samihs_training.data.cases.dicom import read_dicom_case
from samihs_training.data.cases.nifti import read_nifti_pair
from samihs_training.data.cases.pictures import PictureCase, read_picture_case


def read_case(case: CaseFiles) -> Volume:
    """Read scan and mask of one case.

    Raises:
        DataError: one is missing or unreadable, or their geometries differ; names the file.
    """
    if case.image is None:
        raise DataError(f"{case.mask}: a mask without a scan: expected one named {case.name}")
    if case.mask is None:
        raise DataError(f"{case.image}: a scan without a mask: expected one named {case.name}")
    if case.layout == "dicom":
        return read_dicom_case(case.image)
    if case.layout == "pictures":
        assert isinstance(case, PictureCase)
        return read_picture_case(case)
    return read_nifti_pair(case.image, case.mask)
