"""Methods that need no training: threshold, region growing, random walker, watershed from a click.

They are given favourable conditions: a smoothed slice, several tolerances of which a reader may
pick the best afterwards, a ring of background seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import random_walker, watershed

Mask = NDArray[np.bool_]
Click = tuple[float, float]
Slice = NDArray[np.generic]
"""[rows, columns], HU."""
Method = Callable[[Slice, Click], Mask]
BLOOD_HU = (45.0, 95.0)
"""Fresh blood; adult grey matter (32 to 42) is outside the range."""
TOLERANCES_HU = (8.0, 12.0, 16.0)
"""For region growing, around the mean of the clicked spot."""
HALF = 64
"""Half side of the region that the seeded methods see, in pixels: about 60 mm across. They miss the
rest of a longer bleed; a larger region would include more that looks like blood."""


def connected(like: Mask, spot: tuple[int, ...]) -> Mask:
    """The connected component of ``like``, of any dimension, that contains ``spot``.

    Neighbours share an edge, or a face in 3D. Empty if ``like`` is False at ``spot``.
    """
    labels, _ = ndimage.label(like)
    return np.asarray((labels == labels[spot]) & like[spot])


def region_growing(hu: Slice, click: Click, tolerance: float) -> Mask:
    """The region connected to the click whose HU are within ``tolerance`` of the clicked spot."""
    smooth = ndimage.median_filter(hu.astype(np.float32), 3)
    x, y = round(click[0]), round(click[1])
    spot = float(smooth[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].mean())
    return connected(np.abs(smooth - spot) <= tolerance, (y, x))


def blood_window(hu: Slice, click: Click) -> Mask:
    """The region connected to the click within the HU range of fresh blood."""
    x, y = round(click[0]), round(click[1])
    return connected(_is_blood(ndimage.median_filter(hu.astype(np.float32), 3)), (y, x))


def blood_window_3d(hu: NDArray[np.generic], index: int, click: Click) -> Mask:
    """The same in a series [Z, rows, columns], for a click on slice ``index``.

    Smoothed by a 3 x 3 mean on each slice: a median filter of a whole series takes long.
    """
    x, y = round(click[0]), round(click[1])
    smooth = ndimage.uniform_filter(hu.astype(np.float32), size=(1, 3, 3))
    return connected(_is_blood(smooth), (index, y, x))


def _is_blood(smooth: NDArray[np.float32]) -> Mask:
    return np.asarray((smooth >= BLOOD_HU[0]) & (smooth <= BLOOD_HU[1]))


def walker(hu: Slice, click: Click) -> Mask:
    """scikit-image's random walker between the click and a ring around it."""
    with warnings.catch_warnings():
        # Its solver may leave probabilities slightly outside [0, 1]; the larger one still wins.
        warnings.filterwarnings("ignore", "The probability range", UserWarning)
        return _seeded(
            hu,
            click,
            lambda image, seeds: random_walker(image, seeds, beta=500, mode="cg_j") == 1,
        )


def flooding(hu: Slice, click: Click) -> Mask:
    """scikit-image's watershed on the gradient between the click and a ring around it."""
    return _seeded(
        hu,
        click,
        lambda image, seeds: watershed(ndimage.gaussian_gradient_magnitude(image, 1), seeds) == 1,
    )


def _seeded(
    hu: Slice,
    click: Click,
    method: Callable[[NDArray[np.float32], NDArray[np.int32]], NDArray[np.bool_]],
) -> Mask:
    x, y = round(click[0]), round(click[1])
    rows, columns = hu.shape
    top, left = max(y - HALF, 0), max(x - HALF, 0)
    window = (slice(top, min(y + HALF, rows)), slice(left, min(x + HALF, columns)))
    image = (np.clip(hu[window].astype(np.float32), -20, 100) + 20) / 120
    seeds = np.full(image.shape, 0, np.int32)
    seeds[[0, -1], :] = seeds[:, [0, -1]] = 2
    seeds[max(y - top - 1, 0) : y - top + 2, max(x - left - 1, 0) : x - left + 2] = 1
    mask = np.zeros(hu.shape, bool)
    mask[window] = method(image, seeds)
    return mask


CLASSICAL: Mapping[str, Method] = {
    **{
        f"region growing, {tolerance:g} HU": partial(region_growing, tolerance=tolerance)
        for tolerance in TOLERANCES_HU
    },
    "blood window": blood_window,
    "random walker": walker,
    "watershed": flooding,
}
