"""Optimisers, learning rates, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from samihs_training.config import StageConfig


def make_optimiser(parameters: Sequence[nn.Parameter], stage: StageConfig) -> torch.optim.Optimizer:
    """AdamW, or the authors' plain Adam, whose weight decay is a part of the gradient."""
    parameters = parameters or [nn.Parameter(torch.zeros(0))]  # frozen: Adam takes no empty list
    kind = torch.optim.AdamW if stage.optimiser == "adamw" else torch.optim.Adam
    return kind(parameters, stage.learning_rate, weight_decay=stage.weight_decay)


def learning_rate(stage: StageConfig, step: int) -> float:
    """Of step ``step``, counted from 0.

    cosine: a linear warm-up, then half a cosine. step: halved every ``halve_every`` steps, as
    ``StepLR(gamma=0.5)`` does by epochs.
    """
    if stage.schedule == "step":
        halvings = step // stage.halve_every if stage.halve_every else 0
        return stage.learning_rate * 0.5**halvings
    share = step / stage.steps
    if share < stage.warmup:
        return stage.learning_rate * (share / stage.warmup + 0.01)
    return stage.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))) + 1e-6


class MovingAverage:
    """``average = decay average + (1 - decay) weights`` after each step; decay 0 keeps none."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.averages: list[Tensor] = [each.detach().clone() for each in parameters if decay]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step into the average."""
        for average, parameter in zip(self.averages, self.parameters, strict=False):
            average.lerp_(parameter, 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the averages, for a validation or a checkpoint; then its own again."""
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
