"""The common shapes, which are worth a CUDA graph, and inputs to run them with.

Prompts are never padded to a common length (that changes the answer), so each count of prompts and
points is a separate shape. A graph is captured when its shape first occurs, or by ``warm_up()``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.contract import ENCODER, GraphContract, tensor_shapes
from samihs_runtime.bundle.manifest import Manifest
from samihs_runtime.segmentation import FOREGROUND, NOT_A_POINT

MAX_ENCODE_BATCH, MAX_DECODE_BATCH = 8, 16
ENCODE_BATCHES = (8, 4, 1)
"""Slices in one run: a series is encoded eight at a time, the slice being viewed alone. Largest
first, so that too little memory shows at once."""
MAX_CLICKS = 8
"""The most clicks on one lesion that count as common."""

Shapes = Mapping[str, tuple[int, ...]]


def common_sizes(contract: GraphContract, max_batch: int) -> list[tuple[int, int]]:
    """Batch and points of the common shapes, largest batch first.

    For the encoder :data:`ENCODE_BATCHES`, or the most that memory allows if that is less; for the
    decoder 2 to 16 prompts of one click each, and one prompt of 1 to 8 clicks (one click is two
    points: SAM adds one that is "not a point").
    """
    if contract is ENCODER:
        batches = sorted({min(each, max_batch) for each in ENCODE_BATCHES}, reverse=True)
        return [(batch, 1) for batch in batches]
    sizes = [(batch, 2) for batch in range(min(MAX_DECODE_BATCH, max_batch), 1, -1)]
    return sizes + [(1, clicks + 1) for clicks in range(MAX_CLICKS, 0, -1)]


def input_shapes(contract: GraphContract, manifest: Manifest, batch: int, points: int) -> Shapes:
    """The shape of every input of one graph; an encoder has no points."""
    shapes = tensor_shapes(manifest, batch, points)
    return {name: shapes[name] for name in contract.inputs}


def probe_inputs(
    contract: GraphContract, shapes: Shapes, seed: int
) -> dict[str, NDArray[np.generic]]:
    """Valid but meaningless inputs of these shapes, different for each shape and seed."""
    size = sum(math.prod(shapes[name]) for name in contract.inputs)
    random = np.random.default_rng((seed, size))
    made: dict[str, NDArray[np.generic]] = {}
    for name, dtype in contract.inputs.items():
        shape = shapes[name]
        if name == "window":
            array = np.tile(np.asarray((0, 100), dtype), (shape[0], 1))
        elif name == "hu":
            array = random.uniform(-20, 120, shape).astype(dtype)
        elif name == "labels":
            array = np.full(shape, FOREGROUND, dtype)
            array[:, -1] = NOT_A_POINT
        elif name == "points":
            array = random.uniform(0, 64, shape).astype(dtype)
        elif name == "has_prior":
            array = np.ones(shape, dtype)
        else:
            array = random.standard_normal(shape).astype(dtype)
        made[name] = array
    return made
