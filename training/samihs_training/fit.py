"""A run: a base, trained from scratch or given, then what adapts it to hemorrhages.

A run is one folder::

    recipe.json                 what was asked for
    cache/                      the phantom slices, made once
    log.csv, validation.csv     every step, every validation; tensorboard/ has the same
    base.state.pt, adapt.state.pt   where a stage stands: what --resume goes on from
    base.safetensors            where the recipe trains one
    adapters.safetensors        what was trained last; adapters.best.safetensors at its best Dice
    curves.png, report.json     when it is done

It may stop at any moment, killed or not, and ``resume`` goes on, exactly. Under ``torchrun``
several processes share every batch; the first writes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from samihs_runtime.errors import CheckpointError, OutputError
from samihs_training.batches import NumberedBatches, Share
from samihs_training.checkpoint import load_base, save_adapters, save_base
from samihs_training.config import Recipe, StageConfig
from samihs_training.data.cache import CacheSpec, SliceCache, open_cache
from samihs_training.data.slices import Task
from samihs_training.distributed import Processes, processes
from samihs_training.initialisation import initialised
from samihs_training.methods import apply_method, count_by_part
from samihs_training.model import SamihsModel
from samihs_training.runlog import StepReport, ValidationReport, plot_curves, read_log
from samihs_training.sam import build_sam, preset
from samihs_training.trainer import Report, Trainer

TRAINING_DATA = "synthetic CT only: phantoms of this project, no patient's images"
CacheProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Run:
    """What the stages of a run share."""

    recipe: Recipe
    out: Path
    processes: Processes
    train: SliceCache
    validation: SliceCache | None
    workers: int
    report: Report

    @property
    def base(self) -> Path:
        """The base that is adapted: the recipe's, or the one trained here."""
        given = self.recipe.base_checkpoint
        return Path(given) if given else self.out / "base.safetensors"

    @property
    def adapters(self) -> Path:
        """What was trained last."""
        return self.out / "adapters.safetensors"

    @property
    def best(self) -> Path:
        """What was trained, at its best validation."""
        return self.out / "adapters.best.safetensors"

    def batches(self, stage: StageConfig, task: Task) -> NumberedBatches:
        """The training batches of a stage, this process's share."""
        share = Share(self.processes.rank, self.processes.world, stage.accumulate)
        return NumberedBatches(
            self.train, task, batch=stage.batch, prompts=stage.prompts, seed=self.recipe.seed,
            share=share,
        )  # fmt: skip

    def validation_batches(self, stage: StageConfig, task: Task) -> NumberedBatches | None:
        """The same slices and clicks at every validation, whatever the seed."""
        if self.validation is None:
            return None
        share = Share(self.processes.rank, self.processes.world)
        return NumberedBatches(
            self.validation, task, batch=stage.batch, prompts=stage.prompts, seed=0, share=share,
            purpose="validate",
        )  # fmt: skip


def fit(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 1,
    report: Report = lambda step: None,
    cache_progress: CacheProgress | None = None,
) -> Path:
    """Run a recipe in the folder ``out``; returns the adapter checkpoint.

    Raises:
        OutputError: ``out`` holds a run already, and neither ``resume`` nor ``overwrite`` was
            asked for, or it holds another recipe's.
    """
    if recipe.base_checkpoint and not Path(recipe.base_checkpoint).is_file():
        raise CheckpointError(f"no base checkpoint at {recipe.base_checkpoint}: see --base")
    # Tails of softmax and of Gaussians are denormal numbers, on which a CPU is slow: as training
    # sharpens its attention, a step would come to take twice as long.
    torch.set_flush_denormal(True)
    with processes() as here:
        if here.is_first:
            _claim(out, recipe, resume, overwrite)
            _caches(out, recipe, cache_progress)
        here.wait()
        train, validation = _caches(out, recipe, None)
        quiet: Report = lambda step: None  # noqa: E731
        run = Run(recipe, out, here, train, validation, workers, report if here.is_first else quiet)
        if recipe.base is not None and not run.base.is_file():
            _train_base(run, recipe.base)
        here.wait()
        _adapt(run)
        if here.is_first:
            plot_curves(out)
        here.wait()
        return run.adapters


