"""How sure the model is of each pixel, for a FRACTIONAL segmentation and for a following prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from samihs_runtime.encoding.slice_frame import SliceFrame

FAINT = 0.05
"""Probabilities below this connect no regions: they are the sigmoid's tails."""
LEVELS = 255
"""A FRACTIONAL SEG stores probabilities in steps of 1/255, of which none is one half."""
INSIDE, OUTSIDE = 128 / LEVELS, 127 / LEVELS
"""The steps next to one half: the lowest within a mask, and the highest outside it."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """The decoder's low-resolution logits, and the slice that they cover."""

    logits: NDArray[np.float32]
    """[M, M], over the whole S x S slice; positive where the model sees hemorrhage."""
    frame: SliceFrame
    within: NDArray[np.bool_] | None = None
    """[rows, columns] of the stored slice: where the lesion may lie; None for anywhere."""

    def probability(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The sigmoid of the logits [rows, columns], for the lesion in ``mask`` only.

        It is one half at the mask's edge, and the model's probability of blood only if its masks'
        threshold is 0. At least :data:`INSIDE` in the mask (also where a hole was filled) and at
        most :data:`OUTSIDE` around it: whoever thresholds at one half gets the mask.

        Anything else that the model drew on the slice is zero, as is everything that is nearer to
        it than to the mask, or not connected with the mask above :data:`FAINT`, or outside the area
        that a box allows.
        """
        from scipy import ndimage, special

        soft = special.expit(self.frame.logits_to_slice(self.logits))
        if self.within is not None:
            soft = np.where(self.within, soft, 0.0)
        soft = np.where(mask, np.maximum(soft, INSIDE), soft)
        drawn = soft >= INSIDE
        nearest = ndimage.distance_transform_edt(
            ~drawn, return_distances=False, return_indices=True
        )
        around = mask[tuple(nearest)] & (soft >= FAINT)
        regions, _ = ndimage.label(around, structure=np.ones((3, 3)))
        belongs = np.isin(regions, np.unique(regions[mask]))
        soft = np.where(mask, soft, np.minimum(soft, OUTSIDE))
        return np.where(belongs, soft, 0.0).astype(np.float32)
