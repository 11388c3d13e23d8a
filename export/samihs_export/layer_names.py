"""Layers that are treated apart, by the names that their nodes and weights have in a graph.

A node is called ``blocks.3.mlp.lin1/MatMul``, a weight ``blocks.3.mlp.lin1.weight``.
"""

from __future__ import annotations

import re

QUANTIZED = ("attention.qkv", "attention.proj", "mlp.lin1", "mlp.lin2")
"""Of each encoder block: put into 8 bits; ``quantization`` says why these."""
MERGED = ("attention.qkv", "mlp.lin1")
"""Of each encoder block: what PR adapters and LoRA are merged into."""
WIDE = (
    "points/", "cells.click_maps/", "cells.clicked/", "cells.fine_clicked/", "cells.review",
    "cells.evidence",
)  # fmt: skip
"""How the nodes begin that are float32 at every precision: sines of large angles, exponentials of
squares, sums over a mask."""
_BLOCK = re.compile(r"blocks\.(\d+)\.")


def block_of(name: str) -> int | None:
    """The encoder block that a layer, node or weight belongs to."""
    match = _BLOCK.match(name)
    return int(match[1]) if match else None


def is_one_of(layer: str, kinds: tuple[str, ...]) -> bool:
    """Whether a layer, such as ``blocks.3.mlp.lin1``, is one of these of any encoder block."""
    match = _BLOCK.match(layer)
    return match is not None and layer[match.end() :] in kinds
