"""The SAMIHS authors' own checkpoints: their parameter names, and their order of padding.

Their adapters stand beside SAM's blocks, ours inside them (``adapters.py``); the tensors are the
same. Their code pads the attention windows before it normalises: ``pad_before_norm``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from samihs_training.adapters import PRConfig

_BLOCK = re.compile(r"image_encoder\.blocks\.(\d+)\.(.+)")
_ADAPTERS = {"attn_adapter": "attn.1", "mlp_adapter": "mlp.0"}
_VALUES = {"adapter_rescale": "scale", "adpater_bias": "bias"}  # their spelling
_INSIDE = {"norm1": "attn.0", "attn": "attn.2", "mlp": "mlp.1"}
_SHARED = {"att_down_projection": "attn.1.direction", "mlp_down_projection": "mlp.0.direction"}


def authors_adapters(state: Mapping[str, Tensor]) -> PRConfig:
    """The options that the authors' state dict was trained with."""
    return PRConfig(rank=state["image_encoder.att_down_projection"].shape[1], pad_before_norm=True)


def from_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict under the names of a SAM with our PR adapters, ``float32``."""
    depth = 1 + max(int(match[1]) for match in map(_BLOCK.match, state) if match)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for new in _new_names(name, depth):
            # Their scale is [1, r].
            renamed[new] = (tensor[0] if new.endswith(".scale") else tensor).float()
    return renamed


def _new_names(name: str, depth: int) -> list[str]:
    """What a tensor of theirs is called here; a shared D stands once in every block."""
    shared = _SHARED.get(name.removeprefix("image_encoder."))
    if shared is not None:
        return [f"image_encoder.blocks.{block}.{shared}" for block in range(depth)]
    match = _BLOCK.match(name)
    if match is None:
        return [name]
    part, _, rest = match[2].partition(".")
    if part in _ADAPTERS:
        inside = f"{_ADAPTERS[part]}.{_VALUES[rest]}"
    else:
        inside = f"{_INSIDE.get(part, part)}.{rest}"
    return [f"image_encoder.blocks.{match[1]}.{inside}"]