def _unheard(step: StepReport) -> None:
    """Progress of a process that is not the first."""


def _train_base(run: Run, stage: StageConfig) -> None:
    """All weights from scratch: a click on any structure."""
    config = preset(run.recipe.preset)
    torch.manual_seed(run.recipe.seed)
    model = SamihsModel(initialised(build_sam(config)), config)
    trained = dict(model.sam.named_parameters())
    trainer = Trainer(model, trained, run.recipe, stage, "base", run.out, run.processes)
    data, held_out = run.batches(stage, "structures"), run.validation_batches(stage, "structures")
    trainer.run(data, held_out, workers=run.workers, report=run.report)
    if run.processes.is_first:
        save_base(run.base, model.sam, config, _description(run.recipe, trainer))


def _adapt(run: Run) -> None:
    """What the method trains: a click on a hemorrhage."""
    recipe, stage, method = run.recipe, run.recipe.adapt, run.recipe.make_method()
    torch.manual_seed(recipe.seed)
    sam, config, _ = load_base(run.base, recipe.frame)
    trained = apply_method(method, sam)
    model = SamihsModel(sam, config)
    trainer = Trainer(model, trained, recipe, stage, "adapt", run.out, run.processes)

    def save(path: Path) -> None:
        if run.processes.is_first:
            about = _description(recipe, trainer)
            save_adapters(path, sam, method, run.base, about, recipe.frame)

    trainer.run(
        run.batches(stage, "bleeds"),
        run.validation_batches(stage, "bleeds"),
        workers=run.workers,
        report=run.report,
        on_best=lambda: save(run.best),
    )
    save(run.adapters)
    if run.processes.is_first:
        counts = count_by_part(sam, trained)
        _write_report(run, {**_description(recipe, trainer), "trained_parameters": counts})


def _claim(out: Path, recipe: Recipe, resume: bool, overwrite: bool) -> None:
    """Make the folder this recipe's, or say why it cannot be."""
    asked = json.loads(json.dumps(asdict(recipe)))
    record = out / "recipe.json"
    try:
        if record.exists() and overwrite:
            _clear(out)
        if record.exists():
            if not resume:
                raise OutputError(
                    f"{out} holds a run: choose another folder, go on with --resume, or replace "
                    "it with --overwrite"
                )
            if json.loads(record.read_text()) != asked:
                raise OutputError(f"{out} holds a run of another recipe: it cannot go on with this")
            return
        out.mkdir(parents=True, exist_ok=True)
        partial = out / ".recipe.json.partial"
        partial.write_text(json.dumps(asked, indent=1))
        partial.replace(record)
    except OSError as error:
        raise OutputError(f"cannot write a run to {out}: {error.strerror or error}") from error


def _clear(out: Path) -> None:
    """Remove what an earlier run left, but for its cache, which any run may use."""
    for pattern in ("*.safetensors", "*.state.pt", "*.csv", "*.json", "curves.png"):
        for path in out.glob(pattern):
            path.unlink()
    shutil.rmtree(out / "tensorboard", ignore_errors=True)


def _caches(
    out: Path, recipe: Recipe, progress: CacheProgress | None
) -> tuple[SliceCache, SliceCache | None]:
    """Slices to train on and, where the recipe validates, others to validate on."""
    folder, workers = out / "cache", os.cpu_count() or 1
    spec = CacheSpec("train", recipe.slices)
    train = open_cache(folder, spec, workers=workers, progress=progress)
    if not recipe.validate_every:
        return train, None
    held_out = replace(spec, split="validation", count=recipe.validation_slices)
    return train, open_cache(folder, held_out, workers=workers, progress=progress)


def _description(recipe: Recipe, trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint says of its training."""
    base = Path(recipe.base_checkpoint).name  # where it lay is nobody's business
    about = {
        "preset": trainer.model.config.name,
        "window": list(recipe.window),
        "training_data": TRAINING_DATA,
        "recipe": {**asdict(recipe), "base_checkpoint": base},
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
    partial = run.out / ".report.json.partial"
    partial.write_text(json.dumps(report, indent=1) + "\n")
    partial.replace(run.out / "report.json")
