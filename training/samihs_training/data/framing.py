"""A mask in the frame to which the runtime resamples a slice."""

from __future__ import annotations

import numpy as np

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
