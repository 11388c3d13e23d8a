"""Mirrored test-time augmentation: the mean of the answers on a slice and on its mirror image.

Heads are nearly symmetric, and training shows slices either way, so both answers are equally good,
but their errors differ. This is nnU-Net's augmentation of that name (Isensee et al., Nat Methods
18, 2021), along the one axis in which a head is symmetric.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mirrored_points(points: Tensor, labels: Tensor, slice_size: int) -> Tensor:
    """Where prompts lie in the mirrored slice: [B, N, 2] in pixels, column first.

    ``labels`` [B, N] as the decoder takes them: 2 and the 3 that follows it are the upper left and
    lower right corners of a box, which exchange their columns.
    """
    x, y = (slice_size - 1) - points[..., 0], points[..., 1]
    next_x = torch.cat([x[:, 1:], x[:, :1]], dim=1)
    last_x = torch.cat([x[:, -1:], x[:, :-1]], dim=1)
    x = torch.where(labels == 2, next_x, torch.where(labels == 3, last_x, x))
    return torch.stack([x, y], dim=-1)
