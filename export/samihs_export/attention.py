"""SAM's attention with relative positions, in the two forms that export well.

segment-anything adds ``q . Rh`` and ``q . Rw`` to the attention's scores. Both forms here compute
the same with the same weights, the tables Rh, Rw gathered once and kept as constants:

- ``bias``: scores + bias, softmax, times v. The least arithmetic; ONNX Runtime's choice.
- ``augmented``: ``q' = [q * scale, q.Rh, q.Rw]`` and ``k' = [k, onehot_h, onehot_w]`` make the
  scores one plain product, so that ``scaled_dot_product_attention`` serves. At opset 23 it becomes
  the ONNX ``Attention`` operator, which TensorRT takes as its own attention layer where q, k and v
  have one head width: v is padded to it and the result cut. No L x L matrix is ever stored.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samihs_training.sam import segment_anything_modeling

AttentionForm = Literal["bias", "augmented"]


class RelativeAttention(nn.Module):
    """segment-anything's ``image_encoder.Attention``: tokens [B, H, W, C] -> the same shape."""

    table_h: Tensor
    """Buffers: [side of the query, head width, side of the key]."""
    table_w: Tensor
    key_positions: Tensor

    def __init__(self, attention: Any, side: int, form: AttentionForm) -> None:
        """``attention``: SAM's module, whose layers are shared; ``side``: H = W, tokens."""
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.heads, self.scale = int(attention.num_heads), float(attention.scale)
        self.side, self.form = side, form
        gather: Any = segment_anything_modeling().image_encoder.get_rel_pos
        tables = [
            gather(side, side, table).detach().mT.contiguous()
            for table in (attention.rel_pos_h, attention.rel_pos_w)
        ]
        self.register_buffer("table_h", tables[0])
        self.register_buffer("table_w", tables[1])
        if form == "augmented":
            width = tables[0].shape[1]
            self.register_buffer("key_positions", F.pad(_onehot_positions(side), (width, 0)))

    def forward(self, x: Tensor) -> Tensor:
        side, width = self.side, self.qkv.in_features
        heads = self.qkv(x).reshape(-1, side * side, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, L, d]
        mixed = self._biased(q, k, v) if self.form == "bias" else self._augmented(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(-1, side, side, width))
        return out

    def _positions(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """q.Rh and q.Rw, each [B, heads, H, W, side]."""
        grid = q.reshape(-1, self.heads, self.side, self.side, q.shape[-1])
        rows = grid @ self.table_h  # query row h picks its table
        columns = (grid.transpose(2, 3) @ self.table_w).transpose(2, 3)
        return rows, columns

    def _biased(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, columns = self._positions(q)
        tokens = self.side * self.side
        scores = (q * self.scale) @ k.mT
        bias = rows[..., :, None] + columns[..., None, :]  # [B, heads, H, W, side, side]
        scores = scores + bias.reshape(-1, self.heads, tokens, tokens)
        return scores.float().softmax(-1).to(v.dtype) @ v

    def _augmented(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, columns = self._positions(q)
        extra = 2 * self.side
        shape = (-1, self.heads, self.side * self.side, self.side)
        query = torch.cat([q * self.scale, rows.reshape(shape), columns.reshape(shape)], dim=-1)
        key = F.pad(k, (0, extra)) + self.key_positions
        value = F.pad(v, (0, extra))
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return mixed[..., : v.shape[-1]]


class TwoWayAttention(nn.Module):
    """The mask decoder's ``transformer.Attention``, its softmax in float32 at every precision."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.out_proj = attention.v_proj, attention.out_proj
        self.heads = int(attention.num_heads)
        self.width = int(attention.internal_dim) // self.heads

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # [B, tokens, C] -> [B, heads, tokens, d]
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, self.width)).transpose(1, 2)
            for layer, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        scores = query @ key.mT * self.width**-0.5
        mixed = scores.float().softmax(-1).to(value.dtype) @ value
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


def _onehot_positions(side: int) -> Tensor:
    """[L, 2 side]: for each key token the one-hot of its row, then of its column."""
    eye = torch.eye(side)
    rows, columns = eye.repeat_interleave(side, 0), eye.repeat(side, 1)
    return torch.cat([rows, columns], dim=-1)
