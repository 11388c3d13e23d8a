"""Where the prompts lie, at the resolution of the mask.

SAM's decoder learns of a click through attention alone, which is only as fine as the tokens. Which
of several thin strands of blood was clicked is a matter of less than that. Networks made for clicks
take them as maps alongside the image (RITM, arXiv 2102.06583); here a few Gaussians around each
prompt are added to the decoder's up-sampled cells. They are separable, so that all maps of all
prompts, with the weights that mix them, are one matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LABELS = (0, 1, 2, 3)
"""Background, foreground, box corners: the labels with a position. The pad (-1) has none."""
DEVIATIONS = (4.0, 16.0, 64.0)
"""Standard deviations of the Gaussians, pixels of the frame: about 2, 7 and 29 mm of a head CT."""


class ClickMaps(nn.Module):
    """points [B, N, 2] in frame pixels, labels [B, N] -> maps [B, D, side, side]."""

    kinds: Tensor
    """Buffer [4], int32: the labels."""
    deviations: Tensor
    """Buffer [3, 1]."""
    centres: Tensor
    """Buffer [side]: centres of the mask cells, frame pixels."""

    def __init__(self, channels: int, side: int, image_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.randn(len(LABELS), len(DEVIATIONS), channels))
        self.register_buffer("kinds", torch.tensor(LABELS, dtype=torch.int32), persistent=False)
        self.register_buffer("deviations", torch.tensor(DEVIATIONS)[:, None], persistent=False)
        self.register_buffer("centres", _centres(side, image_size), persistent=False)

    def forward(self, points: Tensor, labels: Tensor) -> Tensor:
        return self.drawn(self.weight.flatten(1), points, labels)

    def drawn(self, weight: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        """The maps with ``weight`` [4, 3 D]: for each label, the channels of each deviation."""
        count, channels = points.shape[0], weight.shape[1] // len(DEVIATIONS)
        side = self.centres.shape[0]
        kind = torch.eq(labels[..., None], self.kinds).to(weight.dtype)  # [B, N, 4]
        mixed = (kind @ weight).reshape(count, -1, channels)  # [B, 3 N, D]
        across = self._gaussians(points[..., 0]).to(weight.dtype)  # [B, 3 N, side]
        down = self._gaussians(points[..., 1]).to(weight.dtype)
        rows = (mixed.mT[..., None, :] * down.mT[:, None]).reshape(count, -1, mixed.shape[1])
        return (rows @ across).reshape(count, channels, side, side)

    def _gaussians(self, places: Tensor) -> Tensor:
        """places [B, N] -> [B, 3 N, side]."""
        return _gaussians(places[..., None, None], self.centres, self.deviations).flatten(1, 2)


class Clicked(nn.Module):
    """points [B, N, 2], labels [B, N] -> where the foreground clicks lie [B, side, side], float32:
    their Gaussians, which together sum to 1, or to 0 if there are none."""

    deviation: Tensor
    """Buffer, scalar."""
    centres: Tensor
    """Buffer [side], as in :class:`ClickMaps`."""

    def __init__(self, side: int, image_size: int, deviation: float) -> None:
        """``deviation``: of the Gaussians, frame pixels."""
        super().__init__()
        self.register_buffer("deviation", torch.tensor(deviation), persistent=False)
        self.register_buffer("centres", _centres(side, image_size), persistent=False)

    def forward(self, points: Tensor, labels: Tensor) -> Tensor:
        across, down = (
            _gaussians(places[..., None], self.centres, self.deviation)
            for places in points.unbind(-1)
        )  # [B, N, side]
        foreground = torch.eq(labels, 1).to(across.dtype)[..., None]  # [B, N, 1]
        where = (down * foreground).mT @ across
        return where / where.sum((1, 2), keepdim=True).clamp(min=1e-6)


def _centres(side: int, image_size: int) -> Tensor:
    """[side]: where the middles of ``side`` cells lie along ``image_size`` pixels."""
    return (torch.arange(side) + 0.5) * (image_size / side)


def _gaussians(places: Tensor, centres: Tensor, deviation: Tensor) -> Tensor:
    """Bumps of height 1 about ``places`` [..., 1] at the ``centres`` [side]: [..., side]."""
    return torch.exp(-0.5 * ((places - centres) / deviation).square())
