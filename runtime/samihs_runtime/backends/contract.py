"""The input and output tensors of every encoder and decoder, at every precision (manifest.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.bundle.manifest import Manifest
from samihs_runtime.errors import BundleError


@dataclass(frozen=True)
class GraphContract:
    """Names and numpy dtype names of one graph's tensors."""

    part: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    def check(self, inputs: Mapping[str, str], outputs: Mapping[str, str], where: str) -> None:
        """Compare a loaded graph's tensors with the contract.

        Raises:
            BundleError: a tensor is missing, unknown, or of another type.
        """
        for kind, came, expected in (
            ("inputs", inputs, self.inputs),
            ("outputs", outputs, self.outputs),
        ):
            if dict(came) != dict(expected):
                raise BundleError(
                    f"{self.part} {where}: {kind} are {_words(came)}, expected "
                    f"{_words(expected)}; export the bundle again"
                )


ENCODER = GraphContract("encoder", {"hu": "float32", "window": "float32"}, {"embedding": "float32"})
DECODER = GraphContract(
    "decoder",
    {
        "embedding": "float32",
        "points": "float32",
        "labels": "int32",
        "prior": "float32",
        "has_prior": "float32",
    },
    {"logits": "float32", "mask": "uint8", "score": "float32"},
)


def prior_feeds(
    prior: NDArray[np.float32] | None, count: int, side: int
) -> dict[str, NDArray[np.float32]]:
    """The decoder's ``prior`` [B, 1, M, M] and ``has_prior`` [B].

    Args:
        prior: [B, M, M] logits; None gives zeros, which the graph ignores since ``has_prior`` is 0.
        count: B prompts.
        side: M of the low-resolution logits.
    """
    has_prior = np.full(count, prior is not None, np.float32)
    if prior is None:
        prior = np.zeros((count, side, side), np.float32)
    return {"prior": prior.reshape(count, 1, side, side), "has_prior": has_prior}


def tensor_shapes(manifest: Manifest, batch: int, points: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of both graphs, for B slices or prompts of N points."""
    size, low = manifest.slice_size, manifest.mask_size
    return {
        "hu": (batch, 1, size, size),
        "window": (batch, 2),
        "embedding": (batch, manifest.embedding_channels, manifest.grid, manifest.grid),
        "points": (batch, points, 2),
        "labels": (batch, points),
        "prior": (batch, 1, low, low),
        "has_prior": (batch,),
        "logits": (batch, 1, low, low),
        "mask": (batch, size, size),
        "score": (batch,),
    }


def _words(tensors: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in sorted(tensors.items()))
