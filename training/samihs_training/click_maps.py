"""Where the prompts lie, at the resolution of the mask.

SAM tells its decoder of a click through attention alone, which is as fine as the tokens. Which of
several thin strands of blood was clicked is decided by less than that. Networks made for clicks
get them as maps beside the image (RITM, arXiv 2102.06583); here a few Gaussians about each prompt
join the decoder's up-sampled cells. They are separable, so that all maps of all prompts, with the
weights that mix them, are one matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LABELS = (0, 1, 2, 3)
"""Background, foreground, box corners: those that lie somewhere. The pad (-1) does not."""
DEVIATIONS = (4.0, 16.0, 64.0)
"""Standard deviations of the Gaussians, pixels of the frame: about 2, 7 and 29 mm of a head CT."""


class ClickMaps(nn.Module):
    """points [B, N, 2] in frame pixels, labels [B, N] -> maps [B, D, side, side], and where the
    foreground clicks lie [B, side, side]."""

    kinds: Tensor
    """Buffer [4], int32: the labels."""
    deviations: Tensor
    """Buffer [3, 1]."""
    centres: Tensor
    """Buffer [side]: of the mask cells, frame pixels."""

    def __init__(self, channels: int, side: int, image_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.randn(len(LABELS), len(DEVIATIONS), channels))
        place = (torch.arange(side) + 0.5) * (image_size / side)
        self.register_buffer("kinds", torch.tensor(LABELS, dtype=torch.int32), persistent=False)
        self.register_buffer("deviations", torch.tensor(DEVIATIONS)[:, None], persistent=False)
        self.register_buffer("centres", place, persistent=False)

    def forward(self, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.drawn(self.weight.flatten(1), points, labels)
        return maps, self.foreground(points, labels)

    def drawn(self, weight: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        """The maps with ``weight`` [4, 3 D]: of each label, its deviations' channels in a row."""
        count, channels = points.shape[0], weight.shape[1] // len(DEVIATIONS)
        side = self.centres.shape[0]
        kind = torch.eq(labels[..., None], self.kinds).to(weight.dtype)  # [B, N, 4]
        mixed = (kind @ weight).reshape(count, -1, channels)  # [B, 3 N, D]
        across = self._gaussians(points[..., 0]).to(weight.dtype)  # [B, 3 N, side]
        down = self._gaussians(points[..., 1]).to(weight.dtype)
        rows = (mixed.mT[..., None, :] * down.mT[:, None]).reshape(count, -1, mixed.shape[1])
        return (rows @ across).reshape(count, channels, side, side)

    def foreground(self, points: Tensor, labels: Tensor) -> Tensor:
        """Where the foreground clicks lie: their narrowest Gaussians [B, side, side], float32, that
        sum up to 1 together, or to 0 where there is none."""
        across, down = (
            each[:, :: len(DEVIATIONS)] for each in map(self._gaussians, points.unbind(-1))
        )
        clicked = torch.eq(labels, 1).to(across.dtype)[..., None]  # [B, N, 1]
        where = (down * clicked).mT @ across
        return where / where.sum((1, 2), keepdim=True).clamp(min=1e-6)

    def _gaussians(self, places: Tensor) -> Tensor:
        """places [B, N] -> [B, 3 N, side]."""
        distance = (places[..., None, None] - self.centres) / self.deviations  # [B, N, 3, side]
        return torch.exp(-0.5 * distance.square()).flatten(1, 2)
