"""How sure the model is of each pixel, for a FRACTIONAL segmentation and for a next prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from samihs_runtime.slice_frame import SliceFrame

FAINT = 0.05
"""Probabilities below this join nothing: they are the sigmoid's tails."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """The decoder's low-resolution logits, and the slice that they lie over."""

    logits: NDArray[np.float32]
    """[M, M], over the whole S x S slice; positive where the model sees hemorrhage."""
    frame: SliceFrame
    within: NDArray[np.bool_] | None = None
    """[rows, columns] of the stored slice: where the lesion may lie; None where anywhere."""

    def probability(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The sigmoid of the logits [rows, columns], for the lesion in ``mask`` only.

        Other things that the model drew on the slice are no part of the lesion: what hangs
        together above :data:`FAINT` without touching the mask is zero, and so is all that lies
        beyond what a box allowed.
        """
        from scipy import ndimage, special

        soft = special.expit(self.frame.logits_to_slice(self.logits))
        if self.within is not None:
            soft = np.where(self.within, soft, 0.0)
        regions, _ = ndimage.label(soft >= FAINT, structure=np.ones((3, 3)))
        own = np.unique(regions[mask])
        belongs = np.isin(regions, own[own > 0]) | mask
        return np.where(belongs, soft, 0.0).astype(np.float32)
