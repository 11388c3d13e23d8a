"""SAM's attention with relative positions, in the three forms that export well.

segment-anything adds ``q . Rh`` and ``q . Rw`` to the attention scores. All forms here compute the
same with the same weights, with the tables Rh and Rw gathered once and kept as constants:

- ``bias``: scores + bias, softmax, times v. The least arithmetic; used for small windows.
- ``augmented``: ``q' = [q * scale, q.Rh, q.Rw]`` and ``k' = [k, onehot_h, onehot_w]`` turn the
  scores into one plain product, so that ``scaled_dot_product_attention`` can be used. At opset 23
  it becomes the ONNX ``Attention`` operator, which TensorRT maps to its own attention layer if q, k
  and v have the same head width: v is padded to it and the result cropped. No L x L matrix is ever
  stored.
- ``fused``: ``augmented`` for ONNX Runtime's own attention operator (``ort_attention``), which
  accepts a v of a different width, so nothing is padded. For a whole grid, not for windows of it.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samihs_export.graphs.named_layers import NamedLinear
from samihs_export.graphs.ort_attention import multi_head_attention
from samihs_export.graphs.windows import Windows
from samihs_runtime.errors import ExportError
from samihs_training.network.sam import segment_anything_modeling

AttentionForm = Literal["bias", "augmented", "fused"]
_FUSED_FROM = 32
"""Side of the smallest grid for which the wider products of ``fused`` pay off: one-hot positions
add twice the side to each head's width. At 64 x 64 and at 32 x 32 tokens it took 0.9 of the CPU
time of ``bias``, and a thirteenth and two thirds of its memory, respectively (onnxruntime 1.32,
AVX-512). The scores of a 14 x 14 window are 150 kB per head and stay in the cache in any form."""


def form_in(windows: Windows, asked: AttentionForm) -> AttentionForm:
    """The form used in a block of a graph for which ``asked`` was requested."""
    small = windows.count > 1 or windows.side < _FUSED_FROM
    return "bias" if asked == "fused" and small else asked


class RelativeAttention(nn.Module):
    """segment-anything's window or global attention: tokens [B, G, G, C] -> the same shape.

    ``before`` (a norm in the authors' pad order, or an adapter that was not merged) acts on each
    token separately, so every pad token reaches the projection as the same ``z = before(0)``.
    ``before(x) - z`` is projected without bias and padded with zeros, and ``W z + c`` is added to
    all tokens. This is exact, and no pad token is ever multiplied.
    """

    table_h: Tensor
    """Buffers: [side of the query, head width, side of the key]."""
    table_w: Tensor
    key_positions: Tensor
    pad_token: Tensor
    """Buffer [C]: z; empty if it is zero or nothing is padded."""

    def __init__(
        self,
        attention: Any,
        windows: Windows,
        form: AttentionForm,
        before: nn.Module | None = None,
    ) -> None:
        """``attention``: SAM's module, adapters merged into its linear layers.

        Raises:
            ExportError: ``fused`` for windows, or adapters that were not merged.
        """
        super().__init__()
        if form == "fused" and windows.count > 1:
            raise ExportError("fused attention is for a whole grid, not for windows of it")
        self.windows, self.form = windows, form
        self.before = before or nn.Identity()
        self.heads, self.scale = int(attention.num_heads), float(attention.scale)
        _require_linear(attention.qkv)
        qkv, pad_token = _with_pad_token_in_bias(attention.qkv, self.before, windows)
        self.qkv, self.proj = NamedLinear(qkv), attention.proj
        self.register_buffer("pad_token", pad_token)
        gather: Any = segment_anything_modeling().image_encoder.get_rel_pos
        side = windows.side
        for name in ("h", "w"):
            table = gather(side, side, getattr(attention, f"rel_pos_{name}"))
            self.register_buffer(f"table_{name}", table.detach().mT.contiguous())
        if form != "bias":
            width = self.table_h.shape[1]
            self.register_buffer("key_positions", F.pad(_onehot_positions(side), (width, 0)))

    def forward(self, x: Tensor) -> Tensor:
        projected = self._projected(x)
        mixed = self._fused(projected) if self.form == "fused" else self._split(projected)
        out: Tensor = self.proj(mixed)
        return out

    def _split(self, qkv: Tensor) -> Tensor:
        """Attention in windows: [B, G + pad, G + pad, 3 C] -> [B, G, G, C]."""
        q, k, v = self.windows.split(qkv, self.heads)  # [B, heads, L, d]
        mixed = self._biased(q, k, v) if self.form == "bias" else self._augmented(q, k, v)
        return self.windows.join(mixed)

    def _projected(self, x: Tensor) -> Tensor:
        """[B, G, G, C] -> [B, G + pad, G + pad, 3 C]."""
        tokens: Tensor = self.before(x)
        if self.pad_token.numel():
            tokens = tokens - self.pad_token
        if not self.windows.pad:
            out: Tensor = self.qkv(tokens)
            return out
        product = self.qkv(tokens, biased=False)
        return self.windows.padded(product) + self.qkv.bias

    def _positions(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """q.Rh and q.Rw, each [B, heads, H, W, side]."""
        side = self.windows.side
        grid = q.reshape(-1, self.heads, side, side, q.shape[-1])
        rows = grid @ self.table_h  # query row h picks its table
        columns = (grid.transpose(2, 3) @ self.table_w).transpose(2, 3)
        return rows, columns

    def _biased(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, columns = self._positions(q)
        tokens = self.windows.side**2
        scores = (q * self.scale) @ k.mT
        bias = rows[..., :, None] + columns[..., None, :]  # [B, heads, H, W, side, side]
        scores = scores + bias.reshape(-1, self.heads, tokens, tokens)
        return scores.float().softmax(-1).to(v.dtype) @ v

    def _augmented(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, columns = self._positions(q)
        side = self.windows.side
        extra = 2 * side
        shape = (-1, self.heads, side * side, side)
        query = torch.cat([q * self.scale, rows.reshape(shape), columns.reshape(shape)], dim=-1)
        key = F.pad(k, (0, extra)) + self.key_positions
        value = F.pad(v, (0, extra))
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return mixed[..., : v.shape[-1]]

    def _fused(self, qkv: Tensor) -> Tensor:
        """Attention over the grid: [B, G, G, 3 C] -> [B, G, G, C]; heads stay by their channels."""
        side, heads = self.windows.side, self.heads
        parts = qkv.reshape(-1, side, side, 3 * heads, qkv.shape[-1] // (3 * heads))
        q, k, v = parts.chunk(3, dim=3)  # [B, H, W, heads, d]
        # Each query row has its own table, and so does each column.
        by_query = (-1, side, side, heads, side)  # the last axis: the key's row or column
        rows = (q.flatten(2, 3) @ self.table_h).reshape(by_query)
        columns = (q.transpose(1, 2).flatten(2, 3) @ self.table_w).reshape(by_query)
        query = torch.cat([q * self.scale, rows, columns.transpose(1, 2)], dim=-1)
        key = F.pad(k.flatten(1, 2), (0, 2 * side)) + self.key_positions[:, None]
        mixed = multi_head_attention(query.flatten(1, 2), key, v.flatten(1, 2))
        return mixed.reshape(-1, side, side, mixed.shape[-1])


def _require_linear(qkv: nn.Module) -> None:
    if not isinstance(qkv, nn.Linear):
        raise ExportError(
            f"the projection to queries, keys and values is a {type(qkv).__name__}, expected a "
            "plain linear layer: merge the model first (samihs_export.merge)"
        )


@torch.no_grad()
def _with_pad_token_in_bias(
    qkv: nn.Linear, before: nn.Module, windows: Windows
) -> tuple[nn.Linear, Tensor]:
    """(qkv with bias ``W z + c``, z); if z is zero or unused, (qkv itself, an empty tensor)."""
    token = before(qkv.weight.new_zeros(1, 1, 1, qkv.in_features)).flatten()
    if not windows.pad or not token.any():
        return qkv, token[:0]
    shifted = copy.deepcopy(qkv)
    bias = qkv.weight.double() @ token.double() + qkv.bias.double()
    shifted.bias = nn.Parameter(bias.to(qkv.weight.dtype))
    return shifted, token


def _onehot_positions(side: int) -> Tensor:
    """[L, 2 side]: for each key token, the one-hot vector of its row, then that of its column."""
    eye = torch.eye(side)
    rows, columns = eye.repeat_interleave(side, 0), eye.repeat(side, 1)
    return torch.cat([rows, columns], dim=-1)
