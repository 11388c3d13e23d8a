"""Layers with special treatment, by the names of their nodes and weights in a graph.

A node is called ``blocks.3.mlp.lin1/MatMul``, a weight ``blocks.3.mlp.lin1.weight``.
"""

from __future__ import annotations

import re

QUANTIZED = ("attention.qkv", "attention.proj", "mlp.lin1", "mlp.lin2")
"""In each encoder block: the layers quantized to 8 bits; ``quantization`` explains the choice."""
MERGED = ("attention.qkv", "mlp.lin1")
"""In each encoder block: the layers that PR adapters and LoRA are merged into."""
WIDE = (
    "points/", "cells.click_maps/", "cells.clicked/", "cells.fine_clicked/", "cells.review",
    "cells.evidence",
)  # fmt: skip
"""Name prefixes of nodes that are float32 at every precision: sines of large angles, exponentials
of squares, sums over a mask."""
_BLOCK = re.compile(r"blocks\.(\d+)\.")


def block_of(name: str) -> int | None:
    """The encoder block that a layer, node or weight belongs to."""
    match = _BLOCK.match(name)
    return int(match[1]) if match else None


def is_one_of(layer: str, kinds: tuple[str, ...]) -> bool:
    """Whether a layer, such as ``blocks.3.mlp.lin1``, is one of ``kinds`` in any encoder block."""
    match = _BLOCK.match(layer)
    return match is not None and layer[match.end() :] in kinds
