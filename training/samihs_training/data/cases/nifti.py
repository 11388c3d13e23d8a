"""A NIfTI scan and its mask as arrays in DICOM's axial orientation."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.errors import DataError
from samihs_training.data.cases.case import PLACE_TOLERANCE_MM, Volume
from samihs_training.data.cases.labels import Labels

_PIECE = 1 << 20
"""Bytes decompressed at a time where only their number and checksum are wanted."""
_DAMAGED = (OSError, EOFError, ValueError, zlib.error, MemoryError, OverflowError)
"""What Python, numpy and nibabel raise on damaged voxels, or on more than the memory holds."""


def read_nifti_pair(image: Path, mask: Path, hemorrhage: Labels = ()) -> Volume:
    """Scan and mask of one case.

    Args:
        image: the scan's file.
        mask: the mask's.
        hemorrhage: numbers in the mask that mark it; empty: any other than 0 and 1, or 255 in its
            place, stays as it is, to be found as a fault.

    Raises:
        DataError: unreadable, not three-dimensional, or the two do not lie on one grid.
    """
    scan, labels = _load(image), _load(mask)
    if scan.shape != labels.shape:
        raise DataError(f"{mask}: shape {labels.shape}, but its scan has {scan.shape}")
    corners = np.array([[0, 0, 0, 1], [*(np.array(scan.shape) - 1), 1]], np.float64)
    off = float(np.abs(corners @ (scan.affine - labels.affine).T).max())
    if not off <= PLACE_TOLERANCE_MM:
        raise DataError(
            f"{mask}: its affine puts voxels {off:.2f} mm from where its scan's lie; expected "
            f"at most {PLACE_TOLERANCE_MM:g} mm: export the mask on the scan's grid"
        )
    axes = np.asarray(scan.affine, np.float64)[:3, :3]
    column, row, step = axes.T
    normal = np.cross(column, row)
    extent = abs(float(step @ normal)) / float(np.linalg.norm(normal))  # holds under tilt as well
    drawn = _axial(labels, mask)
    return Volume(
        hu=_axial(scan, image),
        labels=_marked(drawn, hemorrhage),
        spacing_mm=(float(np.linalg.norm(row)), float(np.linalg.norm(column))),
        extents_mm=np.full(scan.shape[2], extent),
        seen=frozenset(each for each in hemorrhage if (drawn == int(each)).any()),
    )


def _marked(labels: NDArray[np.float32], hemorrhage: Labels) -> NDArray[np.float32]:
    """1 for the labels that are hemorrhage, else 0; without any named, 0 and 255, as 8-bit masks
    have them, as 0 and 1."""
    if hemorrhage:
        return np.isin(labels, [int(each) for each in hemorrhage]).astype(np.float32)
    if np.isin(labels, (0, 255)).all():
        return (labels > 0).astype(np.float32)
    return labels


def _load(path: Path) -> Any:
    """The image with axes nearest to right, anterior, superior."""
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.funcs import squeeze_image
    from nibabel.orientations import OrientationError
    from nibabel.spatialimages import HeaderDataError

    try:
        there = _bytes_of(path)
        stored: Any = nib.load(path)
        _check_size(path, stored, there)
        if not np.isfinite(stored.affine).all() or np.linalg.det(stored.affine[:3, :3]) == 0:
            raise DataError(
                f"{path}: its affine {stored.affine.tolist()} gives voxels no volume; expected "
                "direction and size of each axis, mm: export it from DICOM again"
            )
        if stored.get_data_dtype().fields:
            raise DataError(f"{path}: its voxels are colours; expected one number each")
        image = squeeze_image(stored)  # some programs write a fourth axis of length 1
        if len(image.shape) != 3:
            raise DataError(f"{path}: {len(image.shape)} dimensions; expected one volume of three")
        return nib.as_closest_canonical(image)
    except (ImageFileError, HeaderDataError, OrientationError, *_DAMAGED) as error:
        raise DataError(f"{path}: not readable as NIfTI ({_said(error)})") from error


def _bytes_of(path: Path) -> int:
    """Bytes of a file, decompressed if it is a ``.gz``: to its end, where its checksum is, since
    nibabel stops at the last voxel.

    Raises:
        OSError, EOFError, zlib.error: damaged, or cut short.
    """
    if path.suffix.lower() != ".gz":
        return path.stat().st_size
    with gzip.open(path) as file:
        return sum(map(len, iter(lambda: file.read(_PIECE), b"")))


def _check_size(path: Path, image: Any, there: int) -> None:
    """Raise a DataError if a file of so many bytes does not hold the voxels that its header tells:
    a damaged header may ask for more than the machine has."""
    voxels = image.dataobj
    wanted = int(voxels.offset) + math.prod(map(int, voxels.shape)) * int(voxels.dtype.itemsize)
    if not 0 < wanted <= there:
        raise DataError(
            f"{path}: not readable as NIfTI (its header tells {wanted} bytes for a shape of "
            f"{tuple(map(int, voxels.shape))}, but there are {there}): copy it again"
        )


def _said(error: BaseException) -> str:
    """A MemoryError often has no text."""
    return str(error) or type(error).__name__


def _axial(image: Any, path: Path) -> NDArray[np.float32]:
    """[Z, rows, columns]: rows run to the back, columns to the left."""
    try:
        voxels = np.asanyarray(image.dataobj, dtype=np.float32)
    except _DAMAGED as error:
        raise DataError(
            f"{path}: its voxels cannot be read ({_said(error)}): copy it again"
        ) from error
    return np.ascontiguousarray(voxels[::-1, ::-1].transpose(2, 1, 0))
