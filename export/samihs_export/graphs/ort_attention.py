"""ONNX Runtime's own attention operator, ``com.microsoft.MultiHeadAttention``, from torch.

Without a bias, mask or past, it computes the scores on a CPU in cache-sized tiles, like flash
attention: L x L numbers are never stored. ONNX Runtime's implementation of the standard
``Attention`` operator does store them (onnxruntime 1.32).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

OPERATOR, DOMAIN = "MultiHeadAttention", "com.microsoft"


def multi_head_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T) v in each head, without scaling.

    Args:
        q: [B, L, heads, d].
        k: [B, L, heads, d].
        v: [B, L, heads, e].

    Returns:
        [B, L, heads e]: one operator in an exported graph, torch's own attention elsewhere.
    """
    if not torch.onnx.is_in_onnx_export():
        query, key, value = (each.transpose(1, 2) for each in (q, k, v))
        heads_first = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return heads_first.transpose(1, 2).flatten(2)
    mixed: Tensor = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{OPERATOR}",
        [each.flatten(2) for each in (q, k, v)],
        {"num_heads": q.shape[2], "scale": 1.0},
        dtype=v.dtype,
        shape=v.flatten(2).shape,
        version=1,
    )
    return mixed
