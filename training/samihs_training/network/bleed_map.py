"""A map of all blood in a slice, as the encoder sees it before any click: used in training only.

A click asks for one lesion, and its gradient reaches the features at half the image's size through
gates and comparisons that start at zero. A map of all blood supervises each pixel of those features
directly, once per slice (deep supervision: Lee et al., AISTATS 2015).
"""

from __future__ import annotations

from torch import Tensor, nn

from samihs_training.network.pointwise import Pointwise
from samihs_training.network.pyramid import Channels, unpack, upsampled_twice

NO_BLOOD = -6.0
"""Initial logit of every pixel: one in four hundred of a head's pixels is blood."""


class BleedMap(nn.Module):
    """Packed embedding [B, E', G, G] (``pyramid.py``) -> logits [B, 1, 8G, 8G], float32.

    It starts as "no blood anywhere"; ``map_training.py`` explains why.
    """

    def __init__(self, channels: Channels) -> None:
        super().__init__()
        self.channels = channels
        self.detail = Pointwise(channels.detail, 1)
        self.fine = Pointwise(channels.fine, 1)
        for each in self.parameters():
            nn.init.zeros_(each)
        assert self.fine.bias is not None
        nn.init.constant_(self.fine.bias, NO_BLOOD)

    def forward(self, embedding: Tensor) -> Tensor:
        _, detail, fine = unpack(embedding, self.channels)
        logits: Tensor = upsampled_twice(self.detail(detail)) + self.fine(fine).float()
        return logits
