"""The lesion as NIfTI-1: one voxel for each CT voxel, in a sheared grid if the gantry was tilted.

NIfTI has one affine for all voxels. A series with unevenly spaced slices has none, and is refused
with the reason unless resampling was requested.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.errors import FormatError
from samihs_runtime.geometry import Grid, affine_ras, fit_grid, to_ras
from samihs_runtime.writers.resampling import resampled, slice_line

if TYPE_CHECKING:
    from samihs_runtime.report import Report
    from samihs_runtime.segmentation import Lesion
    from samihs_runtime.series import CTSeries

SCANNER_ANATOMICAL = 1  # NIFTI_XFORM_SCANNER_ANAT of nifti1.h
UNKNOWN_FORM = 0


def check_grid(series: CTSeries, *, resample: bool) -> Grid:
    """The grid of the slices; with ``resample`` it need not be even.

    Raises:
        FormatError: the slices are unevenly spaced or not parallel; with ``resample``, rotated,
            scaled or shifted within their planes.
    """
    grid = fit_grid(series.planes)
    if not grid.uniform and not resample:
        raise FormatError(
            f"NIfTI cannot hold this series: {grid.reason}; give --resample, which evens out "
            "distances, or take the DICOM SEG, which holds each slice's own place",
            reason="uneven_slices",
        )
    if not grid.uniform:
        slice_line(series)
    return grid


def write_nifti(
    series: CTSeries, lesion: Lesion, report: Report, path: Path, *, resample: bool = False
) -> None:
    """Write the mask as uint8 NIfTI-1, array axes (column, row, slice).

    If no lesion was found, the volume is all zeros. The sform holds the affine; so does the qform
    if the grid is not sheared, since it cannot hold a shear.

    Args:
        series: the series that was clicked on.
        lesion: the answer.
        report: what is known about the run.
        path: the file.
        resample: resample unevenly spaced slices to an even grid instead of refusing them.

    Raises:
        FormatError: the slices are unevenly spaced or not parallel.
        OSError: the file cannot be written.
    """
    import nibabel as nib

    mask = lesion.volume_mask((len(series), *series.shape))
    grid = check_grid(series, resample=resample)
    if grid.uniform:
        affine = affine_ras(series.planes)
    else:
        mask, lps = resampled(series, mask)
        affine = to_ras(lps)
    image = nib.Nifti1Image(np.ascontiguousarray(mask.transpose(2, 1, 0), dtype=np.uint8), affine)
    image.set_sform(affine, code=SCANNER_ANATOMICAL)
    qform = UNKNOWN_FORM if _is_sheared(affine) else SCANNER_ANATOMICAL
    image.set_qform(affine, code=qform, strip_shears=True)
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"] = 1
    said = f"samihs {report.version} {report.bundle_id[:12]}{' resampled' * (not grid.uniform)}"
    image.header["descrip"] = said.encode()[:79]
    nib.save(image, path)


def _is_sheared(affine: NDArray[np.float64]) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(axes.T @ axes, np.eye(3), atol=1e-5)
