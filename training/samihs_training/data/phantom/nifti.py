"""Phantom studies as NIfTI: an image and its masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .arrays import Array
from .options import BleedType
from .study import PhantomStudy
from .truth import write_truth


def write_nifti(study: PhantomStudy, folder: str | Path) -> list[Path]:
    """Write image.nii.gz, mask.nii.gz (all bleeding), mask_TYPE.nii.gz per type, and truth.json.

    The folder is created; files of those names in it are replaced. Image: int16 HU. Masks: uint8, 0
    or 1; one for each of the five types, empty if it is absent. Axes are column, row, slice.
    With a tilted gantry the affine is sheared, as the slices are. Returns all paths written.
    """
    import nibabel as nib

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    affine = nifti_affine(study)

    def save(volume: Array, name: str) -> Path:
        image = nib.Nifti1Image(np.ascontiguousarray(volume.transpose(2, 1, 0)), affine)
        image.header.set_xyzt_units("mm")
        image.set_qform(None, code=0)  # a qform cannot hold the shear of a tilted gantry
        image.set_sform(affine, code=1)
        nib.save(image, folder / name)
        return folder / name

    paths = [
        save(study.hu, "image.nii.gz"),
        save((study.bleeds > 0).astype(np.uint8), "mask.nii.gz"),
    ]
    for kind in BleedType:
        if kind is not BleedType.NONE:
            mask = (study.bleeds == kind).astype(np.uint8)
            paths.append(save(mask, f"mask_{kind.name.lower()}.nii.gz"))
    paths.append(write_truth(study, folder))
    return paths


def nifti_affine(study: PhantomStudy) -> Array:
    """Affine from (column, row, slice) to NIfTI's RAS mm, float64 [4, 4]: x and y change sign."""
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(study.row_direction, study.pixel_spacing)
    affine[:3, 1] = np.multiply(study.column_direction, study.pixel_spacing)
    affine[:3, 2] = study.step_mm
    affine[:3, 3] = study.positions_mm[0]
    affine[:2] *= -1
    return affine
