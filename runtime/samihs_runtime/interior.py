"""The deepest interior points of a region: where one would click on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Point = tuple[float, float]


def deepest_point(region: Mask, aspect: float = 1.0) -> Point:
    """(x, y) of the pixel of ``region`` [rows, columns] farthest from everything outside it.

    ``aspect`` is the height of a pixel divided by its width.
    """
    from scipy import ndimage

    padded = np.pad(region, 1)
    depth = ndimage.distance_transform_edt(padded, sampling=(aspect, 1.0))[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(depth)), region.shape)
    return float(column), float(row)


def deepest_points(region: Mask, min_pixels: float, most: int, aspect: float) -> list[Point]:
    """The deepest point of each of the ``most`` largest parts of ``region`` [rows, columns], the
    largest first; parts of fewer than ``min_pixels`` are left out."""
    from scipy import ndimage

    labels, count = ndimage.label(region, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    largest = [int(part) for part in np.argsort(-sizes)[:most] if sizes[part] >= min_pixels]
    return [deepest_point(labels == part + 1, aspect) for part in largest]
