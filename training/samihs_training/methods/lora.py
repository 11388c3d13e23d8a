"""LoRA (Hu et al., arXiv 2106.09685): a low-rank update beside a frozen linear layer.

``W x + (alpha / r) B A x`` with A [r, in] and B [out, r]; B = 0 at the start. The updated layers
are those that PR adapters merge into, ``attn.qkv`` and ``mlp.lin1``, so that the two methods change
the same weights and differ in how.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from samihs_training.adapters import SITES, Adapter, Site, check_rank_and_sites
from samihs_training.methods.base import Method
from samihs_training.network.sam import encoder_blocks

LAYERS: dict[Site, str] = {"attn": "qkv", "mlp": "lin1"}
"""The linear layer of each site that is updated."""


class LowRankUpdate(Adapter):
    """``scale * up(down(x))``: [..., in] -> [..., r] -> [..., out]."""

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.empty(rank, inputs))  # A
        self.up = nn.Parameter(torch.zeros(outputs, rank))  # B
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as the LoRA authors' code does

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.down.mT) @ self.up.mT * self.scale

    def matrix(self) -> Tensor:
        """(alpha / r) B A in float64 [out, in]: what merging adds to the frozen weight."""
        return self.up.double() @ self.down.double() * self.scale


class LoRALinear(nn.Module):
    """A linear layer with its update beside it."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear = linear
        self.update = LowRankUpdate(linear.in_features, linear.out_features, rank, alpha)

    def forward(self, x: Tensor) -> Tensor:
        updated: Tensor = self.linear(x) + self.update(x)
        return updated


@dataclass(frozen=True)
class LoRA(Method):
    """LoRA on ``attn.qkv``, ``mlp.lin1``, or both."""

    name = "lora"
    summary = "low-rank updates of qkv and the MLP's first layer"
    merges = True

    rank: int = 16
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    sites: tuple[Site, ...] = SITES

    def __post_init__(self) -> None:
        check_rank_and_sites(self.rank, self.sites)

    def insert(self, sam: nn.Module) -> None:
        for block in encoder_blocks(sam):
            for site in self.sites:
                parent, layer = getattr(block, site), LAYERS[site]
                setattr(parent, layer, LoRALinear(getattr(parent, layer), self.rank, self.alpha))
