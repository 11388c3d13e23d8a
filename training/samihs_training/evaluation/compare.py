"""``samihs-train compare``: every combination of a grid, on one base, with the same data and seeds.

Every run adapts the same base and is evaluated on the same held-out slices and clicks. The table
gives the mean Dice with a 95 % bootstrap interval over patients (each phantom slice is from a
different one), seeds averaged first, and the difference from the first combination, paired by
slice.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from samihs_runtime.errors import DataError, OutputError
from samihs_runtime.intervals import BOOTSTRAP_DRAWS, estimate, interval_text
from samihs_training.checkpoints.checkpoint import load_adapters
from samihs_training.config import Recipe
from samihs_training.data.cache import CacheSpec, open_cache
from samihs_training.data.patients import PatientSlices
from samihs_training.data.sources import Drawing, PhantomSlices, Source
from samihs_training.fit import fit, validation_drawing
from samihs_training.output import write_output
from samihs_training.recipe_grid import RecipeGrid, cell_name
from samihs_training.runs.run_folder import check_recipe
from samihs_training.stages.batches import NumberedBatches, Share
from samihs_training.stages.objective import Objective
from samihs_training.training_data import FOLDS_FILE, open_patients

PROMPTS = 4
"""Clicks on each held-out slice."""


@dataclass(frozen=True)
class Row:
    """One combination's line in the table."""

    name: str
    trained: int
    """Trained parameters."""
    dice: float
    low: float
    high: float
    """Bounds of the 95 % interval of the mean Dice; NaN if there is only one patient."""
    difference: float
    """Mean Dice minus the first combination's, on the same slices; its bounds follow."""
    difference_low: float
    difference_high: float
    minutes: float
    """Training time, all seeds together."""


@dataclass(frozen=True, eq=False)
class HeldOutDice:
    """A run's Dice on the held-out slices, in their order."""

    dice: NDArray[np.float64]
    """[slices]: mean Dice over a slice's prompts; NaN where none is on a lesion."""
    patients: tuple[str, ...]
    """[slices]: the patient of each slice."""


def compare(
    grid: RecipeGrid,
    out: Path,
    *,
    resume: bool = False,
    workers: int = 1,
    progress: Callable[[str], None] = lambda run: None,
) -> list[Row]:
    """Train and evaluate every run; writes ``comparison.csv`` and ``comparison.md`` into ``out``.

    Raises:
        OutputError: ``out`` holds a comparison and ``resume`` is false, or a run of another
            recipe, or it cannot be written.
        DataError: two runs were evaluated on different slices, as the data set has changed.
    """
    if (out / "comparison.csv").exists() and not resume:
        raise OutputError(f"{out} holds a comparison: choose another folder, or give --resume")
    scores: list[HeldOutDice] = []
    reports: list[dict[str, Any]] = []
    for cell in grid.cells():
        by_seed = []
        for seed in grid.seeds:
            progress(f"{cell_name(cell)}, seed {seed}")
            run = out / "runs" / f"{cell_name(cell)} seed={seed}".replace("/", "_")
            by_seed.append(_run(grid.recipe_of(cell, seed), run, out / "cache", workers))
        scores.append(_mean_of([dice for dice, _ in by_seed]))
        minutes = sum(report["minutes"] for _, report in by_seed)
        reports.append({**by_seed[0][1], "minutes": minutes})
    rows = table(grid, scores, reports)
    _write(out, rows, grid)
    return rows


