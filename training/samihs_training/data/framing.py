"""Slices and masks resampled: to square pixels, and to the frame that the runtime gives a model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samihs_runtime.encoding.slice_frame import AIR_HU, SliceFrame
from samihs_training.data.clicks import Mask


def framed_mask(frame: SliceFrame, mask: Mask) -> Mask:
    """``mask`` [rows, columns] as [size, size], resampled as the slice is.

    A mask that is smaller than the frame's pixels may vanish.
    """
    if frame.identity:
        return mask
    # Foreground as far above 0 as the frame's padding is below: half way is the outline.
    marked = np.where(mask, -AIR_HU, AIR_HU).astype(np.float32)
    return np.asarray(frame.slice_to_model(marked) > 0)


def with_square_pixels(
    hu: NDArray[np.float32], mask: Mask, aspect: float
) -> tuple[NDArray[np.float32], Mask]:
    """A slice and its mask, enlarged along one axis until pixels are square.

    ``aspect``: height of a pixel divided by its width.
    """
    if aspect == 1:
        return hu, mask
    larger = (aspect, 1.0) if aspect > 1 else (1.0, 1 / aspect)
    both = [
        ndimage.zoom(each, larger, order=1, mode="nearest", grid_mode=True)
        for each in (hu, mask.astype(np.float32))
    ]
    return both[0], np.asarray(both[1] > 0.5)
