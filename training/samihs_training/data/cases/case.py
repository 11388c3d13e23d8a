"""A case of a data set: its files, and what is read from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from samihs_training.data.cases.labels import Labels

Layout = Literal["bcihm", "instance", "nnunet", "pairs", "dicom", "pictures"]
LAYOUTS: tuple[Layout, ...] = ("bcihm", "instance", "nnunet", "pairs", "dicom", "pictures")
PAIRED_FOLDERS: Mapping[str, tuple[str, str]] = {
    "bcihm": ("ct_scans", "masks"),
    "instance": ("data", "label"),
    "nnunet": ("imagesTr", "labelsTr"),
}
"""Layouts that keep scans and masks of the same names in two folders."""
SCAN_ENDS: Mapping[str, str] = {"nnunet": "_0000"}
"""What follows a case's name in its scan's: nnU-Net's number of a channel; CT has only one."""
PLACE_TOLERANCE_MM = 0.1
"""How far a mask's voxel may lie from the scan's: headers hold float32, and programs round
quaternions differently; a fifth of a head CT's pixel."""
NIFTI = (".nii.gz", ".nii")
"""Endings of NIfTI files, in lower or upper case."""


def nifti_stem(path: Path) -> str:
    """A file's name without the ending of NIfTI files."""
    ending = next((each for each in NIFTI if path.name.lower().endswith(each)), "")
    return path.name[: len(path.name) - len(ending)]


@dataclass(frozen=True)
class CaseFiles:
    """One case to be read: a scan and its mask."""

    name: str
    image: Path | None
    """Scan, or folder of a DICOM series; None: there is a mask without a scan."""
    mask: Path | None
    """Mask; None: there is a scan without a mask."""
    layout: Layout
    patient_id: str = ""
    """DICOM's PatientID, to be compared only, never written; empty if the files tell none."""
    labels: Labels = ()
    """Those of the mask that are hemorrhage; empty: it has no others."""

    def files(self) -> list[Path]:
        """Every file that is read."""
        return [path for path in (self.image, self.mask) if path is not None]


def patients_of(cases: Iterable[CaseFiles]) -> dict[str, str]:
    """Case -> patient, who goes by the name of the first of these cases that is theirs.

    Cases are of one patient if they share a PatientID. Without one each case is a patient, and also
    if all share a single one, as some programs de-identify.
    """
    listed = list(cases)
    ids = {case.patient_id for case in listed}
    first: dict[str, str] = {}
    return {
        case.name: first.setdefault(case.patient_id, case.name)
        if case.patient_id and len(ids) > 1
        else case.name
        for case in listed
    }


@dataclass(frozen=True, eq=False)
class Volume:
    """One case as stored, before any check of its values."""

    hu: NDArray[np.float32]
    """[Z, rows, columns]; what the file says, HU or not."""
    labels: NDArray[np.float32]
    """Same shape; 0 and 1 if all is well."""
    spacing_mm: tuple[float, float]
    """Between rows, between columns."""
    extents_mm: NDArray[np.float64]
    """[Z] extent of each slice along the normal."""
    seen: frozenset[str] = frozenset()
    """Those of the case's :attr:`CaseFiles.labels` that its mask has."""

    @property
    def volume_ml(self) -> float:
        """Hemorrhage: area x extent, summed."""
        areas = (self.labels > 0).sum((1, 2)) * self.spacing_mm[0] * self.spacing_mm[1]
        return float(areas @ self.extents_mm) / 1000
