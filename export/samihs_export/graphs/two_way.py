"""The mask decoder's attention between the T tokens of a prompt and the L tokens of the image.

segment-anything projects all L image tokens to keys, values or queries anew in each layer. A click
has T = 7 tokens and an image has 4,096, so each projection is moved to the tokens' side, head
by head (x: image, t: tokens, P: softmax of the scores)::

    token to image   (t Wq) (x Wk + c)^T = (t Wq Wk^T) x^T + a term equal for all keys, which
                                           cancels in the softmax
                     P (x Wv + c)        = (P x) Wv + c, since each row of P sums to 1
    image to token   (x Wq + c) (t Wk)^T = x (Wq (t Wk)^T) + c (t Wk)^T
                     (P (t Wv)) Wo       = P (t Wv Wo)

Both sides are equal up to rounding. Instead of 2 L C d multiplications, with d columns over all
heads, there are 2 L C h T: in SAM (d = 128, h = 8) 0.44 times as many for one click, and equally
many for ten. No projection of the image is stored or split into heads.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from samihs_export.graphs.named_layers import NamedLinear
from samihs_training.network.sam import segment_anything_modeling

_TO_IMAGE = ("cross_attn_token_to_image", "final_attn_token_to_image")
_FROM_IMAGE = "cross_attn_image_to_token"
"""Names of the attention modules in segment-anything's transformer."""


def make_attention_exportable(decoder: nn.Module) -> None:
    """Replace each attention of SAM's two-way transformer, in place, by one of this module; so also
    in a pyramid's context."""
    theirs: Any = segment_anything_modeling().transformer.Attention
    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, theirs):
                setattr(parent, name, _exportable(name, child))


def _exportable(name: str, attention: Any) -> nn.Module:
    if name in _TO_IMAGE:
        return TokenToImage(attention)
    return ImageToToken(attention) if name == _FROM_IMAGE else TokenAttention(attention)


class Heads(nn.Module):
    """A separate product for each head: x [B, h or 1, n, a] -> [B, h, n, b].

    ``weight`` [h, a, b], ``bias`` [h, 1, b] or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().contiguous())
        self.bias = None if bias is None else nn.Parameter(bias.detach().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        product = x @ self.weight
        return product if self.bias is None else product + self.bias


def _into_heads(linear: nn.Linear, heads: int) -> Heads:
    """x -> the output of each head: the layer itself, split by its outputs."""
    weight = linear.weight.view(heads, -1, linear.in_features)  # [h, d, C]
    return Heads(weight.mT, linear.bias.view(heads, 1, -1))


def _out_of_heads(linear: nn.Linear, heads: int) -> Heads:
    """The transpose of the layer without its bias, split by its outputs: [h, d] -> [C]."""
    return Heads(linear.weight.view(heads, -1, linear.in_features))


def _joined(x: Tensor) -> Tensor:
    """[B, h, T, C] -> [B, h T, C]. Not by ``flatten``: in ONNX it computes the product of h and T
    as a shape, so that nothing after it has a known size before it runs."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


class TokenToImage(nn.Module):
    """Tokens attend to the image: q [B, T, C], k and v [B, L, C] -> [B, T, C]."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads = int(attention.num_heads)
        self.scale = (int(attention.internal_dim) // self.heads) ** -0.5
        self.q_proj = _into_heads(attention.q_proj, self.heads)
        self.k_proj = _out_of_heads(attention.k_proj, self.heads)
        self.v_proj = _into_heads(attention.v_proj, self.heads)
        self.out_proj = NamedLinear(attention.out_proj)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        asked = _joined(self.k_proj(self.q_proj(q[:, None]) * self.scale))  # [B, h T, C]
        scores = asked @ k.mT  # [B, h T, L]
        mixed = scores.float().softmax(-1).to(v.dtype) @ v  # [B, h T, C]
        answers = self.v_proj(self._by_head(mixed))  # [B, h, T, d]
        out: Tensor = self.out_proj(answers.transpose(1, 2).flatten(2))
        return out

    def _by_head(self, mixed: Tensor) -> Tensor:
        """[B, h T, C] -> [B, h, T, C]."""
        return mixed.reshape(mixed.shape[0], self.heads, -1, mixed.shape[-1])


class ImageToToken(nn.Module):
    """The image attends to the tokens: q [B, L, C], k and v [B, T, C] -> [B, L, C]."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads = heads = int(attention.num_heads)
        self.scale = (int(attention.internal_dim) // heads) ** -0.5
        self.q_proj = _out_of_heads(attention.q_proj, heads)
        self.q_bias = nn.Parameter(attention.q_proj.bias.detach().view(heads, -1, 1))
        self.k_proj = _into_heads(attention.k_proj, heads)
        self.v_proj = _into_heads(attention.v_proj, heads)
        out = attention.out_proj.weight.mT  # [h d, C]
        self.out_proj = Heads(out.reshape(heads, -1, out.shape[1]))
        self.out_bias = nn.Parameter(attention.out_proj.bias.detach())

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        key = self.k_proj(k[:, None]) * self.scale  # [B, h, T, d]
        asked = _joined(self.q_proj(key))  # [B, h T, C]
        shift = _joined(key @ self.q_bias)  # [B, h T, 1]
        scores = q @ asked.mT + shift.mT  # [B, L, h T]
        by_head = scores.reshape(*q.shape[:2], self.heads, -1)
        shares = by_head.float().softmax(-1).to(v.dtype).reshape(*q.shape[:2], -1)
        value = _joined(self.out_proj(self.v_proj(v[:, None])))  # [B, h T, C]
        out: Tensor = shares @ value + self.out_bias
        return out


class TokenAttention(nn.Module):
    """``transformer.Attention`` unchanged: q [B, n, C], k and v [B, m, C] -> [B, n, C]."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.out_proj = attention.v_proj, attention.out_proj
        self.heads = int(attention.num_heads)
        self.scale = (int(attention.internal_dim) // self.heads) ** -0.5

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # [B, tokens, C] -> [B, heads, tokens, d]
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        scores = query @ key.mT * self.scale
        mixed = scores.float().softmax(-1).to(value.dtype) @ value
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out
