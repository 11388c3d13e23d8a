"""Bottleneck adapters (Houlsby et al., arXiv 1902.00751): a small MLP after a sublayer.

``y = x + up(GELU(down(x)))`` after the attention and after the MLP, before the residual sum; up is
zero at the start. Being nonlinear, they cannot be merged into a neighbouring linear layer: an
exported model keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from samihs_training.adapters import SITES, Adapter, Site, check_rank_and_sites
from samihs_training.methods.base import Method
from samihs_training.network.sam import encoder_blocks


class BottleneckAdapter(Adapter):
    """``x + up(GELU(down(x)))`` over the last axis: [..., C] -> [..., r] -> [..., C]."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank)
        self.up = nn.Linear(rank, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        adapted: Tensor = x + self.up(F.gelu(self.down(x)))
        return adapted


@dataclass(frozen=True)
class Bottleneck(Method):
    """Bottleneck adapters after the attention, the MLP, or both."""

    name = "bottleneck"
    summary = "nonlinear bottleneck adapters after attention and MLP"
    merges = False

    rank: int = 64
    """Hidden width r."""
    sites: tuple[Site, ...] = SITES

    def __post_init__(self) -> None:
        check_rank_and_sites(self.rank, self.sites)

    def insert(self, sam: nn.Module) -> None:
        for block in encoder_blocks(sam):
            width = block.norm1.normalized_shape[0]
            for site in self.sites:
                adapter = BottleneckAdapter(width, self.rank)
                setattr(block, site, nn.Sequential(getattr(block, site), adapter))
