"""Visual prompt tuning, deep (Jia et al., arXiv 2203.12119): learnt tokens in every block.

In VPT-deep each block has its own prompts and discards their outputs, so within a block they have
one effect: the image's tokens attend to them. SAM's grid has no room for extra tokens, and needs
none here: the prompts join the keys and values of each window (or of the whole grid in a global
block). They have no position, so they get no relative position. They are learnt behind the
LayerNorm, where the attention sees them.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from samihs_runtime.errors import UsageError
from samihs_training.adapters import Adapter
from samihs_training.methods.base import Method
from samihs_training.network.sam import encoder_blocks, segment_anything_modeling


class Prompts(Adapter):
    """P learnt tokens: ``tokens`` [P, C]."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        # VPT's initialisation: uniform, with the bound of Xavier's rule for a patch and a token.
        bound = math.sqrt(6.0 / (2 * width))
        self.tokens = nn.Parameter(torch.empty(count, width).uniform_(-bound, bound))


class PromptedAttention(nn.Module):
    """segment-anything's ``Attention`` whose tokens also attend to learnt prompts."""

    def __init__(self, attention: Any, prompts: Prompts) -> None:
        super().__init__()
        self.attention = attention
        self.prompts = prompts

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, H, W, C] -> [B, H, W, C]."""
        attention, heads = self.attention, self.attention.num_heads
        batch, height, width, _ = x.shape
        projected = attention.qkv(x).reshape(batch, height * width, 3, heads, -1)
        q, k, v = projected.permute(2, 0, 3, 1, 4).reshape(3, batch * heads, height * width, -1)
        prompts = attention.qkv(self.prompts.tokens).reshape(-1, 3, heads, q.shape[-1])
        _, prompt_k, prompt_v = prompts.permute(1, 2, 0, 3).repeat(1, batch, 1, 1)  # [B h, P, c]
        scores = (q * attention.scale) @ k.mT
        if attention.use_rel_pos:
            size = (height, width)
            scores = _add_relative_positions()(
                scores, q, attention.rel_pos_h, attention.rel_pos_w, size, size
            )
        scores = torch.cat([scores, (q * attention.scale) @ prompt_k.mT], dim=-1)
        mixed = scores.softmax(-1) @ torch.cat([v, prompt_v], dim=1)
        mixed = mixed.view(batch, heads, height, width, -1).permute(0, 2, 3, 1, 4)
        answer: Tensor = attention.proj(mixed.reshape(batch, height, width, -1))
        return answer


@dataclass(frozen=True)
class VisualPrompts(Method):
    """VPT-deep: learnt prompts in every block's attention."""

    name = "vpt"
    summary = "visual prompt tuning, learnt tokens in every block"
    merges = False

    prompts: int = 50
    """P, per block."""

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise UsageError(f"prompts {self.prompts}: expected 1 or more")

    def insert(self, sam: nn.Module) -> None:
        for block in encoder_blocks(sam):
            prompts = Prompts(self.prompts, block.norm1.normalized_shape[0])
            block.attn = PromptedAttention(block.attn, prompts)


def _add_relative_positions() -> Any:
    """segment-anything's own function; found by its module's name (see ``network/sam.py``)."""
    name = f"{segment_anything_modeling().__name__}.image_encoder"
    return importlib.import_module(name).add_decomposed_rel_pos
