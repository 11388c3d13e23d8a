"""A grid: one recipe, varied along axes. Its TOML file::

recipe = "base_recipe.toml"     # or a shipped recipe's name; it must name a base_checkpoint
seeds = [1, 2, 3]

[axes]                          # every combination is trained, once for each seed
method = ["pr", "lora", "decoder"]
"loss_options.reduction" = ["sample", "batch"]
"adapt.correct" = [0.0, 0.35]   # any field of a recipe

``recipe`` lies beside the grid. Whatever a recipe names, such as its base and its data set, is
looked for from the working directory, as in ``samihs-train fit``.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from samihs_runtime.errors import UsageError
from samihs_training.config import Recipe, read_recipe, recipe_from

_SPLIT = ("root", "layout", "labels", "folds", "fold_count", "fold_seed", "fold")
OTHER_SLICES = frozenset({"validation_slices", "data"} | {f"data.{name}" for name in _SPLIT})
OTHER_QUESTIONS = frozenset({"validation_prompt", "data.target", "data.size"})
"""Fields that determine what is held out, and what is asked there at which size: they must be the
same for all runs of a comparison."""


@dataclass(frozen=True)
class RecipeGrid:
    """A recipe, the fields of it that are varied, and the seeds."""

    recipe: Recipe
    axes: Mapping[str, tuple[Any, ...]]
    seeds: tuple[int, ...] = (1,)

    def cells(self) -> list[dict[str, Any]]:
        """Every combination of the axes' values; the first is what the others are compared with."""
        return [
            dict(zip(self.axes, values, strict=True))
            for values in itertools.product(*self.axes.values())
        ]

    def recipe_of(self, cell: Mapping[str, Any], seed: int) -> Recipe:
        """The recipe of one run."""
        raw = {name: value for name, value in asdict(self.recipe).items() if name != "base"}
        if cell.get("method", self.recipe.method) != self.recipe.method:
            raw["method_options"] = {}  # of another method
        if cell.get("loss", self.recipe.loss) != self.recipe.loss:
            raw["loss_options"] = {}
        for axis, value in cell.items():
            place, *path = raw, *axis.split(".")
            for part in path[:-1]:
                place = place[part]
            place[path[-1]] = value
        return recipe_from({**raw, "seed": seed})


def read_recipe_grid(path: Path) -> RecipeGrid:
    """The grid of a TOML file; every run's recipe is checked before the first is trained."""
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read the grid {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the grid {path} is no TOML: {error}") from error
    unknown = sorted(raw.keys() - {"recipe", "seeds", "axes"})
    if unknown or "recipe" not in raw or not raw.get("axes"):
        raise UsageError(
            f"the grid {path} holds {', '.join(raw)}: expected recipe, [axes] and perhaps seeds"
        )
    named = Path(raw["recipe"])
    recipe = read_recipe(path.parent / named if named.suffix else named)
    if not recipe.base_checkpoint:
        raise UsageError(
            f"the grid {path}: its recipe trains a base of its own; a comparison needs one base "
            "for all: name it with base_checkpoint"
        )
    if recipe.adapters:
        raise UsageError(
            f"the grid {path}: its recipe gives adapters, which would be trained no further; leave "
            "them out"
        )
    recipe = replace(recipe, validate_every=0, score=None)
    axes = {
        axis: tuple(values) if isinstance(values, list) else (values,)
        for axis, values in raw["axes"].items()
    }
    for axis, values in axes.items():
        _check_axis(path, axis, values, recipe)
    seeds = raw.get("seeds", [recipe.seed])
    if not isinstance(seeds, list) or not seeds or len(set(map(str, seeds))) < len(seeds):
        raise UsageError(
            f"the grid {path}: seeds = {seeds!r}: expected a list of different numbers"
        )
    grid = RecipeGrid(recipe, axes, tuple(seeds))
    for cell in grid.cells():
        try:
            made = grid.recipe_of(cell, grid.seeds[0])
        except (KeyError, TypeError) as error:
            raise UsageError(f"the grid {path}: no recipe has an axis {error}") from error
        if not Path(made.base_checkpoint).is_file():
            raise UsageError(
                f"the grid {path}: no base checkpoint at {made.base_checkpoint}: expected "
                "base_checkpoint of its recipe as a path from the working directory, as in fit"
            )
    return grid


def _check_axis(path: Path, axis: str, values: tuple[Any, ...], recipe: Recipe) -> None:
    """Raise a UsageError if runs that differ along the axis could not be compared."""
    why = ""
    if not values or len(set(map(str, values))) < len(values):
        why = f"has {list(values)}; expected values, each of them once"
    elif axis in OTHER_SLICES:
        why = (
            "would evaluate runs on different slices, so their difference would mean nothing; make "
            "a comparison for each value"
        )
    elif axis in OTHER_QUESTIONS:
        why = (
            "would ask runs different questions about the held-out slices, so their difference "
            "would mean nothing; make a comparison for each value"
        )
    elif axis.startswith("score"):
        why = "changes no mask, and masks are what is compared"
    elif axis == "adapters":
        why = "names what would be trained no further"
    elif axis == "seed":
        why = "is given as seeds = [...] instead, which vary it"
    elif recipe.adapt.loss and axis.split(".")[0] in ("loss", "loss_options"):
        why = (
            "changes nothing, as [adapt] of its recipe names a loss of its own; expected "
            f"adapt.{axis}"
        )
    if why:
        raise UsageError(f"the grid {path}: axis {axis!r} {why}")


def cell_name(cell: Mapping[str, Any]) -> str:
    """The name of a combination in the table and of its run's folder."""
    return " ".join(f"{axis}={value}" for axis, value in cell.items())
