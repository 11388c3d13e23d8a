"""SAM's mask up-sampling on tokens: 2 x 2 transposed convolutions of stride 2 as linear layers.

The windows of such a convolution do not overlap, so the sixteen cells of a token depend on that
token alone. With the data kept token by token, channels last, the convolutions are plain products,
the norm runs over the last axis, and only the finished mask, one channel, is arranged in rows and
columns. This is exact.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

SIDE = 2
"""Cells along each side that one layer makes from a token or cell."""


class BlockLinear(nn.Module):
    """``nn.ConvTranspose2d(C, O, 2, stride=2)``: x [B, n, C] -> [B, 4 n, O], row by row of each
    block."""

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.channels = conv.out_channels
        weight = conv.weight.detach().permute(0, 2, 3, 1)  # [C, 2, 2, O]
        self.weight = nn.Parameter(weight.flatten(1).contiguous())
        bias = weight.new_zeros(self.channels) if conv.bias is None else conv.bias.detach()
        self.bias = nn.Parameter(bias.repeat(SIDE**2))

    def forward(self, x: Tensor) -> Tensor:
        blocks = x @ self.weight + self.bias
        return blocks.reshape(x.shape[0], -1, self.channels)


def norm_over_last(norm: Any) -> nn.LayerNorm:
    """segment-anything's ``LayerNorm2d`` for a channels-last layout."""
    made = nn.LayerNorm(norm.weight.numel(), eps=float(norm.eps))
    made.weight, made.bias = nn.Parameter(norm.weight.detach()), nn.Parameter(norm.bias.detach())
    return made


class TokenUpscaling(nn.Sequential):
    """SAM's ``output_upscaling``: tokens [B, L, E] -> cells [B, 16 L, E / 8]. Its layers keep their
    positions, and so their weights keep their names."""

    def __init__(self, upscaling: Any) -> None:
        first, norm, activation, second, last = upscaling
        layers = BlockLinear(first), norm_over_last(norm), activation, BlockLinear(second), last
        super().__init__(*layers)


def in_rows(cells: Tensor, grid: int) -> Tensor:
    """The cells of :class:`TokenUpscaling`, one value each, as an image: [B, 16 G G] ->
    [B, 1, 4 G, 4 G]."""
    # Rows and columns of the token, of the block in it, and of the cell in the block.
    nested = cells.reshape(-1, grid, grid, SIDE, SIDE, SIDE, SIDE)
    rows = nested.permute(0, 1, 3, 5, 2, 4, 6)
    return rows.reshape(-1, 1, SIDE**2 * grid, SIDE**2 * grid)
