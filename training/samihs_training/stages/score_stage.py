"""The [score] stage: trains the heads that predict a mask's IoU on the answers to many prompts.

Masks do not change in this stage, and neither do the inputs of their score: a token and a few
means, some 250 numbers per prompt. Computing these takes all the time, and is done once. Then the
heads are trained on them in several passes: here an optimiser step is a minibatch of as many
answers as a step's batch has prompts, and ``warmup`` and ``ema`` count these optimiser steps.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from samihs_runtime.errors import SamihsError
from samihs_training.checkpoints.tensorfile import restored, write_state
from samihs_training.compute.distributed import CPU, Processes
from samihs_training.compute.hardware import image_format
from samihs_training.config import Recipe, StageConfig
from samihs_training.data.slices import Batch
from samihs_training.losses import score_error
from samihs_training.methods import score_heads
from samihs_training.network.model import SamihsModel, ScoreInput
from samihs_training.runs.runlog import RunLog, StepReport
from samihs_training.stages.batches import NumberedBatches, stream
from samihs_training.stages.draws import is_corrected, torch_seed
from samihs_training.stages.objective import Heard, Objective
from samihs_training.stages.optimisation import MovingAverage, learning_rate, make_optimiser

NAME = "score"
Report = Callable[[StepReport], None]


@dataclass(frozen=True)
class ScoreTraining:
    """The results of the stage."""

    answers: int
    """Number of answers that the heads were trained on."""
    error_before: float
    """Mean squared error of the predicted IoU on them, before training."""
    error: float
    minutes: float


class ScoreStage:
    """A model's score heads, and the answers collected for them so far.

    The stage may be stopped at any moment and resumes exactly to the bit: the prompts of a step
    depend on the seed and the step's number, and the passes, which take a minute, start again.
    """

    def __init__(
        self,
        model: SamihsModel,
        recipe: Recipe,
        stage: StageConfig,
        out: Path,
        processes: Processes | None = None,
    ) -> None:
        """``out``: the run's folder."""
        self.processes = processes or Processes()
        self.model, self.recipe, self.stage, self.out = model, recipe, stage, out
        device = self.processes.device
        model.to(device, memory_format=image_format(device))  # type: ignore[call-overload]
        self.heads = score_heads(model.sam)
        self.objective = Objective(model, recipe, stage)
        # Whose answers are collected, and in how many processes: a state must match both.
        self.frozen = f"{_digest(model)} in {self.processes.world}"
        self.heard: list[Heard] = []
        self.seconds = 0.0
        self._restore()

    def run(
        self, batches: NumberedBatches, *, workers: int = 0, report: Report = lambda step: None
    ) -> ScoreTraining:
        """Collect the answers to the prompts of all steps, then train the model's heads in place.

        Raises:
            SamihsError: the error of the score is not finite before or after the training.
        """
        self.model.eval()
        with RunLog(self.out, NAME, len(self.heard), writes=self.processes.is_first) as log:
            for told in self._hear(batches, workers):
                log.write(told)
                report(told)
        self._save()
        every = self.processes.gathered(Heard.joined(self.heard).to(CPU))
        heard = Heard.joined(every).to(self.processes.device)
        before = self._error_of(heard)
        self._train(heard)
        after = self._error_of(heard)
        if not math.isfinite(before + after):
            raise SamihsError(
                f"stage {NAME}: the error of the score is {before} before and {after} after its "
                "training; lower learning_rate, or train without amp; no checkpoint is written"
            )
        return ScoreTraining(len(heard.iou), before, after, self.seconds / 60)

    def _hear(self, batches: NumberedBatches, workers: int) -> Iterator[StepReport]:
        pieces = self.stage.accumulate
        numbers = range(len(self.heard) * pieces, self.stage.steps * pieces)
        coming = stream(batches, numbers, workers)
        saved, last = self.seconds, time.perf_counter()
        while len(self.heard) < self.stage.steps:
            self.heard.append(self._step(coming))
            now = time.perf_counter()
            self.seconds, elapsed, last = self.seconds + now - last, now - last, now
            yield self._report(self.heard[-1], elapsed)
            if self.seconds - saved >= 60 * self.recipe.checkpoint_minutes:
                self._save()
                saved = self.seconds

    def _step(self, coming: Iterator[Batch]) -> Heard:
        step, seed = len(self.heard), self.recipe.seed
        torch.manual_seed(torch_seed(seed, step, self.processes.rank))
        correct = is_corrected(seed, step, self.stage.correct)
        batches = [next(coming) for _ in range(self.stage.accumulate)]
        device = self.processes.device
        return Heard.joined([self.objective.heard(each.to(device), correct) for each in batches])

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
        return score_error(self.model.score(known), heard.iou[chosen])

    @torch.no_grad()
    def _error_of(self, heard: Heard) -> float:
        return self._error(heard, slice(None)).item()

    def _report(self, heard: Heard, elapsed: float) -> StepReport:
        """Report on this process's prompts; the loss is that of the heads before training."""
        iou = heard.iou[heard.on_mask]
        return StepReport(
            stage=NAME,
            step=len(self.heard),
            minutes=self.seconds / 60,
            steps=self.stage.steps,
            loss=self._error_of(heard),
            iou=iou.mean().item(),
            dice=(2 * iou / (1 + iou)).mean().item(),
            learning_rate=0.0,
            samples_per_second=self.stage.batch * self.stage.prompts / elapsed,
        )

    @property
    def _state_file(self) -> Path:
        rank = self.processes.rank
        return self.out / (f"{NAME}.{rank}.state.pt" if rank else f"{NAME}.state.pt")

    def _save(self) -> None:
        """Save the answers that this process has collected; each process has its own file."""
        heard = [[getattr(each, field.name) for field in fields(each)] for each in self.heard]
        state = {"frozen": self.frozen, "heard": heard, "seconds": self.seconds}
        write_state(self._state_file, state)

    def _restore(self) -> None:
        with restored(self._state_file, self.frozen, self.processes.device) as state:
            if state is not None:
                self.heard = [Heard(*each) for each in state["heard"]]
                self.seconds = state["seconds"]


def _digest(model: SamihsModel) -> str:
    """sha256 of all weights."""
    digest = hashlib.sha256()
    for name, each in model.sam.state_dict().items():
        digest.update(name.encode())
        digest.update(each.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _minibatches(count: int, size: int, passes: int, order: torch.Generator) -> Iterator[Tensor]:
    """Indices of each minibatch of at most ``size`` of the ``count`` answers."""
    for _ in range(passes):
        shuffled = torch.randperm(count, generator=order)
        yield from (shuffled[start : start + size] for start in range(0, count, size))
