"""A training run: a base, trained from scratch or given, then its adaptation to hemorrhages, the
choice of its masks' threshold and the training of its score; or only the last two, for given
adapters.

A run is one folder::

    recipe.json                 the recipe
    folds.json                  which patients are held out, when adapting to a data set
    cache/                      slices: phantoms made once, volumes read once
    log.csv, validation.csv     every step, every validation; tensorboard/ has the same
    base.state.pt, adapt.state.pt, mask_threshold.state.pt, score.state.pt
                                the state of each stage, from which --resume continues
    base.safetensors            if the recipe trains one
    adapters.safetensors        the last weights; adapters.best.safetensors: at the best Dice
    curves.png, report.json     when it is done

A run may be stopped or killed at any moment, and ``resume`` continues it, on a CPU exactly. Under
``torchrun`` several processes share every batch, and the first one writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from samihs_runtime.bundle import sha256_of
from samihs_runtime.errors import CheckpointError
from samihs_training.checkpoints.base import config_of_base, description_of_base, start_from
from samihs_training.checkpoints.checkpoint import (
    LoadedAdapters,
    load_base,
    save_adapters,
    save_base,
)
from samihs_training.checkpoints.given_adapters import given_adapters, origin_of
from samihs_training.compute.distributed import Processes, processes
from samihs_training.config import Recipe, StageConfig
from samihs_training.data.cache import CacheSpec
from samihs_training.data.crops import Crops
from samihs_training.data.sources import Drawing, Task
from samihs_training.jsontext import json_text
from samihs_training.methods import apply_method, count_by_part
from samihs_training.network.cropped import crops_of
from samihs_training.network.frames import Frame
from samihs_training.network.initialisation import initialised
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import build_sam, preset
from samihs_training.output import write_output
from samihs_training.prompts import prompt_rule
from samihs_training.runs.run_folder import run_folder
from samihs_training.runs.runlog import StepReport, ValidationReport, plot_curves, read_log
from samihs_training.stages.batches import NumberedBatches, Share
from samihs_training.stages.score_stage import ScoreStage, ScoreTraining
from samihs_training.stages.threshold_stage import (
    ThresholdChoice,
    ThresholdStage,
    check_has_threshold,
)
from samihs_training.stages.trainer import Report, Trainer
from samihs_training.training_data import (
    FOLDS_FILE,
    Patients,
    Progress,
    Slices,
    anonymous,
    open_patients,
    phantom_slices,
    trained_from,
)


@dataclass(frozen=True)
class Run:
    """What the stages of a run share."""

    recipe: Recipe
    out: Path
    processes: Processes
    phantoms: Slices | None
    """What a base is trained on; None if nothing is trained on phantoms."""
    bleeds: Slices
    """What the base is adapted to: phantoms or patients."""
    workers: int
    report: Report

    @property
    def base(self) -> Path:
        """The base that is adapted: the recipe's, or the one trained here."""
        given = self.recipe.base_checkpoint
        return Path(given) if given else self.out / "base.safetensors"

    @property
    def adapters(self) -> Path:
        """File of the last weights."""
        return self.out / "adapters.safetensors"

    @property
    def best(self) -> Path:
        """File of the weights at the best validation."""
        return self.out / "adapters.best.safetensors"

    def train(
        self,
        trainer: Trainer,
        stage: StageConfig,
        task: Task,
        slices: Slices,
        on_best: Callable[[], None] = lambda: None,
    ) -> None:
        """Train a stage to its end; ``on_best`` is called at the best validation so far."""
        data = self.batches(stage, task, slices, trainer.crops)
        held_out = None
        if slices.validation is not None:  # the same at every validation, whatever the seed
            plain = validation_drawing(self.recipe, data.drawing)
            share = Share(self.processes.rank, self.processes.world)
            batch = whole_slices(stage.batch, trainer.crops, share.world)
            held_out = NumberedBatches(slices.validation, plain, batch=batch, seed=0, share=share)
        trainer.run(data, held_out, workers=self.workers, report=self.report, on_best=on_best)

    def batches(
        self, stage: StageConfig, task: Task, slices: Slices, crops: Crops | None = None
    ) -> NumberedBatches:
        """This process's batches in a stage, of ``crops`` if given."""
        window = self.recipe.windowing()
        drawing = Drawing(task, stage.prompts, stage.rule(), stage.negatives, window, crops=crops)
        share = Share(self.processes.rank, self.processes.world, stage.accumulate)
        return NumberedBatches(
            slices.train, drawing, batch=stage.batch, seed=self.recipe.seed, share=share
        )


