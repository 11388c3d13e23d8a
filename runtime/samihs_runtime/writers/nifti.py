"""The lesion as NIfTI-1: one voxel for each CT voxel, in a sheared grid where the gantry tilted.

NIfTI has one affine for all voxels. A series whose slices are unevenly spaced has none, and is
refused with the reason, unless resampling was asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.errors import OutputError
from samihs_runtime.geometry import fit_grid
from samihs_runtime.writers.resampling import resampled

if TYPE_CHECKING:
    from samihs_runtime.report import Report
    from samihs_runtime.segmentation import Lesion
    from samihs_runtime.series import CTSeries

MAX_MISPLACEMENT_MM = 0.05
"""No voxel may lie further from its true place: headers round positions to 0.01 to 0.1 mm."""
SCANNER_ANATOMICAL = 1  # NIFTI_XFORM_SCANNER_ANAT of nifti1.h
UNKNOWN_FORM = 0
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_nifti(
    series: CTSeries, lesion: Lesion, report: Report, path: Path, *, resample: bool = False
) -> None:
    """Write the mask as uint8 NIfTI-1, array axes (column, row, slice).

    A lesion that was not found gives a volume of zeros. The sform holds the affine; the qform does
    as well where the grid is not sheared, as it cannot hold a shear.

    Args:
        series: the series that was clicked on.
        lesion: the answer.
        report: what is known of the run.
        path: the file.
        resample: put the mask of unevenly spaced slices on an even grid instead of refusing.

    Raises:
        OutputError: the slices are unevenly spaced or not parallel.
        OSError: the file cannot be written.
    """
    import nibabel as nib

    mask = lesion.volume_mask((len(series), *series.shape))
    evened = resample and not fit_grid(series.planes).uniform
    if evened:
        mask, lps = resampled(series, mask)
        affine = LPS_TO_RAS @ lps
    else:
        affine = ras_affine(series)
    image = nib.Nifti1Image(np.ascontiguousarray(mask.transpose(2, 1, 0), dtype=np.uint8), affine)
    image.set_sform(affine, code=SCANNER_ANATOMICAL)
    qform = UNKNOWN_FORM if _is_sheared(affine) else SCANNER_ANATOMICAL
    image.set_qform(affine, code=qform, strip_shears=True)
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"] = 1
    said = f"samihs {report.version} {report.bundle_id[:12]}{' resampled' * evened}"
    image.header["descrip"] = said.encode()[:79]
    nib.save(image, path)


def ras_affine(series: CTSeries) -> NDArray[np.float64]:
    """Affine [4, 4] from voxel (column, row, slice) to RAS+ mm, as NIfTI has it.

    Raises:
        OutputError: no single affine places every voxel within :data:`MAX_MISPLACEMENT_MM`.
    """
    first = series.planes[0]
    positions = np.array([plane.position for plane in series.planes])
    if len(series) == 1:
        step = first.normal * float(series.extents_mm[0])
    else:
        step = (positions[-1] - positions[0]) / (len(series) - 1)
    lps = np.eye(4)
    lps[:3, 0] = np.asarray(first.row_direction) * first.spacing[1]
    lps[:3, 1] = np.asarray(first.column_direction) * first.spacing[0]
    lps[:3, 2] = step
    lps[:3, 3] = positions[0]
    _check_places(series, lps)
    return LPS_TO_RAS @ lps


def _check_places(series: CTSeries, lps: NDArray[np.float64]) -> None:
    """The corners of every slice must lie where its own header has them."""
    rows, columns = series.shape
    corners = [(0, 0), (columns - 1, 0), (0, rows - 1), (columns - 1, rows - 1)]
    for index, plane in enumerate(series.planes):
        for x, y in corners:
            meant = lps @ (x, y, index, 1)
            off = float(np.linalg.norm(meant[:3] - plane.to_patient(x, y)))
            if off > MAX_MISPLACEMENT_MM:
                raise OutputError(
                    f"NIfTI cannot hold this series: its slices are not evenly spaced "
                    f"({_gaps(series)}), and one grid would put slice {index} {off:.2f} mm from "
                    f"its place; expected at most {MAX_MISPLACEMENT_MM:g} mm; give --resample, or "
                    "take the DICOM SEG, which holds each slice's own place"
                )


def _gaps(series: CTSeries) -> str:
    along = [float(np.dot(plane.position, series.planes[0].normal)) for plane in series.planes]
    gaps = np.diff(along)
    return f"gaps of {gaps.min():.2f} to {gaps.max():.2f} mm"


def _is_sheared(affine: NDArray[np.float64]) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(axes.T @ axes, np.eye(3), atol=1e-5)
