"""A second look at a mask: each pixel is judged again, given what the first mask contains.

SAM answers a click once, with one set of weights for every pixel, and cannot know of its own answer
that the blood in it is darker than what lies around it. Region competition can (Chan and Vese,
"Active contours without edges", IEEE TIP 2001): a pixel belongs to the side whose mean it is closer
to. Here this is learnt: each pixel is compared with the mean features under the click, within the
first mask and around it, and a small network turns these into a change of the logits, which starts
at zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samihs_training.network.pointwise import Pointwise
from samihs_training.network.pyramid import upsampled_twice

MARGIN = 4
"""Width of the surroundings of a mask, cells."""


class Regions(NamedTuple):
    """Three weightings of the cells of a map, and two figures of the mask they are based on."""

    maps: Tensor
    """[B, 3, S, S], 0 to 1, float32: within the mask, around it, under the click."""
    figures: Tensor
    """[B, 2]: the mean probability within the mask, and a quarter of log10 of its area."""

    def means(self, features: Tensor) -> Tensor:
        """Means of features [B, D, S, S] in each region: [B, 3, D]; near 0 in an empty region."""
        total = self.maps.flatten(2) @ features.float().flatten(2).mT
        return total / (self.maps.sum((2, 3)) + 0.25)[..., None]


def regions(share: Tensor, where: Tensor) -> Regions:
    """``share`` [B, 1, S, S]: probability of the mask; ``where`` [B, S, S]: the clicks' places."""
    side = 2 * MARGIN + 1
    reached = F.max_pool2d(share, (side, 1), stride=1, padding=(MARGIN, 0))
    reached = F.max_pool2d(reached, (1, side), stride=1, padding=(0, MARGIN))
    mass = share.sum((1, 2, 3)) + 1.0
    sureness = share.square().sum((1, 2, 3)) / mass
    maps = torch.cat([share, reached - share, where.float()[:, None]], dim=1)
    return Regions(maps, torch.stack([sureness, mass.log10() / 4], dim=1))


class SecondLook(nn.Module):
    """Features [B, D, S, S] and the :class:`Regions` of a first mask -> the change of its logits
    [B, 1, S, S].

    Hidden unit h of a pixel f is ReLU of::

        sum over regions r of  a_hr . (f - m_r)  +  b_hr . (f - m_r)^2
        + c_h . (share, mean share around the pixel)  +  d_h . figures  +  e_h

    The output is a weighted sum of these units and of a 3 x 3 convolution of them: noise is a pixel
    or two in size, and a pixel whose neighbours are blood is not a hole in it.

    With the squares expanded, this is one matrix product per prompt, of f and f^2, rather than of
    all differences; f is taken relative to the clicked features, so that little cancels. In
    float32.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        scale = (3 * channels) ** -0.5
        self.difference = nn.Parameter(scale * torch.randn(hidden, 3, channels))
        self.square = nn.Parameter(scale * torch.randn(hidden, 3, channels))
        self.share = nn.Parameter(torch.randn(hidden, 2))
        self.figures = nn.Linear(2, hidden)
        self.out = Pointwise(hidden, 1)
        self.neighbours = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.neighbours_out = Pointwise(hidden, 1, bias=False)
        for each in (*self.out.parameters(), *self.neighbours_out.parameters()):
            nn.init.zeros_(each)

    def forward(self, features: Tensor, first: Regions) -> Tensor:
        means = first.means(features)  # [B, 3, D]
        clicked = means[:, 2:]
        apart = features.float() - clicked.mT[..., None]
        share = first.maps[:, :1]
        about = F.avg_pool2d(share, (5, 1), stride=1, padding=(2, 0))
        about = F.avg_pool2d(about, (1, 5), stride=1, padding=(0, 2))
        seen = torch.cat([apart, apart * apart, share, about], dim=1).flatten(2)
        weight, bias = self._weights(means - clicked, first)
        hidden = F.relu(weight @ seen + bias[..., None])
        hidden = hidden.reshape(-1, len(self.share), *share.shape[2:])
        out: Tensor = self.out(hidden) + self.neighbours_out(F.relu(self.neighbours(hidden)))
        return out

    def _weights(self, means: Tensor, first: Regions) -> tuple[Tensor, Tensor]:
        """Weights [B, H, 2 D + 2] and bias [B, H] of one prompt's product; ``means`` [B, 3, D] are
        relative to the clicked region's.

        A region without cells, such as the click's if there is only a box, has no effect.
        """
        there = (first.maps.sum((2, 3)) > 0).to(means.dtype)[:, None, :, None]
        difference, square = self.difference * there, self.square * there  # [B, H, 3, D]
        means = means[:, None]
        linear = (difference - 2 * square * means).sum(2)
        share = self.share.expand(means.shape[0], -1, -1)
        bias = self.figures(first.figures) + ((square * means - difference) * means).sum((2, 3))
        return torch.cat([linear, square.sum(2), share], dim=2), bias


class Review(nn.Module):
    """The second look at both sizes: at the decoder's cells and at the fine features."""

    def __init__(self, cells: int, fine: int) -> None:
        """Numbers of channels."""
        super().__init__()
        self.cells, self.fine = SecondLook(cells, 32), SecondLook(fine, 16)

    def forward(
        self, logits: Tensor, cells: Tensor, fine: Tensor, where: Tensor, fine_where: Tensor
    ) -> Tensor:
        """Logits [B, 1, 2S, 2S] -> the same, revised. ``cells`` [B, D, S, S], ``fine``
        [B, K, 2S, 2S]; ``where`` and ``fine_where``: the clicks' places at the two sizes.

        No gradient flows through the first mask's regions: it is taken as it is.
        """
        share = logits.detach().sigmoid()
        coarse = self.cells(cells, regions(F.avg_pool2d(share, 2), where))
        finest: Tensor = self.fine(fine, regions(share, fine_where))
        return logits + upsampled_twice(coarse) + finest
