"""Tokens in attention windows: split into heads and joined again, one transpose each way.

If the window does not divide the grid, SAM pads the grid with zeros at the far edges (64 -> 70 for
windows of 14), *before* the projection to queries, keys and values. All pad tokens are equal, so
their projection is a constant: only the grid's own tokens are projected, and the result is padded.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Windows:
    """A grid of G x G tokens in square windows; the whole grid is one window of side G."""

    grid: int
    side: int

    @property
    def pad(self) -> int:
        """Rows and columns of pad tokens at the far edges."""
        return -self.grid % self.side

    @property
    def count(self) -> int:
        """Windows along one side, n."""
        return (self.grid + self.pad) // self.side

    def padded(self, x: Tensor) -> Tensor:
        """[B, G, G, C] -> [B, G + pad, G + pad, C], zeros at the far edges."""
        return F.pad(x, (0, 0, 0, self.pad, 0, self.pad)) if self.pad else x

    def split(self, qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Padded qkv [B, n w, n w, 3 C] -> q, k, v, each [B n n, heads, w w, C / heads]."""
        n, w, width = self.count, self.side, qkv.shape[-1] // (3 * heads)
        parts = qkv.reshape(-1, n, w, n, w, 3, heads, width).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = parts.reshape(3, -1, heads, w * w, width).unbind(0)
        return q, k, v

    def join(self, mixed: Tensor) -> Tensor:
        """[B n n, heads, w w, d] -> [B, G, G, heads d], without the pad tokens."""
        n, w, heads, width = self.count, self.side, mixed.shape[1], mixed.shape[-1]
        parts = mixed.reshape(-1, n, n, heads, w, w, width).permute(0, 1, 4, 2, 5, 3, 6)
        tokens = parts.reshape(-1, n * w, n * w, heads * width)
        return tokens[:, : self.grid, : self.grid] if self.pad else tokens
