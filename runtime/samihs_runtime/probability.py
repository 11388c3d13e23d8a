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
        threshold is 0.

        Anything else that the model drew on the slice is not part of the lesion: regions connected
        above :data:`FAINT` that do not touch the mask are set to zero, and so is everything outside
        the area that a box allows.
        """
        from scipy import ndimage, special

        soft = special.expit(self.frame.logits_to_slice(self.logits))
        if self.within is not None:
            soft = np.where(self.within, soft, 0.0)
        regions, _ = ndimage.label(soft >= FAINT, structure=np.ones((3, 3)))
        own = np.unique(regions[mask])
        belongs = np.isin(regions, own[own > 0]) | mask
        return np.where(belongs, soft, 0.0).astype(np.float32)
