"""Distances between outlines: the true ones, in mm or pixels, and the authors' row-wise variant."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from samihs_training.data.clicks import Mask

Spacing = tuple[float, ...]


def hausdorff_95(predicted: Mask, truth: Mask, spacing: Spacing) -> float:
    """Symmetric 95 % Hausdorff distance (MONAI's) of masks in two or three dimensions.

    In the unit of ``spacing``, which has one number per axis: mm, or 1 for pixels. 0 if both masks
    are empty, NaN if only one is.
    """
    if not predicted.any() or not truth.any():
        return 0.0 if predicted.any() == truth.any() else float("nan")
    from monai.metrics import compute_hausdorff_distance  # slow to import

    with _quiet():
        distance = compute_hausdorff_distance(
            *_cropped(predicted, truth),
            include_background=True,
            percentile=95,
            spacing=list(spacing),
        )
    return float(distance.item())


def surface_dice(predicted: Mask, truth: Mask, spacing: Spacing, tolerance: float) -> float:
    """Normalised surface Dice (NSD): the share of both outlines within ``tolerance`` of the other.

    MONAI's (Nikolov et al., 2018); ``tolerance`` in the unit of ``spacing``. 1 if both masks are
    empty, 0 if only one is.
    """
    if not predicted.any() or not truth.any():
        return float(predicted.any() == truth.any())
    from monai.metrics import compute_surface_dice

    with _quiet():
        share = compute_surface_dice(
            *_cropped(predicted, truth), [tolerance], include_background=True, spacing=list(spacing)
        )
    return float(share.item())


def rowwise_hausdorff(predicted: Mask, truth: Mask) -> float:
    """What the SAMIHS authors' code computes for its "HD": NOT a distance between outlines.

    Each image row, a vector of as many numbers as there are columns, is taken as a point; the
    result is the symmetric Hausdorff distance (Euclidean) between the two sets of rows. It has no
    unit of length: a blob that is off by 187 pixels scores the square root of its width, and a mask
    shifted down within the image scores 0. It is here only for comparison with the paper's numbers.
    """
    from scipy.spatial.distance import cdist

    first, second = (np.unique(mask, axis=0).astype(np.float64) for mask in (predicted, truth))
    distances = cdist(first, second)
    return float(max(distances.min(0).max(), distances.min(1).max()))


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the one warning that MONAI 1.6 raises about its own call of ``get_mask_edges``."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore",
            r"monai\.metrics\.utils get_mask_edges:always_return_as_numpy",
            FutureWarning,
        )
        yield


def _cropped(predicted: Mask, truth: Mask) -> tuple[torch.Tensor, torch.Tensor]:
    """Both [1, 1, ...], cropped to their union and padded: the same distances, 50 times faster."""
    either: NDArray[np.bool_] = predicted | truth
    box = []
    for axis in range(either.ndim):
        others = tuple(each for each in range(either.ndim) if each != axis)
        used = np.flatnonzero(either.any(others))
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    first, second = (np.pad(mask[tuple(box)], 2) for mask in (predicted, truth))
    return torch.from_numpy(first)[None, None].float(), torch.from_numpy(second)[None, None].float()
