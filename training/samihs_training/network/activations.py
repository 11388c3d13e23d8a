"""Activation checkpointing: an encoder block keeps its input and recomputes the rest."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from samihs_training.network.sam import encoder_blocks


def checkpoint_blocks(sam: nn.Module) -> None:
    """Let every block of the encoder recompute its activations when gradients are wanted.

    Names of modules and parameters stay as they are: a checkpoint fits with it and without.
    """
    for block in encoder_blocks(sam):
        block.forward = _Recomputed(block.forward)


class _Recomputed:
    """A forward that is run again in the backward pass."""

    def __init__(self, forward: Any) -> None:
        self.forward = forward

    def __call__(self, x: Tensor) -> Tensor:
        answer: Tensor = checkpoint(self.forward, x, use_reentrant=False)
        return answer
