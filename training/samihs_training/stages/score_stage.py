"""The [score] stage: trains the heads that predict a mask's IoU on the answers to many prompts.

Masks do not change in this stage, and neither do the inputs of their score: a token and a few
means, some 250 numbers per prompt. Computing these takes all the time, and is done once. Then the
heads are trained on them in several passes: here an optimiser step is a minibatch of as many
answers as a step's batch has prompts, and ``warmup`` and ``ema`` count these optimiser steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from samihs_runtime.errors import SamihsError
from samihs_training.config import StageConfig
from samihs_training.losses import score_error
from samihs_training.methods import score_heads
from samihs_training.network.model import ScoreInput
from samihs_training.stages.answer_stage import AnswerStage, Report
from samihs_training.stages.batches import NumberedBatches
from samihs_training.stages.objective import Heard
from samihs_training.stages.optimisation import MovingAverage, learning_rate, make_optimiser


@dataclass(frozen=True)
class ScoreTraining:
    """The results of the stage."""

    answers: int
    """Number of answers that the heads were trained on."""
    error_before: float
    """Mean squared error of the predicted IoU on them, before training."""
    error: float
    minutes: float


class ScoreStage(AnswerStage):
    """A model's score heads, and the answers that they are trained on."""

    name = "score"

    def prepared(self, stage: StageConfig) -> StageConfig:
        """Freeze all but the heads."""
        self.heads = score_heads(self.model.sam)
        return stage

    def run(
        self, batches: NumberedBatches, *, workers: int = 0, report: Report = lambda step: None
    ) -> ScoreTraining:
        """Collect the answers to the prompts of all steps, then train the model's heads in place.

        Raises:
            SamihsError: the error of the score is not finite before or after the training.
        """
        heard = self.listen(batches, workers, report)
        before = self.loss_of(heard)
        self._train(heard)
        after = self.loss_of(heard)
        if not math.isfinite(before + after):
            raise SamihsError(
                f"stage {self.name}: the error of the score is {before} before and {after} after "
                "its training; lower learning_rate, or train without amp; no checkpoint is written"
            )
        return ScoreTraining(len(heard.iou), before, after, self.seconds / 60)

    def _train(self, heard: Heard) -> None:
        """Make passes over all answers, each in a random order of its own."""
        size, count = self.stage.batch * self.stage.prompts, len(heard.iou)
        schedule = replace(self.stage, steps=self.stage.passes * math.ceil(count / size))
        parameters = list(self.heads.values())
        optimisers = make_optimiser(self.heads, self.stage)
        average = MovingAverage(parameters, self.stage.ema)
        order = torch.Generator().manual_seed(self.recipe.seed)
        for step, chosen in enumerate(_minibatches(count, size, self.stage.passes, order)):
            optimisers.set_rate(learning_rate(schedule, step))
            optimisers.zero_grad()
            error = self._error(heard, chosen.to(heard.iou.device))
            error.backward()  # type: ignore[no-untyped-call]
            if self.stage.clip:
                nn.utils.clip_grad_norm_(parameters, self.stage.clip)
            for optimiser in optimisers:
                optimiser.step()
            average.update(step)
        average.swap()

    def _error(self, heard: Heard, chosen: Tensor | slice) -> Tensor:
        known = ScoreInput(heard.token[chosen], heard.evidence[chosen])
        return score_error(self.model.score(known), heard.iou[chosen, 0])

    @torch.no_grad()
    def loss_of(self, heard: Heard) -> float:
        """The error of the heads as they now are."""
        return self._error(heard, slice(None)).item()


def _minibatches(count: int, size: int, passes: int, order: torch.Generator) -> Iterator[Tensor]:
    """Indices of each minibatch of at most ``size`` of the ``count`` answers."""
    for _ in range(passes):
        shuffled = torch.randperm(count, generator=order)
        yield from (shuffled[start : start + size] for start in range(0, count, size))
