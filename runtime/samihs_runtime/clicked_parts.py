"""Which parts of a mask belong to the clicked lesion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.segmentation import FOREGROUND, Prompt


def clicked_parts(mask: NDArray[np.bool_], prompt: Prompt) -> NDArray[np.bool_]:
    """The parts of ``mask`` that a foreground click lies in or within 3 pixels of.

    Stray specks elsewhere are no part of the clicked lesion. With a box alone, everything counts.
    """
    from scipy import ndimage

    clicks = [
        point
        for point, label in zip(prompt.points, prompt.labels, strict=True)
        if label == FOREGROUND
    ]
    if not clicks:
        return mask
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    kept: set[int] = set()
    for x, y in clicks:
        column, row = round(x), round(y)
        near = labels[max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4]
        kept.update(int(part) for part in np.unique(near) if part)
    clicked: NDArray[np.bool_] = np.isin(labels, sorted(kept))
    return clicked
