"""The logit above which a pixel belongs to the mask.

A loss that asks of each pixel whether it is blood makes 0 the best threshold for telling pixels
apart. It need not be the best for Dice: where many pixels are doubtful, a mask that includes those
that are blood a little less likely than not overlaps more (Lipton et al., "Optimal thresholding of
classifiers to maximize F1 measure", ECML 2014). The ``[mask_threshold]`` stage chooses it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaskThreshold(nn.Module):
    """logits -> the same, less the threshold: those of the mask are above 0, as everywhere."""

    logit: Tensor
    """Buffer [1]: no gradient trains it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("logit", torch.zeros(1))

    def forward(self, logits: Tensor) -> Tensor:
        return logits - self.logit

    def undone(self, prior: Tensor) -> Tensor:
        """An earlier answer, given as a prior mask, as the prompt encoder learned to take it."""
        return prior + self.logit