def _run(
    recipe: Recipe, run: Path, cache: Path, workers: int
) -> tuple[HeldOutDice, dict[str, Any]]:
    """Train a run unless it is done; returns its Dice on each held-out slice, and its report."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not (run / "cache").exists():  # one cache serves all runs
            cache.mkdir(parents=True, exist_ok=True)
            (run / "cache").symlink_to(cache.resolve(), target_is_directory=True)
    except OSError as error:
        raise OutputError(f"cannot write a run to {run}: {error.strerror or error}") from error
    if (run / "report.json").is_file():
        check_recipe(run, recipe)
    else:
        fit(recipe, run, resume=True, workers=workers)
    report: dict[str, Any] = json.loads((run / "report.json").read_text())
    return held_out_dice(recipe, run), report


@torch.no_grad()
def held_out_dice(recipe: Recipe, run: Path) -> HeldOutDice:
    """Mean Dice of four prompts on lesions of each held-out slice.

    Computed at the slice's own pixels, whatever the resolution a run was trained at, so that the
    truth is the same for all runs.
    """
    loaded = load_adapters(run / "adapters.safetensors", Path(recipe.base_checkpoint))
    on_lesions = Drawing("bleeds", PROMPTS, negatives=0.0, window=recipe.windowing())
    drawing = validation_drawing(recipe, on_lesions)
    source = _held_out(recipe, run)
    data = NumberedBatches(source, drawing, batch=1, seed=0, share=Share())
    stage = replace(recipe.adapt, at_slice_size=True)
    objective = Objective(loaded.model, recipe, stage).eval()
    order = np.argsort([data.slice_at(position) for position in range(data.count)])
    dice = np.array([objective(data[int(number)]).dice for number in order])
    return HeldOutDice(dice, _patients(source))


def _held_out(recipe: Recipe, run: Path) -> Source:
    cache = run / "cache"
    if recipe.data is not None:
        return open_patients(recipe.data, cache, run / FOLDS_FILE).held_out
    return PhantomSlices(open_cache(cache, CacheSpec("validation", recipe.validation_slices)))


def _patients(source: Source) -> tuple[str, ...]:
    """The patient of each slice of the source; a phantom has one slice only."""
    if isinstance(source, PatientSlices):
        return tuple(source.patients)
    return tuple(str(number) for number in range(len(source)))


def _mean_of(by_seed: list[HeldOutDice]) -> HeldOutDice:
    """Mean over the seeds, slice by slice."""
    _check_paired(by_seed)
    return HeldOutDice(np.mean([each.dice for each in by_seed], axis=0), by_seed[0].patients)


def _check_paired(scores: list[HeldOutDice]) -> None:
    if any(each.patients != scores[0].patients for each in scores):
        raise DataError(
            "the runs were evaluated on different slices, so the data set has changed between "
            "them: compare again, in another folder"
        )


def table(grid: RecipeGrid, scores: list[HeldOutDice], reports: list[dict[str, Any]]) -> list[Row]:
    """One row for each combination, from its Dice on each slice."""
    _check_paired(scores)
    first = scores[0]
    rows = []
    for cell, of_cell, report in zip(grid.cells(), scores, reports, strict=True):
        dice = estimate(of_cell.dice.tolist(), first.patients)
        apart = estimate((of_cell.dice - first.dice).tolist(), first.patients)
        trained = sum(report["trained_parameters"].values())
        rows.append(
            Row(
                cell_name(cell), trained, dice.mean, dice.low, dice.high, apart.mean, apart.low,
                apart.high, round(report["minutes"], 1),
            )
        )  # fmt: skip
    return rows


def _write(out: Path, rows: list[Row], grid: RecipeGrid) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_output(out / "comparison.md", as_markdown(rows, grid))
    write_output(out / "comparison.csv", text.getvalue())  # last: it marks a whole one


def as_markdown(rows: list[Row], grid: RecipeGrid) -> str:
    """The table for readers, with a note on how it was made below it."""
    head = "| combination | trained | Dice (95 % interval) | difference from the first | minutes |"
    lines = [head, "|---|---:|---|---|---:|"]
    lines += [
        f"| {row.name} | {row.trained:,} | "
        f"{row.dice:.3f} ({interval_text(row.low, row.high)}) | "
        f"{row.difference:+.3f} "
        f"({interval_text(row.difference_low, row.difference_high, '+.3f')}) | {row.minutes} |"
        for row in rows
    ]
    recipe = grid.recipe
    lines.append(
        f"\n{recipe.adapt.steps} steps of {recipe.adapt.batch} slices, seeds "
        f"{', '.join(map(str, grid.seeds))}; first prompts on lesions of {_judged_on(recipe)}"
    )
    return "\n".join(lines) + "\n"


def _judged_on(recipe: Recipe) -> str:
    intervals = f"intervals by {BOOTSTRAP_DRAWS} bootstrap resamples over patients."
    if recipe.data is None:
        return (
            f"{recipe.validation_slices} held-out phantom slices, each of another patient, "
            f"{intervals} Synthetic CT: says nothing about patients."
        )
    return f"the held-out cases of fold {recipe.data.fold}, {intervals}"
