"""A convolutional stem in place of SAM's patch embedding, and the detail that it keeps.

A transformer that is trained from scratch in an hour learns edges late if at all; three strided
convolutions know them from the start (Xiao et al., "Early convolutions help transformers see
better", NeurIPS 2021). The first has no overlap and no padding, so that the normalisation of the
image still folds into it exactly (``samihs_export.graphs``).

Its finest features can also be handed to the mask decoder, past the encoder, as SAM 2 and HQ-SAM
do: thin extra-axial blood is then outlined at the mask's resolution rather than the token grid's.
The contract between encoder and decoder stays one tensor: the detail of the 4 x 4 mask cells of
each token is laid into further channels of the embedding (:func:`pack`, :func:`unpack`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CELLS = 4
"""Mask cells along a token's side: SAM's decoder answers at four times the token grid."""


class ConvStem(nn.Module):
    """image [B, 3, H, W] -> tokens [B, H/8, W/8, C]: what SAM's ``PatchEmbed`` gives at patch 8."""

    stride = 8

    def __init__(self, width: int, fine_width: int, detail: int) -> None:
        """``width``: token width C. ``fine_width``: channels at half size. ``detail``: channels
        a mask cell that go past the encoder; 0 for none."""
        super().__init__()
        self.proj = nn.Conv2d(3, fine_width, 2, stride=2)
        self.middle = nn.Conv2d(fine_width, 2 * fine_width, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(2 * fine_width, width, 3, stride=2, padding=1)
        self.detail = nn.Conv2d(fine_width, detail, 3, padding=1) if detail else None

    def forward(self, image: Tensor) -> Tensor:
        return self.tokens(self.fine(image))

    def fine(self, image: Tensor) -> Tensor:
        """image [B, 3, H, W] (one channel once folded) -> features [B, F, H/2, W/2]."""
        features: Tensor = self.proj(image)
        return F.gelu(features)

    def tokens(self, fine: Tensor) -> Tensor:
        """features [B, F, H/2, W/2] -> tokens [B, H/8, W/8, C]."""
        tokens: Tensor = self.coarse(F.gelu(self.middle(fine)))
        return tokens.permute(0, 2, 3, 1)

    def with_detail(self, embedding: Tensor, fine: Tensor) -> Tensor:
        """The encoder's embedding [B, E, G, G] with the packed detail as further channels."""
        return embedding if self.detail is None else pack(embedding, self.detail(fine))


def pack(embedding: Tensor, detail: Tensor) -> Tensor:
    """[B, E, G, G] and [B, D, 4G, 4G] -> [B, E + 16 D, G, G]."""
    return torch.cat([embedding, F.pixel_unshuffle(detail, CELLS)], dim=1)


def unpack(packed: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """[B, E + 16 D, G, G] -> [B, E, G, G] and [B, D, 4G, 4G]; None where D is 0."""
    if packed.shape[1] == channels:
        return packed, None
    return packed[:, :channels], F.pixel_shuffle(packed[:, channels:], CELLS)


def upscaled(upscaling: nn.Sequential, source: Tensor, detail: Tensor | None) -> Tensor:
    """SAM's ``output_upscaling`` of [B, E, G, G] -> [B, E/8, 4G, 4G], the detail joining it.

    It is added before the last activation, so that a mask is a function of both, not a sum.
    """
    if detail is None:
        plain: Tensor = upscaling(source)
        return plain
    for layer in list(upscaling)[:-1]:
        source = layer(source)
    joined: Tensor = upscaling[-1](source + detail)
    return joined
