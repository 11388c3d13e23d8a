"""The terminal's progress bars of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from samihs_training.config import Recipe
    from samihs_training.runs.runlog import StepReport

PROGRESS_COLUMNS = (
    TextColumn("{task.description:<14}"), BarColumn(), TextColumn("{task.fields[note]}"),
    TimeElapsedColumn(), TimeRemainingColumn(),
)  # fmt: skip


class FitBars:
    """One bar for the phantoms, one for the cases of a data set, one for each stage."""

    def __init__(self, progress: Progress, recipe: Recipe) -> None:
        self.progress = progress
        self.bars = {}
        if recipe.data is not None:
            self.bars["cases"] = progress.add_task("cases", total=None, note="", start=False)
        if recipe.data is None or recipe.base is not None:
            self.bars["phantoms"] = progress.add_task("phantoms", total=recipe.slices, note="")
        for name in ("base", "adapt", "mask_threshold", "score"):
            stage = getattr(recipe, name)
            if stage is not None and not (name == "adapt" and recipe.adapters):
                self.bars[name] = progress.add_task(name, total=stage.steps, note="", start=False)

    def trained(self, step: StepReport) -> None:
        """A step is done."""
        note = (
            f"loss {step.loss:.3f}  Dice {step.dice:.2f}  {step.samples_per_second:.1f} samples/s"
        )
        bar = self.bars[step.stage]
        self.progress.start_task(bar)
        self.progress.update(bar, completed=step.step, note=note)

    def cached(self, done: int, total: int) -> None:
        """``done`` of ``total`` phantom slices are made."""
        bar = self.bars["phantoms"]
        self.progress.update(bar, completed=done, total=total, note=f"{done}/{total} slices")

    def read(self, done: int, total: int) -> None:
        """``done`` of ``total`` cases are read."""
        bar = self.bars["cases"]
        self.progress.start_task(bar)
        self.progress.update(bar, completed=done, total=total, note=f"{done}/{total} cases")
