"""A grid of methods on one base: the same slices, one table, and what is wrong with a grid."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from samihs_runtime.errors import UsageError
from samihs_training import compare
from samihs_training.checkpoint import save_base
from samihs_training.cli import main
from samihs_training.compare import bootstrap
from samihs_training.config import StageConfig
from samihs_training.grid import read_grid
from samihs_training.sam import build_sam

from .tiny import TINY

RECIPE = """
base_checkpoint = "base.safetensors"
slices = 2
validation_slices = 2
rank = 3
method_options = { sites = ["mlp"] }
[adapt]
steps = 2
learning_rate = 1e-3
batch = 1
prompts = 2
"""
GRID = """
recipe = "recipe.toml"
seeds = [1, 2]
[axes]
method = ["frozen", "pr", "lora"]
"adapt.correct" = [0.0]
"""

GRIDS = [
    path
    for path in sorted((Path(__file__).parents[2] / "benchmarks" / "grids").glob("*.toml"))
    if path.name != "recipe.toml"
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_base(tmp_path / "base.safetensors", build_sam(TINY), TINY, {})
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "grid.toml").write_text(GRID)
    return tmp_path


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_the_benchmarks_grids_can_be_run(path: Path) -> None:
    grid = read_grid(path)
    assert len(grid.cells()) >= 3
    assert grid.recipe.base_checkpoint
    assert Path(grid.recipe.base_checkpoint).is_file()


def test_a_grid_is_every_combination_of_one_recipe(folder: Path) -> None:
    grid = read_grid(folder / "grid.toml")
    assert [cell["method"] for cell in grid.cells()] == ["frozen", "pr", "lora"]
    recipes = [grid.recipe_of(cell, seed=2) for cell in grid.cells()]
    assert all(each.seed == 2 and each.adapt.correct == 0.0 for each in recipes)
    assert recipes[1].method_options == {"sites": ["mlp"]}  # the recipe's own method keeps its own
    assert recipes[2].method_options == {}


def test_compare_trains_every_run_and_writes_one_table(folder: Path) -> None:
    arguments = ["compare", str(folder / "grid.toml"), "--out", str(folder / "out")]
    result = CliRunner().invoke(main, [*arguments, "--workers", "0"])
    assert result.exit_code == 0, result.output
    with (folder / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"].split()[0] for row in rows] == ["method=frozen", "method=pr", "method=lora"]
    assert rows[0]["trained"] == "0"
    assert float(rows[0]["difference"]) == 0.0
    assert all(float(r["low"]) <= float(r["dice"]) <= float(r["high"]) for r in rows)
    assert len(list((folder / "out" / "runs").iterdir())) == 6
    assert "| method=lora" in (folder / "out" / "comparison.md").read_text()
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2
    assert "say --resume" in again.stderr
    (folder / "recipe.toml").write_text(RECIPE.replace("steps = 2", "steps = 3"))
    mixed = CliRunner().invoke(main, [*arguments, "--resume"])
    assert mixed.exit_code == 2
    assert "a run of another recipe" in mixed.stderr


def test_every_run_is_judged_at_the_slices_pixels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[bool] = []

    def note(model: object, recipe: object, stage: StageConfig) -> torch.nn.Module:
        judged.append(stage.at_slice_size)
        return torch.nn.Identity()

    monkeypatch.setattr(compare, "load_adapters", lambda *paths: SimpleNamespace(model=None))
    monkeypatch.setattr(compare, "_held_out", lambda *given: ())
    monkeypatch.setattr(compare, "Objective", note)
    recipe = read_grid(folder / "grid.toml").recipe
    assert not recipe.adapt.at_slice_size
    assert compare.held_out_dice(recipe, folder).size == 0
    assert judged == [True]


def test_the_interval_is_of_the_mean_over_slices() -> None:
    values = np.append(np.random.default_rng(0).normal(0.5, 0.1, 400), np.nan)
    mean, low, high = bootstrap(values)
    assert mean == pytest.approx(np.nanmean(values))
    half = 1.96 * np.nanstd(values) / 20  # of a normal mean
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.1)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('"pr"', '"prr"', "no method 'prr'"),
        ('"adapt.correct"', '"adapt.speed"', r"\[adapt\]: unknown speed"),
        ('"adapt.correct"', '"adopt.correct"', "no recipe has an axis 'adopt'"),
        ("[axes]", "[axis]", "expected recipe, .axes."),
        ("recipe.toml", "absent.toml", "cannot read the recipe"),
        ('"recipe.toml"', '"quick"', "a comparison needs one base"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_is_trained(
    folder: Path, old: str, new: str, match: str
) -> None:
    (folder / "grid.toml").write_text(GRID.replace(old, new))
    with pytest.raises(UsageError, match=match):
        read_grid(folder / "grid.toml")


def test_an_axis_of_a_loss_that_the_stage_replaces_is_refused(folder: Path) -> None:
    (folder / "recipe.toml").write_text(RECIPE + 'loss = "dice"\n')
    grid = GRID.replace('"adapt.correct" = [0.0]', 'loss = ["bce", "dice_bce"]')
    (folder / "grid.toml").write_text(grid)
    with pytest.raises(UsageError, match=r"axis 'loss' changes nothing.*adapt\.loss"):
        read_grid(folder / "grid.toml")
    (folder / "grid.toml").write_text(grid.replace("loss =", '"adapt.loss" ='))
    assert len(read_grid(folder / "grid.toml").cells()) == 6
