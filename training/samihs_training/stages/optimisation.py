"""Optimisers, learning rates, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from samihs_training.config import StageConfig
from samihs_training.stages.muon import Muon


def make_optimiser(trained: Mapping[str, nn.Parameter], stage: StageConfig) -> Optimisers:
    """The optimisers that ``stage.optimiser`` names, for ``trained``: name -> parameter.

    ``adamw``; ``adam``, the authors' choice, whose weight decay is part of the gradient; ``muon``,
    whose steps are orthogonal matrices, for the matrices of the encoder's blocks, with AdamW for
    the rest. Muon's steps are scaled to the size of AdamW's, so that both take the same learning
    rate (arXiv 2502.16982).
    """
    rate, decay = stage.learning_rate, stage.weight_decay
    if stage.optimiser == "adam":
        return Optimisers([torch.optim.Adam(_some(trained.values()), rate, weight_decay=decay)])
    matrices = {
        name: each
        for name, each in trained.items()
        if stage.optimiser == "muon" and ".blocks." in name and name.endswith(".weight")
        if each.ndim == 2
    }
    rest = [each for name, each in trained.items() if name not in matrices]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(_some(rest), rate, weight_decay=decay)
    ]
    if matrices:
        optimisers.append(Muon(matrices.values(), rate, decay))
    return Optimisers(optimisers)


def _some(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return list(parameters) or [nn.Parameter(torch.zeros(0))]  # frozen: Adam refuses an empty list


class Optimisers:
    """Several optimisers that step as one."""

    def __init__(self, optimisers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimisers = list(optimisers)

    def __iter__(self) -> Iterator[torch.optim.Optimizer]:
        return iter(self.optimisers)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of all of them."""
        for optimiser in self:
            for group in optimiser.param_groups:
                group["lr"] = rate

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for optimiser in self:
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of each optimiser."""
        return [optimiser.state_dict() for optimiser in self]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Restore what :meth:`state_dict` of the same optimisers returned."""
        for optimiser, state in zip(self, states, strict=True):
            optimiser.load_state_dict(state)


def learning_rate(stage: StageConfig, step: int) -> float:
    """The learning rate of step ``step``, counted from 0.

    cosine: a linear warm-up, then half a cosine period. step: halved every ``halve_every`` steps,
    as ``StepLR(gamma=0.5)`` does by epochs.
    """
    if stage.schedule == "step":
        halvings = step // stage.halve_every if stage.halve_every else 0
        return stage.learning_rate * 0.5**halvings
    share = step / stage.steps
    if share < stage.warmup:
        return stage.learning_rate * (share / stage.warmup + 0.01)
    return stage.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))) + 1e-6


class MovingAverage:
    """``average = d average + (1 - d) weights`` after each step; with decay 0, no average is kept.

    d is ``decay``, but at most (1 + n) / (10 + n) at step n, counted from 0: otherwise the average
    of a short stage would still hold much of its initial weights (0.998 for 360 steps: half).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.averages: list[Tensor] = [each.detach().clone() for each in parameters if decay]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after step ``step`` to the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, parameter in zip(self.averages, self.parameters, strict=False):
            average.lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages into the model for a validation or a checkpoint, then undo that."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and their averages."""
        for average, parameter in zip(self.averages, self.parameters, strict=False):
            held = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(held)
