"""Steps that the encoder graph and the decoder graph have in common."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def halves(both: Tensor) -> tuple[Tensor, ...]:
    """[2B, ...] -> the first and the last B."""
    return both.reshape(2, -1, *both.shape[1:]).unbind()


def resized(image: Tensor, side: int) -> Tensor:
    """[B, 1, h, h] -> [B, 1, side, side]: bilinear, half-pixel centres; unchanged if h = side."""
    if image.shape[-1] == side:
        return image
    return F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False)
