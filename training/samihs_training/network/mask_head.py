"""What a pyramid's decoder adds to SAM's: masks that follow long collections, and a better score.

SAM's decoder informs each image token of the click, but image tokens never attend to one another
again: a collection is followed only as far as the encoder, which knows no click, has marked it as
one thing. :class:`Context` lets them do so, at half the grid. SAM predicts a mask's IoU from a
token that never sees the mask; :class:`Evidence` looks at what the mask contains, as Mask Scoring
R-CNN does (arXiv 1903.00241). And how similar each cell is to what was clicked, on which region
growing relies, SAM can express only through the 16 weights of a mask; :class:`Likeness` compares
them directly. All of these start out with no effect, so a model to which they are added answers as
before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samihs_training.network.pointwise import Pointwise
from samihs_training.network.pyramid import upsampled_twice
from samihs_training.network.second_look import regions


class Context(nn.Module):
    """source [B, E, G, G] after SAM's two-way transformer -> the same, each token having attended
    to all."""

    def __init__(self, width: int, heads: int, mlp: int, modeling: Any) -> None:
        """``modeling``: segment-anything's, which provides attention and MLP."""
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention: Any = modeling.transformer.Attention(width, heads)
        self.mlp: Any = modeling.common.MLPBlock(width, mlp)
        for last in (self.attention.out_proj, self.mlp.lin2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, source: Tensor, position: Tensor) -> Tensor:
        """``position`` [1 or B, E, G, G]: SAM's encoding of where each token lies."""
        coarse = F.avg_pool2d(source, 2)
        tokens = coarse.flatten(2).mT  # [B, L, E]
        known = self.norm1(tokens)
        placed = known + F.avg_pool2d(position, 2).flatten(2).mT
        seen = tokens + self.attention(placed, placed, known)
        change = seen - tokens + self.mlp(self.norm2(seen))
        return source + _doubled(change.mT.reshape(coarse.shape))


class Likeness(nn.Module):
    """How each cell differs from what was clicked: features [B, D, S, S] -> [B, D, S, S].

    What was clicked is the mean of the features under the foreground clicks
    (:class:`~samihs_training.network.click_maps.Clicked`). If there is only a box, nothing was
    clicked, and the output is zero.
    """

    def __init__(self, channels: int, hidden: int = 32) -> None:
        super().__init__()
        self.hidden = Pointwise(2 * channels, hidden)
        self.out = Pointwise(hidden, channels, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, features: Tensor, where: Tensor) -> Tensor:
        """``where`` [B, S, S]: the clicks' Gaussians, summing to 1, or to 0 if there are none."""
        clicked = features.flatten(2) @ where.flatten(1)[..., None]  # [B, D, 1]
        apart = features - clicked[..., None]
        seen = F.gelu(self.hidden(torch.cat([apart, apart * apart], dim=1)))
        out: Tensor = self.out(seen) * where.sum((1, 2))[:, None, None, None]
        return out


class Evidence(nn.Module):
    """What a mask contains, what lies around it and what was clicked -> a term added to its score.

    Uses means of the decoder's cells, which already depend on the click, and of the slice's own
    features at both sizes, which tell blood from what looks like it before any click
    (``bleed_map.py``).
    """

    def __init__(self, cells: int, fine: int, hidden: int = 64) -> None:
        """Channels: ``cells`` is D, of the cells and of the detail; ``fine`` is K."""
        super().__init__()
        self.answered = 3 * cells + 2  # figures
        self.hidden = nn.Linear(self.answered, hidden)
        self.slice_hidden = nn.Linear(3 * (cells + fine), hidden, bias=False)
        self.out = nn.Linear(hidden, 1)
        for each in (self.slice_hidden.weight, self.out.weight, self.out.bias):
            nn.init.zeros_(each)

    def forward(
        self, logits: Tensor, cells: Tensor, detail: Tensor, fine: Tensor, where: Tensor
    ) -> Tensor:
        """Logits [B, 1, 2S, 2S], cells and detail [B, D, S, S], fine [B, K, 2S, 2S] and where the
        clicks lie [B, S, S] -> [B], float32."""
        return self.worth(self.means(logits, cells, detail, fine, where))

    def means(
        self, logits: Tensor, cells: Tensor, detail: Tensor, fine: Tensor, where: Tensor
    ) -> Tensor:
        """The means that :meth:`worth` takes: [B, R]."""
        # The score must not improve by changing the mask.
        share = logits.detach().float().sigmoid()
        seen = regions(F.avg_pool2d(share, 2), where)
        features = cells, detail, F.avg_pool2d(fine.float(), 2)
        answered, *of_slice = (seen.means(each).flatten(1) for each in features)
        return torch.cat([answered, seen.figures, *of_slice], dim=1)

    def worth(self, evidence: Tensor) -> Tensor:
        """[B, R] -> [B]."""
        answered, of_slice = evidence[:, : self.answered], evidence[:, self.answered :]
        hidden = F.gelu(self.hidden(answered) + self.slice_hidden(of_slice))
        out: Tensor = self.out(hidden)[:, 0]
        return out


def gated(coarse: Tensor, fine: Tensor) -> Tensor:
    """coarse [B, 2, 4G, 4G] (logits, gate) and fine logits [B, 1, 8G, 8G] -> logits, float32.

    The gate decides where the fine features' answer counts: they know of the click only what it
    looks like.
    """
    coarse = upsampled_twice(coarse)
    return coarse[:, :1] + (1 + coarse[:, 1:]) * fine.float()


def _doubled(image: Tensor) -> Tensor:
    """[B, E, H, W] -> [B, E, 2H, 2W]: each cell four times."""
    count, channels, height, width = image.shape
    cells = image[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2)
    return cells.reshape(count, channels, 2 * height, 2 * width)
