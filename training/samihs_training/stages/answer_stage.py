"""A stage that listens to the answers of a model, which stays as it is meanwhile.

Answering the prompts of all steps takes nearly all of the stage's time, and is done once. What is
then made of the answers is the subclass's: the score's heads (``score_stage``), the threshold of
the masks (``threshold_stage``).
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import torch

from samihs_training.checkpoints.tensorfile import restored, write_state
from samihs_training.compute.distributed import CPU, Processes
from samihs_training.compute.hardware import image_format
from samihs_training.config import Recipe, StageConfig
from samihs_training.data.slices import Batch
from samihs_training.losses import dice_of
from samihs_training.network.model import SamihsModel
from samihs_training.runs.runlog import RunLog, StepReport
from samihs_training.stages.batches import NumberedBatches, stream
from samihs_training.stages.draws import is_corrected, torch_seed
from samihs_training.stages.objective import Heard, Objective

Report = Callable[[StepReport], None]


class AnswerStage(ABC):
    """A model, and its answers so far.

    The stage may be stopped at any moment and resumes exactly to the bit: the prompts of a step
    depend on the seed and the step's number, and what follows takes a minute and starts again.
    """

    name: ClassVar[str]
    """Of the stage, in recipes, logs and state files."""
    thresholds: ClassVar[tuple[float, ...]] = (0.0,)
    """Logits above which a pixel belongs to the mask, each in turn."""

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
        self.model, self.recipe, self.out = model, recipe, out
        device = self.processes.device
        model.to(device, memory_format=image_format(device))  # type: ignore[call-overload]
        self.stage = self.prepared(stage)
        self.objective = Objective(model, recipe, self.stage)
        # Whose answers are collected, and in how many processes: a state must match both.
        self.frozen = f"{_digest(model)} in {self.processes.world}"
        self.heard: list[Heard] = []
        self.seconds = 0.0
        self._restore()

    def listen(self, batches: NumberedBatches, workers: int, report: Report) -> Heard:
        """The answers to the prompts of all steps, of all processes."""
        self.model.eval()
        with RunLog(self.out, self.name, len(self.heard), writes=self.processes.is_first) as log:
            for told in self._hear(batches, workers):
                log.write(told)
                report(told)
        self._save()
        every = self.processes.gathered(Heard.joined(self.heard).to(CPU))
        return Heard.joined(every).to(self.processes.device)

    @abstractmethod
    def prepared(self, stage: StageConfig) -> StageConfig:
        """Make the model ready to answer; returns how it is asked."""

    @abstractmethod
    def loss_of(self, heard: Heard) -> float:
        """What the log shows as the loss of a step's answers."""

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
        batches = [next(coming).to(self.processes.device) for _ in range(self.stage.accumulate)]
        heard = [self.objective.heard(each, correct, self.thresholds) for each in batches]
        return Heard.joined(heard)

    def _report(self, heard: Heard, elapsed: float) -> StepReport:
        """Report on this process's prompts, and on the model as it is during the stage."""
        iou = heard.iou[heard.on_mask, self.thresholds.index(0.0)]
        return StepReport(
            stage=self.name,
            step=len(self.heard),
            minutes=self.seconds / 60,
            steps=self.stage.steps,
            loss=self.loss_of(heard),
            iou=iou.mean().item(),
            dice=dice_of(iou).mean().item(),
            learning_rate=0.0,
            samples_per_second=self.stage.batch * self.stage.prompts / elapsed,
        )

    @property
    def _state_file(self) -> Path:
        rank = self.processes.rank
        return self.out / (f"{self.name}.{rank}.state.pt" if rank else f"{self.name}.state.pt")

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
