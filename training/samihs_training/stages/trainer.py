"""The training loop of one stage: steps, validation, logs, and a state to resume from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from samihs_runtime.errors import SamihsError, UsageError
from samihs_training.checkpoints.tensorfile import restored, write_state
from samihs_training.compute.distributed import Processes
from samihs_training.compute.hardware import image_format
from samihs_training.config import Recipe, StageConfig
from samihs_training.data.slices import Batch
from samihs_training.network.activations import checkpoint_blocks
from samihs_training.network.bleed_map import BleedMap
from samihs_training.network.cropped import CroppedModel, crops_of
from samihs_training.network.model import SamihsModel
from samihs_training.network.pyramid import compile_encoder
from samihs_training.runs.runlog import RunLog, StepReport, ValidationReport
from samihs_training.stages.batches import NumberedBatches, stream
from samihs_training.stages.draws import is_corrected, torch_seed
from samihs_training.stages.map_training import MapTraining
from samihs_training.stages.objective import Answered, Objective
from samihs_training.stages.optimisation import MovingAverage, learning_rate, make_optimiser

Report = Callable[[StepReport], None]


class Trainer:
    """One stage: a model, its trained parameters, an optimiser, and the progress made.

    What a step does depends only on the seed and the step's number: its slices, its clicks, and
    torch's generator, which is seeded anew at each step. So the state to resume from is weights,
    optimiser, moving average, loss scale and the number of steps; resuming is exact to the bit.
    """

    def __init__(
        self,
        model: SamihsModel,
        trained: Mapping[str, nn.Parameter],
        recipe: Recipe,
        stage: StageConfig,
        name: str,
        out: Path,
        processes: Processes | None = None,
        base_sha256: str = "",
    ) -> None:
        """``trained``: parameters of ``model.sam`` by name; ``out``: the run's folder;
        ``base_sha256``: hash of the base's file, which a saved state must have been trained on."""
        self.processes = processes or Processes()
        self.model, self.trained = model, dict(trained)
        self.recipe, self.stage, self.name, self.out = recipe, stage, name, out
        self.base_sha256 = base_sha256
        self.steps = stage.steps if trained else 0
        device = self.processes.device
        model.to(device, memory_format=image_format(device))  # type: ignore[call-overload]
        self.crops = crops_of(model.config, stage.crop) if stage.crop else None
        seen = CroppedModel(model, self.crops) if self.crops else model
        if stage.checkpoint_activations:
            checkpoint_blocks(seen.sam)
        if stage.compile:
            compile_encoder(seen.sam.image_encoder)
        self.bleed_map = self._bleed_map()
        self.map_training = MapTraining(self.bleed_map, stage.clip) if self.bleed_map else None
        objective = Objective(seen, recipe, stage, self.bleed_map)
        self.objective = self.processes.wrap(objective) if trained else objective
        self.parameters = list(self.trained.values())
        self.optimisers = make_optimiser(self.trained, stage)
        self.average = MovingAverage(self.parameters, stage.ema)
        scaled = recipe.amp and recipe.amp_dtype == "fp16"
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.step_count = 0
        self.seconds = 0.0
        self.best_dice = -1.0
        self._restore()

    def run(
        self,
        batches: NumberedBatches,
        validation: NumberedBatches | None = None,
        *,
        workers: int = 0,
        report: Report = lambda step: None,
        on_best: Callable[[], None] = lambda: None,
    ) -> None:
        """Train to the stage's last step; ``on_best`` is called at every best validation so far.

        The model then holds the moving average, if there is one.
        """
        saved, last = self.seconds, time.perf_counter()
        numbers = range(self.step_count * self.stage.accumulate, self.steps * self.stage.accumulate)
        writes = self.processes.is_first
        with RunLog(self.out, self.name, self.step_count, writes=writes) as log:
            coming = stream(batches, numbers, workers)
            while self.step_count < self.steps:
                answered, rate = self.step(coming)
                now = time.perf_counter()
                self.seconds, elapsed, last = self.seconds + now - last, now - last, now
                done = self._step_report(answered, rate, elapsed)
                log.write(done)
                report(done)
                if validation is not None and self._is_due():
                    self._validate_and_log(validation, log, on_best)
                if self.seconds - saved >= 60 * self.recipe.checkpoint_minutes:
                    self._save()
                    saved = self.seconds
            if validation is not None and not self.steps:
                self._validate_and_log(validation, log, on_best)
        self._save()
        self.model.eval()
        self.average.swap()

    def step(self, batches: Iterator[Batch]) -> tuple[Answered, float]:
        """One optimiser step on the next batch, in pieces; returns results and learning rate."""
        rate = learning_rate(self.stage, self.step_count)
        self.optimisers.set_rate(rate)
        map_alone = False
        if self.map_training is not None:
            self.map_training.set_rate(self.step_count, rate)
            map_alone = self.map_training.is_alone(self.step_count)
        self.objective.train()
        seed, step = self.recipe.seed, self.step_count
        torch.manual_seed(torch_seed(seed, step, self.processes.rank))
        correct = is_corrected(seed, step, self.stage.correct)
        for optimiser in self._all_optimisers():
            optimiser.zero_grad()
        pieces = self.stage.accumulate
        answers = []
        for piece in range(pieces):
            batch = next(batches).to(self.processes.device)
            with self.processes.without_sync(self.objective, last=piece == pieces - 1):
                answered: Answered = self.objective(batch, correct, map_alone)
                self.scaler.scale(answered.loss / pieces).backward()  # type: ignore[no-untyped-call]
            answers.append(answered)
        self._update()
        self.step_count += 1
        return _mean(answers), rate

    @torch.no_grad()
    def validate(self, data: NumberedBatches) -> Answered:
        """Mean loss, IoU and Dice of the first prompts on every held-out slice, with the averaged
        weights; all prompts count equally, whatever their batch or process."""
        objective = Objective(self.model, self.recipe, self.stage)
        self.model.eval()
        with self.average.in_place():
            answers = [objective(each.to(self.processes.device)) for each in data.epoch()]
        mean = _mean(answers)
        loss = torch.tensor(self.processes.mean(mean.loss.item(), mean.prompts))
        iou, dice = (self.processes.mean(each, mean.with_mask) for each in (mean.iou, mean.dice))
        return replace(mean, loss=loss, iou=iou, dice=dice)

    def _update(self) -> None:
        for optimiser in self._all_optimisers():
            self.scaler.unscale_(optimiser)
        if self.stage.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.stage.clip)
        if self.map_training is not None:
            self.map_training.clip_gradient()
        for optimiser in self._all_optimisers():
            self.scaler.step(optimiser)
        self.scaler.update()
        self.average.update(self.step_count)

    def _all_optimisers(self) -> list[torch.optim.Optimizer]:
        """The model's, and the map's if there is one."""
        return [*self.optimisers, *([self.map_training.optimiser] if self.map_training else [])]

    def _is_due(self) -> bool:
        every = self.recipe.validate_every
        return self.step_count == self.steps or bool(every and self.step_count % every == 0)

    def _validate_and_log(
        self, data: NumberedBatches, log: RunLog, on_best: Callable[[], None]
    ) -> None:
        answered = self.validate(data)
        best = answered.dice > self.best_dice
        loss = answered.loss.item()
        row = ValidationReport(self.name, self.step_count, loss, answered.iou, answered.dice, best)
        log.write(row)
        if best:
            self.best_dice = answered.dice
            with self.average.in_place():
                on_best()

    def _step_report(self, answered: Answered, rate: float, elapsed: float) -> StepReport:
        loss = self.processes.mean(answered.loss.item())
        if not math.isfinite(loss):
            raise SamihsError(
                f"stage {self.name}: the loss is {loss} at step {self.step_count}; lower "
                "learning_rate, or train without amp; the last saved state is kept"
            )
        return StepReport(
            stage=self.name,
            step=self.step_count,
            minutes=self.seconds / 60,
            steps=self.steps,
            loss=loss,
            iou=self.processes.mean(answered.iou, answered.with_mask),
            dice=self.processes.mean(answered.dice, answered.with_mask),
            learning_rate=rate,
            samples_per_second=self.stage.batch * self.stage.prompts / elapsed,
        )

    @property
    def _state_file(self) -> Path:
        return self.out / f"{self.name}.state.pt"

    def _bleed_map(self) -> BleedMap | None:
        """The map that is trained beside the model and not kept; None if the stage has none."""
        if not self.stage.bleed_map or not self.trained:
            return None
        config = self.model.config
        if not config.pyramid_width:
            raise UsageError(f"bleed_map: {config.name} has no pyramid, whose features it reads")
        return BleedMap(config.channels).to(self.processes.device)

    def _weights(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.model.sam.state_dict()
        fixed = {name for name, _ in self.model.sam.named_buffers()}
        return {name: each for name, each in state.items() if name in self.trained or name in fixed}

    def _save(self) -> None:
        if not self.processes.is_first:
            return
        state = {
            "frozen": self.base_sha256,  # as states of earlier versions name it
            "weights": self._weights(),
            "bleed_map": None if self.map_training is None else self.map_training.state_dict(),
            "optimisers": self.optimisers.state_dict(),
            "average": self.average.averages,
            "scaler": self.scaler.state_dict(),
            "step": self.step_count,
            "seconds": self.seconds,
            "best_dice": self.best_dice,
        }
        write_state(self._state_file, state)

    def _restore(self) -> None:
        with restored(self._state_file, self.base_sha256, self.processes.device) as state:
            if state is None:
                return
            self.model.sam.load_state_dict(state["weights"], strict=False)
            if self.map_training is not None:
                self.map_training.load_state_dict(state["bleed_map"])
            self.optimisers.load_state_dict(state["optimisers"])
            self.average.averages = state["average"]
            self.scaler.load_state_dict(state["scaler"])
            self.step_count, self.seconds = state["step"], state["seconds"]
            self.best_dice = state["best_dice"]


def _mean(answers: list[Answered]) -> Answered:
    """Means over a step's pieces, or a validation's batches, weighted by their prompts."""
    prompts, with_mask = (
        sum(getattr(a, name) for a in answers) for name in ("prompts", "with_mask")
    )
    if not prompts:  # a process without held-out slices
        return Answered(torch.tensor(math.nan), math.nan, math.nan, 0, 0)
    loss = torch.stack([each.loss.detach() * each.prompts for each in answers]).sum() / prompts
    known = [each for each in answers if each.with_mask]
    iou, dice = (
        sum(getattr(each, name) * each.with_mask for each in known) / with_mask
        if known
        else math.nan
        for name in ("iou", "dice")
    )
    return Answered(loss, iou, dice, prompts, with_mask)
