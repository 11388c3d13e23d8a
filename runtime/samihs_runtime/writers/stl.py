"""The lesion's surface as binary STL: the walls of its voxels, at their places in the patient.

Nothing is smoothed, so the surface encloses exactly the reported volume: a voxel reaches half way
to the planes of its neighbours, and by half its slice's thickness at an open end, also under gantry
tilt and with uneven gaps. Coordinates are DICOM's LPS in mm.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.geometry import slice_gaps

if TYPE_CHECKING:
    from samihs_runtime.segmentation import Lesion
    from samihs_runtime.series import CTSeries

Array = NDArray[np.float64]

HEADER = b"samihs hemorrhage. SPACE=LPS UNIT=mm"
"""At most 80 bytes. 3D Slicer reads ``SPACE=`` here; a header must not begin with "solid"."""
TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("unused", "<u2")])
"""50 bytes, as in the format since 3D Systems' manual of 1989."""
WALLS = {
    (0, -1): ((0, 0, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1)),
    (0, +1): ((1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0)),
    (1, -1): ((0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 0, 0)),
    (1, +1): ((0, 1, 0), (1, 1, 0), (1, 1, 1), (0, 1, 1)),
    (2, -1): ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)),
    (2, +1): ((0, 0, 1), (0, 1, 1), (1, 1, 1), (1, 0, 1)),
}
"""(axis, side) of a voxel in (slice, row, column) -> its wall's corners, counter-clockwise as seen
from outside in patient space."""


def write_stl(series: CTSeries, lesion: Lesion, path: Path) -> None:
    """Write the surface. If no lesion was found, the file has no triangles.

    Raises:
        OSError: the file cannot be written.
    """
    triangles = surface(series, lesion)
    records = np.zeros(len(triangles), dtype=TRIANGLE)
    edges = triangles[:, 1:] - triangles[:, :1]  # [T, 2, 3]
    normals = np.cross(edges[:, 0], edges[:, 1])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    records["normal"] = normals / np.maximum(lengths, np.finfo(np.float64).tiny)
    records["corners"] = triangles
    count = np.uint32(len(triangles)).astype("<u4").tobytes()
    path.write_bytes(HEADER.ljust(80) + count + records.tobytes())


def surface(series: CTSeries, lesion: Lesion) -> Array:
    """Triangles [T, 3, 3]: corners in LPS mm, counter-clockwise as seen from outside."""
    volume = lesion.volume_mask((len(series), *series.shape))
    padded = np.pad(volume, 1)
    origins, walls = _boundaries(series), []
    for (axis, side), wall in WALLS.items():
        outside = ~np.roll(padded, -side, axis=axis)[1:-1, 1:-1, 1:-1]
        voxels = np.argwhere(volume & outside)  # [F, 3]
        corners = voxels[:, None, :] + np.asarray(wall)  # [F, 4, 3] slice, row, column
        walls.append(_to_patient(series, origins, voxels[:, 0], corners))
    quads = np.concatenate(walls)  # [F, 4, 3]
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def _boundaries(series: CTSeries) -> Array:
    """[Z+1, 3]: position of the first pixel's centre on the boundaries below and above slices."""
    planes = series.planes
    positions = np.array([plane.position for plane in planes], dtype=np.float64)
    half = slice_gaps(planes) / 2 if len(planes) > 1 else series.extents_mm / 2
    below = positions[0] - planes[0].normal * (series.extents_mm[0] - half[0])
    above = positions[-1] + planes[-1].normal * (series.extents_mm[-1] - half[-1])
    return np.concatenate([below[None], (positions[:-1] + positions[1:]) / 2, above[None]])


def _to_patient(
    series: CTSeries, origins: Array, slices: NDArray[np.int64], corners: NDArray[np.int64]
) -> Array:
    """Corners [F, 4, 3] (boundary, row edge, column edge) of voxels on ``slices`` [F], in mm."""
    planes = series.planes
    down = np.array([np.multiply(each.column_direction, each.spacing[0]) for each in planes])
    right = np.array([np.multiply(each.row_direction, each.spacing[1]) for each in planes])
    edge = corners[..., 1:] - 0.5  # pixel centres are at integers
    return np.asarray(
        origins[corners[..., 0]]
        + edge[..., :1] * down[slices][:, None]
        + edge[..., 1:] * right[slices][:, None]
    )
