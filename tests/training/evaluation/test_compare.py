"""A grid of methods on one base: the same slices, one table, and what is wrong with a grid."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from samihs_runtime.errors import DataError, UsageError
from samihs_training.checkpoints.checkpoint import save_base
from samihs_training.cli import main
from samihs_training.config import StageConfig
from samihs_training.data.cases.finding import find_cases
from samihs_training.data.patients import PatientSlices
from samihs_training.data.volume_cache import open_volumes
from samihs_training.evaluation import compare
from samihs_training.evaluation.compare import HeldOutDice
from samihs_training.network.sam import build_sam
from samihs_training.recipe_grid import read_recipe_grid
from tests.training.test_data_sets import bcihm
from tests.training.tiny import TINY

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
    for path in sorted((Path(__file__).parents[3] / "benchmarks" / "grids").glob("*.toml"))
    if path.name != "recipe.toml"
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a comparison begins: what its recipe names is looked for from here."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_base(tmp_path / "base.safetensors", build_sam(TINY), TINY, {})
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "grid.toml").write_text(GRID)
    return tmp_path


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_the_benchmarks_grids_can_be_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parents[2])
    grid = read_recipe_grid(path)
    assert len(grid.cells()) >= 3
    assert grid.recipe.base_checkpoint
    assert Path(grid.recipe.base_checkpoint).is_file()


def test_a_grid_is_every_combination_of_one_recipe(folder: Path) -> None:
    grid = read_recipe_grid(folder / "grid.toml")
    assert [cell["method"] for cell in grid.cells()] == ["frozen", "pr", "lora"]
    recipes = [grid.recipe_of(cell, seed=2) for cell in grid.cells()]
    assert all(each.seed == 2 and each.adapt.correct == 0.0 for each in recipes)
    assert recipes[1].method_options == {"sites": ["mlp"]}  # the recipe's own method keeps its own
    assert recipes[2].method_options == {}


def test_paths_of_a_recipe_are_those_that_fit_takes(folder: Path) -> None:
    """Base and data set alike, wherever the grid and its recipe lie."""
    grids = folder / "grids"
    grids.mkdir()
    for name in ("grid.toml", "recipe.toml"):
        (folder / name).rename(grids / name)
    grid = read_recipe_grid(Path("grids") / "grid.toml")
    assert grid.recipe.base_checkpoint == "base.safetensors"
    (grids / "grid.toml").write_text(
        GRID.replace('"adapt.correct" = [0.0]', 'base_checkpoint = ["base.safetensors", "b"]')
    )
    asked = ["compare", str(grids / "grid.toml"), "--out", str(folder / "out")]
    failed = CliRunner().invoke(main, asked)
    assert failed.exit_code == 2
    assert "no base checkpoint at b: expected base_checkpoint" in failed.stderr
    assert not (folder / "out").exists()


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
    assert "give --resume" in again.stderr
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
    recipe = read_recipe_grid(folder / "grid.toml").recipe
    assert not recipe.adapt.at_slice_size
    assert compare.held_out_dice(recipe, folder).dice.size == 0
    assert judged == [True]


def rows_of(folder: Path, *scores: HeldOutDice) -> list[compare.Row]:
    grid = replace(
        read_recipe_grid(folder / "grid.toml"), axes={"method": ("frozen", "pr", "lora")}
    )
    report = {"trained_parameters": {}, "minutes": 1.0}
    return compare.table(grid, list(scores), [report] * len(scores))


def test_the_interval_is_of_the_mean_over_patients(folder: Path) -> None:
    """Ten slices of each of 400 patients, all alike: they weigh as one."""
    of_patient = np.append(np.random.default_rng(0).normal(0.5, 0.1, 400), np.nan)
    dice = np.repeat(of_patient, 10)
    patients = tuple(f"p{number // 10}" for number in range(len(dice)))
    first, shifted, same = rows_of(
        folder,
        HeldOutDice(dice, patients),
        HeldOutDice(dice + 0.25, patients),
        HeldOutDice(dice, patients),
    )
    half = 1.96 * np.nanstd(of_patient) / 20  # of a normal mean
    assert first.dice == pytest.approx(np.nanmean(of_patient))
    assert first.dice - first.low == pytest.approx(half, rel=0.1)
    assert first.high - first.dice == pytest.approx(half, rel=0.1)
    assert shifted.difference == pytest.approx(0.25)
    assert shifted.difference_low == pytest.approx(shifted.difference_high)
    assert same.difference == 0


def test_runs_on_other_slices_are_not_subtracted(folder: Path) -> None:
    scores = [HeldOutDice(np.ones(2), names) for names in (("a", "b"), ("a", "c"), ("a", "b"))]
    with pytest.raises(DataError, match="the data set has changed"):
        rows_of(folder, *scores)


def test_one_patient_has_no_interval(folder: Path) -> None:
    rows = rows_of(folder, *[HeldOutDice(np.array([0.5, 0.7]), ("a", "a"))] * 3)
    text = compare.as_markdown(rows, read_recipe_grid(folder / "grid.toml"))
    assert "0.600 (no interval) | +0.000 (no interval)" in text


def test_a_patients_slices_are_known_as_theirs(tmp_path: Path) -> None:
    cases = open_volumes(tmp_path / "cache", find_cases(bcihm(tmp_path / "data")))
    assert compare._patients(PatientSlices(cases, size=16)) == ("049", "049", "050", "050")


@pytest.mark.parametrize(
    "axis",
    [
        "validation_slices = [8, 16]", '"data.fold" = [0, 1]', '"data.folds" = ["a", "b"]',
        '"data.root" = ["a", "b"]', '"data.fold_seed" = [1, 2]', '"data.fold_count" = [2, 3]',
        '"data.layout" = ["bcihm", "pairs"]', 'data = [{ root = "a" }, { root = "b" }]',
    ],
)  # fmt: skip
def test_an_axis_of_other_slices_is_refused(folder: Path, axis: str) -> None:
    (folder / "recipe.toml").write_text(RECIPE + '[data]\nroot = "D"\n')
    (folder / "grid.toml").write_text(GRID.replace('"adapt.correct" = [0.0]', axis))
    with pytest.raises(UsageError, match="would evaluate runs on different slices"):
        read_recipe_grid(folder / "grid.toml")


@pytest.mark.parametrize(
    "axis",
    [
        '"data.target" = ["lesion", "slice"]', '"data.size" = [256, 512]',
        'validation_prompt = ["deepest", "random"]',
    ],
)  # fmt: skip
def test_an_axis_of_other_questions_is_refused(folder: Path, axis: str) -> None:
    (folder / "recipe.toml").write_text(RECIPE + '[data]\nroot = "D"\n')
    (folder / "grid.toml").write_text(GRID.replace('"adapt.correct" = [0.0]', axis))
    with pytest.raises(UsageError, match="would ask runs different questions"):
        read_recipe_grid(folder / "grid.toml")


def test_seeds_are_no_axis(folder: Path) -> None:
    """The grid's own would take its place, and equal runs stand in the table as different ones."""
    (folder / "grid.toml").write_text(GRID.replace('"adapt.correct" = [0.0]', "seed = [1, 2]"))
    with pytest.raises(UsageError, match=r"axis 'seed' is given as seeds = "):
        read_recipe_grid(folder / "grid.toml")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('"pr"', '"prr"', "no method 'prr'"),
        ('"adapt.correct"', '"adapt.speed"', r"\[adapt\]: unknown option speed"),
        ('"adapt.correct"', '"adopt.correct"', "no recipe has an axis 'adopt'"),
        ("[axes]", "[axis]", "expected recipe, .axes."),
        ("recipe.toml", "absent.toml", "cannot read the recipe"),
        ('"recipe.toml"', '"quick"', "a comparison needs one base"),
        ("[1, 2]", "[]", r"seeds = \[\]: expected a list"),
        ("[1, 2]", "3", "seeds = 3: expected a list"),
        ("[1, 2]", "[1, 1]", "expected a list of different numbers"),
        ("[0.0]", "[]", r"axis 'adapt.correct' has \[\]"),
        ("[0.0]", "[0.0, 0.0]", "each of them once"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_is_trained(
    folder: Path, old: str, new: str, match: str
) -> None:
    (folder / "grid.toml").write_text(GRID.replace(old, new))
    with pytest.raises(UsageError, match=match):
        read_recipe_grid(folder / "grid.toml")


def test_an_axis_of_a_loss_that_the_stage_replaces_is_refused(folder: Path) -> None:
    (folder / "recipe.toml").write_text(RECIPE + 'loss = "dice"\n')
    grid = GRID.replace('"adapt.correct" = [0.0]', 'loss = ["bce", "dice_bce"]')
    (folder / "grid.toml").write_text(grid)
    with pytest.raises(UsageError, match=r"axis 'loss' changes nothing.*adapt\.loss"):
        read_recipe_grid(folder / "grid.toml")
    (folder / "grid.toml").write_text(grid.replace("loss =", '"adapt.loss" ='))
    assert len(read_recipe_grid(folder / "grid.toml").cells()) == 6


def test_adapters_which_no_run_would_train_are_refused(folder: Path) -> None:
    stage = "[mask_threshold]\nsteps = 1\n"
    (folder / "recipe.toml").write_text(f'adapters = "a.safetensors"\n{RECIPE}{stage}')
    with pytest.raises(UsageError, match="gives adapters, which would be trained no further"):
        read_recipe_grid(folder / "grid.toml")
    (folder / "recipe.toml").write_text(RECIPE + stage)
    grid = GRID.replace('"adapt.correct" = [0.0]', 'adapters = ["a.safetensors"]')
    (folder / "grid.toml").write_text(grid)
    with pytest.raises(UsageError, match="axis 'adapters' names what would be trained no further"):
        read_recipe_grid(folder / "grid.toml")