def whole_slices(batch: int, crops: Crops | None, world: int) -> int:
    """How many slices fit where ``batch`` crops do, of which each of ``world`` processes takes the
    same number."""
    if crops is None:
        return batch
    return max(1, batch * crops.side**2 // crops.grid**2 // world) * world


def validation_drawing(recipe: Recipe, training: Drawing) -> Drawing:
    """Whole slices without augmentation, and the prompts that the recipe validates with."""
    rule = prompt_rule(recipe.validation_prompt) if recipe.validation_prompt else training.rule
    return replace(training, rule=rule, vary=False, crops=None)


def fit(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 1,
    report: Report = lambda step: None,
    cache_progress: Progress | None = None,
    data_progress: Progress | None = None,
) -> Path:
    """Run a recipe in the folder ``out``; returns the adapter checkpoint.

    Args:
        recipe: what is trained.
        out: the run's folder.
        resume: continue the run in ``out``.
        overwrite: replace the run in ``out``, keeping its cache.
        workers: processes that prepare batches.
        report: called after each step.
        cache_progress: called as phantoms are made, with their number and how many there will be.
        data_progress: the same for the cases of a data set as they are read.

    Raises:
        OutputError: ``out`` holds a run already and neither ``resume`` nor ``overwrite`` is set, or
            it holds a run of another recipe, or weights without a recipe, or another process is
            training in it.
        DataError: a case or the folds are faulty; nothing of the run is left behind.
    """
    if recipe.base_checkpoint and not Path(recipe.base_checkpoint).is_file():
        raise CheckpointError(f"no base checkpoint at {recipe.base_checkpoint}: see --base")
    if recipe.start and not Path(recipe.start).is_file():
        raise CheckpointError(f"no base checkpoint at {recipe.start}: see --start")
    if recipe.mask_threshold is not None:  # fail before the hours of training
        given_base = Path(recipe.base_checkpoint)
        check_has_threshold(
            preset(recipe.preset) if recipe.base is not None else config_of_base(given_base)
        )
    _check_crops(recipe)
    given = given_adapters(recipe) if recipe.adapters else None

    def check(patients: Patients) -> None:
        if given is not None:
            origin_of(given, patients.about, _anew(recipe))

    # Tails of softmax and of Gaussians are denormal numbers, which are slow on a CPU: as training
    # sharpens the attention, a step would end up taking twice as long.
    torch.set_flush_denormal(True)
    with processes() as here, ExitStack() as held:
        if here.is_first:
            held.enter_context(run_folder(out, recipe, resume, overwrite, data_progress, check))
            _slices(out, recipe, cache_progress)
        here.wait()
        phantoms, bleeds = _slices(out, recipe, None)
        quiet: Report = lambda step: None  # noqa: E731
        told = report if here.is_first else quiet
        run = Run(recipe, out, here, phantoms, bleeds, workers, told)
        if recipe.base is not None and phantoms is not None and not run.base.is_file():
            _train_base(run, recipe.base, phantoms)
        here.wait()
        if given is not None:
            _finish_again(run, given)
        else:
            _adapt(run)
        if here.is_first:
            plot_curves(out)
        here.wait()
        return run.adapters


def _check_crops(recipe: Recipe) -> None:
    """Raise a UsageError if a stage's crops do not fit its model or its slices."""
    config = preset(recipe.preset)
    if recipe.base is not None and recipe.base.crop:
        crops_of(config, recipe.base.crop).part((0, 0), CacheSpec.matrix)
    if recipe.adapt.crop and not recipe.adapters:
        if recipe.base is None:
            config = config_of_base(Path(recipe.base_checkpoint))
        size = CacheSpec.matrix if recipe.data is None else recipe.data.size
        crops_of(recipe.frame.of(config), recipe.adapt.crop).part((0, 0), size)


def _train_base(run: Run, stage: StageConfig, phantoms: Slices) -> None:
    """Train all weights, from scratch or from another base's, with clicks on any structure."""
    torch.manual_seed(run.recipe.seed)
    config = preset(run.recipe.preset)
    sam = initialised(build_sam(config))
    if run.recipe.start:
        start_from(sam, Path(run.recipe.start))
    model = SamihsModel(sam, config)
    trained = dict(model.sam.named_parameters())
    trainer = Trainer(model, trained, run.recipe, stage, "base", run.out, run.processes)
    run.train(trainer, stage, "structures", phantoms)
    if run.processes.is_first:
        start = description_of_base(Path(run.recipe.start)) if run.recipe.start else {}
        about = _description(run.recipe, trainer, phantoms, start)
        save_base(run.base, model.sam, config, about)


def _adapt(run: Run) -> None:
    """Train what the method adapts, with clicks on hemorrhages."""
    recipe, stage, method = run.recipe, run.recipe.adapt, run.recipe.make_method()
    torch.manual_seed(recipe.seed)
    sam, config, start = load_base(run.base, recipe.frame)
    trained = apply_method(method, sam)
    model = SamihsModel(sam, config)
    base_sha256 = sha256_of(run.base)
    trainer = Trainer(model, trained, recipe, stage, "adapt", run.out, run.processes, base_sha256)

    def save(path: Path) -> None:
        if run.processes.is_first:
            about = _description(recipe, trainer, run.bleeds, start)
            save_adapters(path, sam, method, run.base, about, recipe.frame)

    run.train(trainer, stage, "bleeds", run.bleeds, on_best=lambda: save(run.best))
    finished = _finish(run, model)
    trainer.seconds += 60 * sum(each.minutes for each in finished.values())
    save(run.adapters)
    if run.processes.is_first:
        about = _as_dicts(finished) | _description(recipe, trainer, run.bleeds, start)
        _write_report(run, {**about, "trained_parameters": count_by_part(sam, trained)})


def _finish(run: Run, model: SamihsModel) -> dict[str, ThresholdChoice | ScoreTraining]:
    """Run the stages that leave the model's masks as they are but for their threshold.

    The threshold comes first: the score is then trained on the masks above it.
    """
    finished: dict[str, ThresholdChoice | ScoreTraining] = {}
    for kind in (ThresholdStage, ScoreStage):
        config: StageConfig | None = getattr(run.recipe, kind.name)
        if config is not None:
            stage = kind(model, run.recipe, config, run.out, run.processes)
            batches = run.batches(stage.stage, "bleeds", run.bleeds)
            finished[kind.name] = stage.run(batches, workers=run.workers, report=run.report)
    return finished


def _as_dicts(finished: Mapping[str, ThresholdChoice | ScoreTraining]) -> dict[str, Any]:
    return {name: asdict(each) for name, each in finished.items()}


def _finish_again(run: Run, loaded: LoadedAdapters) -> None:
    """Choose the threshold, or train the score, of existing adapters; nothing else changes."""
    recipe = run.recipe
    origin = origin_of(loaded, run.bleeds.about, _anew(recipe))
    torch.manual_seed(recipe.seed)
    finished = _finish(run, loaded.model)
    if not run.processes.is_first:
        return
    how = {"recipe": anonymous(recipe), "cores": os.cpu_count(), "torch": torch.__version__}
    trained = {name: how | each for name, each in _as_dicts(finished).items()}
    about = {**loaded.description, **origin, **trained}
    about.pop("metrics", None)  # of the old threshold and score
    frame = Frame(**loaded.description.get("frame", {}))
    sam = loaded.model.sam
    save_adapters(run.adapters, sam, loaded.method, run.base, about, frame)
    counts = count_by_part(sam, loaded.method.trained(sam))
    _write_report(run, {**about, "trained_parameters": counts})


def _anew(recipe: Recipe) -> str:
    """What a run determines anew for given adapters."""
    stages = {"threshold": recipe.mask_threshold, "score": recipe.score}
    return " and ".join(name for name, stage in stages.items() if stage is not None)


def _slices(out: Path, recipe: Recipe, progress: Progress | None) -> tuple[Slices | None, Slices]:
    """What a base is trained on, if one is, and what it is adapted to."""
    cache = out / "cache"
    if recipe.data is None:
        phantoms = phantom_slices(recipe, cache, progress)
        return phantoms, phantoms
    patients = open_patients(recipe.data, cache, out / FOLDS_FILE)
    base = phantom_slices(recipe, cache, progress) if recipe.base is not None else None
    return base, patients.slices(recipe)


def _description(
    recipe: Recipe, trainer: Trainer, slices: Slices, start: Mapping[str, Any]
) -> dict[str, Any]:
    """What a checkpoint records about its training, from weights described by ``start``."""
    window = recipe.windowing()
    about = {
        "preset": trainer.model.config.name,
        "window": list(recipe.window) if window.rule == "fixed" else asdict(window),
        **trained_from(slices.about, start),
        "recipe": anonymous(recipe),
        "steps": trainer.step_count,
        "minutes": round(trainer.seconds / 60, 1),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    if trainer.best_dice >= 0:
        about["metrics"] = {"best_validation_dice": trainer.best_dice}
    return about


def _write_report(run: Run, about: dict[str, Any]) -> None:
    checks = [asdict(row) for row in read_log(run.out, ValidationReport) if row.stage == "adapt"]
    steps = [row for row in read_log(run.out, StepReport) if row.stage == "adapt"]
    report = {
        **about,
        "base": run.base.name,
        "last_step": asdict(steps[-1]) if steps else None,
        "validations": checks,
    }
    write_output(run.out / "report.json", json_text(report))
