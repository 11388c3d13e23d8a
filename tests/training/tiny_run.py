"""Runs of a tiny model in a process of their own, which a test may kill or start twice.

``python -m tests.training.tiny_run fit OUT [KILL_STAGE KILL_STEP]`` runs :data:`RECIPE`, and ends
itself with SIGKILL when that step is done. ``... gradients CACHE FILE`` makes one step, alone or
under torchrun, and saves the gradients and what the step reports.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from samihs_training.compute.distributed import Processes, processes
from samihs_training.config import Recipe, StageConfig
from samihs_training.data.cache import SliceCache
from samihs_training.data.sources import Drawing, PhantomSlices
from samihs_training.fit import fit
from samihs_training.methods import apply_method
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import PRESETS, build_sam
from samihs_training.runs.runlog import StepReport
from samihs_training.stages.batches import NumberedBatches, Share, stream
from samihs_training.stages.trainer import Trainer

from .tiny import TINY

STAGE = StageConfig(steps=4, learning_rate=1e-3, batch=2, prompts=2, correct=0.5, ema=0.5)
RECIPE = Recipe(
    base=STAGE, adapt=STAGE, preset="tiny", slices=3, validation_slices=2, validate_every=2, rank=3,
    score=STAGE, checkpoint_minutes=0.0,
)  # fmt: skip
PLAIN = StageConfig(steps=1, learning_rate=1e-3, batch=4, prompts=2, correct=0.0, clip=0.0)


def run(out: Path, kill: tuple[str, int] | None) -> None:
    """The whole recipe, or up to the killed step."""

    def report(step: StepReport) -> None:
        if (step.stage, step.step) == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    fit(RECIPE, out, resume=True, workers=0, report=report)


def one_step(cache: Path, stage: StageConfig, recipe: Recipe) -> dict[str, torch.Tensor]:
    """Gradients and report of one step, this process's share of it."""
    with processes() as here:
        return _stepped(here, cache, stage, recipe)


def _stepped(
    here: Processes, cache: Path, stage: StageConfig, recipe: Recipe
) -> dict[str, torch.Tensor]:
    """A function of its own: DDP, a local of it, is gone before its process group is."""
    torch.manual_seed(0)
    sam = build_sam(TINY)
    trained = apply_method(recipe.make_method(), sam)
    trainer = Trainer(SamihsModel(sam, TINY), trained, recipe, stage, "adapt", cache / "none", here)
    data = NumberedBatches(
        PhantomSlices(SliceCache.load(cache)), Drawing("bleeds", stage.prompts), batch=stage.batch,
        seed=3, share=Share(here.rank, here.world, stage.accumulate),
    )  # fmt: skip
    answered, _ = trainer.step(stream(data, range(stage.accumulate), workers=0))
    loss = torch.tensor(here.mean(answered.loss.item()))
    gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
    return {"loss": loss, **gradients}


def main(arguments: list[str]) -> None:
    """See the module's text."""
    torch.set_num_threads(1)
    PRESETS["tiny"] = TINY
    if arguments[0] == "fit":
        run(Path(arguments[1]), (arguments[2], int(arguments[3])) if arguments[2:] else None)
    else:
        got = one_step(Path(arguments[1]), PLAIN, replace(RECIPE, amp=False))
        if os.environ.get("RANK", "0") == "0":
            torch.save(got, arguments[2])


if __name__ == "__main__":
    main(sys.argv[1:])
