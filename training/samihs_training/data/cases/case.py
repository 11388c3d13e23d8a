"""A case of a data set: its files, and what is read from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Layout = Literal["bcihm", "instance", "pairs", "dicom", "pictures"]
LAYOUTS: tuple[Layout, ...] = ("bcihm", "instance", "pairs", "dicom", "pictures")
PAIRED_FOLDERS: Mapping[str, tuple[str, str]] = {
    "bcihm": ("ct_scans", "masks"),
    "instance": ("data", "label"),
}
"""Layouts that keep scans and masks of the same names in two folders."""
NIFTI = (".nii.gz", ".nii")
"""Endings of NIfTI files, in lower or upper case."""


def nifti_stem(path: Path) -> str:
    """A file's name without the ending of NIfTI files."""
    ending = next((each for each in NIFTI if path.name.lower().endswith(each)), "")
    return path.name[: len(path.name) - len(ending)]


@dataclass(frozen=True)
class CaseFiles:
    """One case to be read; one patient, unless stated otherwise."""

    name: str
    image: Path | None
    """Scan, or folder of a DICOM series; None: there is a mask without a scan."""
    mask: Path | None
    """Mask, or folder with a DICOM SEG; None: there is a scan without a mask."""
    layout: Layout

    def files(self) -> list[Path]:
        """Every file that is read."""
        found: list[Path] = []
        for path in dict.fromkeys((self.image, self.mask)):
            if path is not None:
                found += sorted(path.iterdir()) if path.is_dir() else [path]
        return found


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

    @property
    def volume_ml(self) -> float:
        """Hemorrhage: area x extent, summed."""
        areas = (self.labels > 0).sum((1, 2)) * self.spacing_mm[0] * self.spacing_mm[1]
        return float(areas @ self.extents_mm) / 1000
