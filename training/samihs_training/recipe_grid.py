"""A grid: one recipe, varied along axes. Its TOML file::

recipe = "base_recipe.toml"     # or a shipped recipe's name; it must name a base_checkpoint
seeds = [1, 2, 3]

[axes]                          # every combination is trained, once for each seed
method = ["pr", "lora", "decoder"]
"loss_options.reduction" = ["sample", "batch"]
"adapt.correct" = [0.0, 0.35]   # any field of a recipe
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

OTHER_SLICES = frozenset(
    {"validation_slices"}
    | {f"data.{name}" for name in ("root", "layout", "folds", "fold_count", "fold_seed", "fold")}
)
"""Fields that determine what is held out, which must be the same for all runs of a comparison."""


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
    base = path.parent / recipe.base_checkpoint  # an absolute path stays one
    recipe = replace(recipe, base_checkpoint=str(base), validate_every=0, score=None)
    axes = {
        axis: tuple(values) if isinstance(values, list) else (values,)
        for axis, values in raw["axes"].items()
    }
    for axis in axes:
        if axis in OTHER_SLICES or axis == "data":
            raise UsageError(
                f"the grid {path}: axis {axis!r} would evaluate runs on different slices, so their "
                "difference would mean nothing; make a comparison for each value"
            )
        if axis.startswith("score"):
            raise UsageError(
                f"the grid {path}: axis {axis!r} changes no mask, and masks are what is compared"
            )
        if axis == "seed":
            raise UsageError(f"the grid {path}: axis 'seed': expected seeds = [...], which vary it")
        if recipe.adapt.loss and axis.split(".")[0] in ("loss", "loss_options"):
            raise UsageError(
                f"the grid {path}: axis {axis!r} changes nothing, as [adapt] of its recipe names a "
                f"loss of its own; expected adapt.{axis}"
            )
    grid = RecipeGrid(recipe, axes, tuple(raw.get("seeds", [recipe.seed])))
    for cell in grid.cells():
        try:
            grid.recipe_of(cell, grid.seeds[0])
        except (KeyError, TypeError) as error:
            raise UsageError(f"the grid {path}: no recipe has an axis {error}") from error
    return grid


def cell_name(cell: Mapping[str, Any]) -> str:
    """The name of a combination in the table and of its run's folder."""
    return " ".join(f"{axis}={value}" for axis, value in cell.items())
