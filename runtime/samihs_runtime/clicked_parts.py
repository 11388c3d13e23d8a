"""Which parts of a mask belong to the clicked lesion, and which holes are filled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.segmentation import BACKGROUND, FOREGROUND, Prompt

Mask = NDArray[np.bool_]
Point = tuple[float, float]
SMALL_HOLE = 0.05
"""A hole of at most this fraction of the mask's area is noise within the blood."""


def clicked_parts(mask: Mask, prompt: Prompt) -> Mask:
    """The parts of ``mask`` that contain a foreground click or lie within 3 pixels of one, with
    their small holes filled.

    Stray specks elsewhere are not part of the clicked lesion. With a box alone, everything counts.
    A hole that contains a background click stays open, since the user asked for it.
    """
    from scipy import ndimage

    at: dict[int, list[Point]] = {FOREGROUND: [], BACKGROUND: []}
    for point, label in zip(prompt.points, prompt.labels, strict=True):
        at[label].append(point)
    if not at[FOREGROUND]:
        return filled(mask, at[BACKGROUND])
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    kept: set[int] = set()
    for x, y in at[FOREGROUND]:
        column, row = round(x), round(y)
        near = labels[max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4]
        kept.update(int(part) for part in np.unique(near) if part)
    return filled(np.isin(labels, sorted(kept)), at[BACKGROUND])


def filled(mask: Mask, kept_open: Sequence[Point] = ()) -> Mask:
    """The mask [rows, columns] with its small holes filled, except those that contain a point
    (column, row) of ``kept_open``."""
    from scipy import ndimage

    within = ndimage.find_objects(mask.astype(np.uint8))
    if not within:
        return mask
    rows, columns = within[0]
    part = mask[rows, columns]
    holes, _ = ndimage.label(ndimage.binary_fill_holes(part) & ~part)
    small = np.bincount(holes.ravel()) <= SMALL_HOLE * part.sum()
    small[0] = False
    for x, y in kept_open:
        row, column = round(y) - rows.start, round(x) - columns.start
        if 0 <= row < part.shape[0] and 0 <= column < part.shape[1]:
            small[holes[row, column]] = False
    whole = mask.copy()
    whole[rows, columns] |= small[holes]
    return whole
