"""The [score] stage: the heads that predict a mask's IoU, on what they hear of many prompts.

Masks stay as they are in it, and so does all that their score is made of: a token and a few means,
some 250 numbers a prompt. These take all the time, and are computed once. Then the heads are
trained on them, in as many passes as it takes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samihs_runtime.errors import CheckpointError
from samihs_training.batches import NumberedBatches, stream
from samihs_training.config import Recipe, StageConfig
from samihs_training.data.slices import Batch
from samihs_training.distributed import CPU, Processes
from samihs_training.draws import is_corrected, torch_seed
from samihs_training.hardware import image_format
from samihs_training.methods import score_heads
from samihs_training.network.model import SamihsModel, ScoreInput
from samihs_training.objective import Heard, Objective
from samihs_training.optimisation import MovingAverage, learning_rate, make_optimiser
from samihs_training.runlog import RunLog, StepReport
from samihs_training.tensorfile import write_state

NAME = "score"
Report = Callable[[StepReport], None]


class ScoreStage:
    """A model's score heads, and what they have heard so far.

    It may stop at any moment and goes on to the same bits: what a step asks depends on the seed and
    its number, and the passes, which take a minute, begin anew.
    """

    def __init__(
        self,
        model: SamihsModel,
        recipe: Recipe,
        stage: StageConfig,
        out: Path,
        processes: Processes | None = None,
        base_sha256: str = "",
    ) -> None:
        """``out``: the run's folder; ``base_sha256``: of the base's file, which a state to go on
        from must have had."""
        self.processes = processes or Processes()
        self.model, self.recipe, self.stage, self.out = model, recipe, stage, out
        self.base_sha256 = base_sha256
        device = self.processes.device
        model.to(device, memory_format=image_format(device))  # type: ignore[call-overload]
        self.heads = score_heads(model.sam)
        self.objective = Objective(model, recipe, stage)
        self.heard: list[Heard] = []
        self.seconds = 0.0
        self._restore()

    def run(
        self, batches: NumberedBatches, *, workers: int = 0, report: Report = lambda step: None
    ) -> None:
        """Hear of the prompts of all steps, then train the heads; the model then has them."""
        self.model.eval()
        with RunLog(self.out, NAME, len(self.heard), writes=self.processes.is_first) as log:
            for told in self._hear(batches, workers):
                log.write(told)
                report(told)
        self._save()
        every = self.processes.gathered(Heard.joined(self.heard).to(CPU))
        self._train(Heard.joined(every).to(self.processes.device))

    def _hear(self, batches: NumberedBatches, workers: int) -> Iterator[StepReport]:
        pieces = self.stage.accumulate
        coming = stream(
            batches, range(len(self.heard) * pieces, self.stage.steps * pieces), workers
        )
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
        """Passes over all that was heard, each in an order of its own."""
        size, count = self.stage.batch * self.stage.prompts, len(heard.iou)
        steps = self.stage.passes * math.ceil(count / size)
        schedule = replace(self.stage, steps=steps)
        parameters = list(self.heads.values())
        optimisers = make_optimiser(self.heads, self.stage)
        average = MovingAverage(parameters, self.stage.ema)
        order = torch.Generator().manual_seed(self.recipe.seed)
        for step, chosen in enumerate(_minibatches(count, size, self.stage.passes, order)):
            optimisers.set_rate(learning_rate(schedule, step))
            optimisers.zero_grad()
            self._error(heard, chosen.to(heard.iou.device)).backward()  # type: ignore[no-untyped-call]
            if self.stage.clip:
                nn.utils.clip_grad_norm_(parameters, self.stage.clip)
            for optimiser in optimisers:
                optimiser.step()
            average.update(step)
        average.swap()

    def _error(self, heard: Heard, chosen: Tensor | slice) -> Tensor:
        """Mean squared error of the predicted IoU, as segment-anything trains its IoU head."""
        known = ScoreInput(heard.token[chosen], heard.evidence[chosen])
        return (self.model.score(known) - heard.iou[chosen]).square().mean()

    @torch.no_grad()
    def _report(self, heard: Heard, elapsed: float) -> StepReport:
        """The error of the heads as they were; IoU and Dice of the masks that are not all wrong."""
        hit = heard.iou[heard.iou > 0]
        return StepReport(
            stage=NAME,
            step=len(self.heard),
            minutes=self.seconds / 60,
            steps=self.stage.steps,
            loss=self._error(heard, slice(None)).item(),
            iou=hit.mean().item(),
            dice=(2 * hit / (1 + hit)).mean().item(),
            learning_rate=0.0,
            samples_per_second=self.stage.batch * self.stage.prompts / elapsed,
        )

    @property
    def _state_file(self) -> Path:
        rank = self.processes.rank
        return self.out / (f"{NAME}.{rank}.state.pt" if rank else f"{NAME}.state.pt")

    def _save(self) -> None:
        """What this process has heard: each process has a file of its own."""
        heard = [[getattr(each, field.name) for field in fields(each)] for each in self.heard]
        write_state(
            self._state_file,
            {"frozen": self.base_sha256, "heard": heard, "seconds": self.seconds},
        )

    def _restore(self) -> None:
        if not self._state_file.is_file():
            return
        try:
            state: dict[str, Any] = torch.load(
                self._state_file, map_location=self.processes.device, weights_only=True
            )
            if state["frozen"] != self.base_sha256:
                raise ValueError("it was trained on another base")
            self.heard = [Heard(*each) for each in state["heard"]]
            self.seconds = state["seconds"]
        except Exception as error:  # torch raises many kinds on a file that is not its own
            raise CheckpointError(
                f"{self._state_file} cannot be gone on from ({error}): delete it to begin the "
                "stage again"
            ) from error


def _minibatches(count: int, size: int, passes: int, order: torch.Generator) -> Iterator[Tensor]:
    """Indices of each minibatch of ``size``, at most, of ``count`` prompts."""
    for _ in range(passes):
        shuffled = torch.randperm(count, generator=order)
        yield from (shuffled[start : start + size] for start in range(0, count, size))
