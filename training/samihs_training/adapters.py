"""Parameter-refactoring (PR) adapters, SAMIHS's way to adapt SAM (arXiv 2311.08190).

For tokens x: ``y = x + (x (D * s)) D^T + b`` with D [C, r] shared by all blocks, while s [r] and b
[C] belong to each block; s = b = 0 at the start, so an untrained adapter is the identity. One D
serves the attention adapters, another the MLP adapters. An adapter sits between a LayerNorm and
what follows it, and is linear, so it folds into the following linear layer
(``samihs_export.merge``).

It is inserted by composition, without a fork of SAM: ``attn`` becomes ``Sequential(adapter, attn)``
and ``mlp`` becomes ``Sequential(adapter, mlp)``. The windows are then padded with zeros *after* the
norm, as in SAM, and the adapter outputs b for pad tokens. The SAMIHS authors' code pads *before*
the norm; ``pad_before_norm=True`` reproduces this by moving ``norm1`` inside the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from samihs_runtime.errors import UsageError

Site = Literal["attn", "mlp"]
SITES: tuple[Site, ...] = ("attn", "mlp")


class Adapter(nn.Module):
    """Base class of the layers that a method adds to SAM: all their own parameters are trained."""


class PRAdapter(Adapter):
    """``y = x + (x (D * s)) D^T + b`` over the last axis; see the module docstring."""

    def __init__(self, direction: nn.Parameter) -> None:
        """``direction``: D [C, r], one parameter that several adapters share."""
        super().__init__()
        width, rank = direction.shape
        self.direction = direction
        self.scale = nn.Parameter(torch.zeros(rank))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        # x: [..., C] -> [..., r] -> [..., C]
        return x + (x @ (self.direction * self.scale)) @ self.direction.mT + self.bias

    def matrix(self) -> Tensor:
        """M = I + D diag(s) D^T in float64 [C, C]: y = M x + b (M is symmetric)."""
        direction, scale = self.direction.double(), self.scale.double()
        eye = torch.eye(direction.shape[0], dtype=torch.float64, device=direction.device)
        return eye + (direction * scale) @ direction.mT


@dataclass(frozen=True)
class PRConfig:
    """Options of the PR adapters. The defaults are the paper's."""

    rank: int = 100
    sites: tuple[Site, ...] = SITES
    pad_before_norm: bool = False
    """The authors' order of padding and normalising; see the module docstring."""

    def __post_init__(self) -> None:
        check_rank_and_sites(self.rank, self.sites)


def check_rank_and_sites(rank: int, sites: tuple[Site, ...]) -> None:
    """Raise a :class:`UsageError` for a rank below 1, no sites, or an unknown site."""
    if rank < 1:
        raise UsageError(f"rank {rank}: expected 1 or more")
    if not sites or not set(sites) <= set(SITES):
        raise UsageError(f"sites {list(sites)}: expected one or both of {', '.join(SITES)}")


def insert_pr_adapters(sam: nn.Module, config: PRConfig) -> None:
    """Put PR adapters into every block of ``sam.image_encoder``, in place.

    With s = b = 0 the encoder computes what it did before.
    """
    encoder: Any = sam.image_encoder
    directions = {site: _new_direction(encoder, config.rank) for site in config.sites}
    for block in encoder.blocks:
        if "attn" in directions:
            adapter = PRAdapter(directions["attn"])
            if config.pad_before_norm:
                block.attn = nn.Sequential(block.norm1, adapter, block.attn)
                block.norm1 = nn.Identity()
            else:
                block.attn = nn.Sequential(adapter, block.attn)
        if "mlp" in directions:
            block.mlp = nn.Sequential(PRAdapter(directions["mlp"]), block.mlp)


def pr_adapters(sam: nn.Module) -> Iterator[tuple[int, Site, PRAdapter]]:
    """Every PR adapter of the encoder, as (block, site, adapter), in order."""
    encoder: Any = sam.image_encoder
    for index, block in enumerate(encoder.blocks):
        sites: tuple[tuple[Site, nn.Module], ...] = (("attn", block.attn), ("mlp", block.mlp))
        for site, module in sites:
            children = module.children() if isinstance(module, nn.Sequential) else ()
            for child in children:
                if isinstance(child, PRAdapter):
                    yield index, site, child


def _new_direction(encoder: Any, rank: int) -> nn.Parameter:
    width = encoder.pos_embed.shape[-1]
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, rank)))
