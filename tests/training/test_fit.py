"""Targets, batches, and a whole two-stage run small enough for a test."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from samihs_runtime.errors import CheckpointError, OutputError, UsageError
from samihs_training.checkpoints.checkpoint import load_adapters, load_base, save_base
from samihs_training.cli import main
from samihs_training.config import Recipe, StageConfig, read_recipe
from samihs_training.data.clicks import deepest_click
from samihs_training.data.phantom import BleedType, PhantomOptions, PhantomSlice, generate_slice
from samihs_training.data.targets import (
    bleed_target,
    lesions,
    negative_target,
    structure_target,
)
from samihs_training.fit import fit
from samihs_training.methods import LoRA
from samihs_training.network.sam import build_sam
from samihs_training.runs.runlog import StepReport
from samihs_training.stages.objective import low_resolution

from .tiny import TINY


@pytest.fixture(scope="module")
def bled() -> PhantomSlice:
    options = PhantomOptions(
        matrix=256, bleeds=(BleedType.INTRAPARENCHYMAL,), crossing_probability=1.0,
        volume_range_ml=(15.0, 30.0),
    )  # fmt: skip
    return generate_slice(4, options)


def test_a_click_on_a_lesion_lies_in_its_mask(bled: PhantomSlice) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        target = bleed_target(bled, lesions(bled), rng, negatives=0.0)
        x, y = (int(each) for each in target.click)
        assert target.mask[y, x]
        assert (bled.bleeds[target.mask] == target.kind).all()


def test_a_negative_click_lies_on_no_bleed_and_asks_for_nothing(bled: PhantomSlice) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        target = negative_target(bled, rng)
        x, y = (int(each) for each in target.click)
        assert not target.mask.any()
        assert bled.bleeds[y, x] == 0


def test_a_structure_is_one_connected_piece(bled: PhantomSlice) -> None:
    from scipy import ndimage

    rng = np.random.default_rng(1)
    for _ in range(10):
        target = structure_target(bled, lesions(bled), rng)
        assert ndimage.label(target.mask, structure=np.ones((3, 3)))[1] == 1
        assert target.mask[int(target.click[1]), int(target.click[0])]


def test_lesions_below_the_smallest_size_are_left_out(bled: PhantomSlice) -> None:
    assert lesions(bled)
    assert lesions(bled, min_pixels=10**6) == []


def test_the_deepest_click_is_inside_a_ring() -> None:
    y, x = np.mgrid[:40, :40]
    radius = np.hypot(y - 20, x - 20)
    ring = (radius < 15) & (radius > 7)
    column, row = deepest_click(ring)
    assert ring[int(row), int(column)]


def test_a_lesion_too_thin_for_the_grid_does_not_become_no_blood() -> None:
    masks = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    masks[0, 0, 10, 5:60] = 1  # one pixel high: an eighth of each cell
    low = low_resolution(masks, 8)
    assert low[0].any()
    assert not low[1].any()


QUICK = Recipe(
    base=StageConfig(steps=3, learning_rate=1e-3, batch=1, prompts=2),
    adapt=StageConfig(steps=3, learning_rate=1e-3, batch=1, prompts=2, correct=1.0),
    slices=2,
    rank=4,
)


def test_a_run_trains_both_stages_and_only_what_it_says(tmp_path: Path) -> None:
    adapters = fit(QUICK, tmp_path / "run", workers=0)
    base_sam, _, _ = load_base(tmp_path / "run" / "base.safetensors")
    loaded = load_adapters(adapters, tmp_path / "run" / "base.safetensors")
    before, after = base_sam.state_dict(), loaded.model.sam.state_dict()
    frozen = [name for name in before if name.startswith("image_encoder") and name in after]
    assert len(frozen) > 20
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    moved = [name for name in before if name.startswith("mask_decoder")]
    assert any(not torch.equal(before[name], after[name]) for name in moved)
    assert "synthetic" in loaded.description["training_data"]
    assert loaded.description["options"]["rank"] == 4
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["last_step"]["step"] == 3
    assert report["trained_parameters"] == loaded.description["trained_parameters"]
    assert list((tmp_path / "run" / "tensorboard" / "adapt").glob("events.*"))
    with (tmp_path / "run" / "log.csv").open() as file:
        assert next(csv.reader(file))[0] == "stage"


def test_nothing_is_overwritten_unless_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.json").write_text(json.dumps(asdict(QUICK)))
    (run / "adapters.safetensors").write_bytes(b"precious")
    with pytest.raises(OutputError, match="--resume"):
        fit(QUICK, run)
    with pytest.raises(OutputError, match="another recipe"):
        fit(replace(QUICK, seed=2), run, resume=True)
    with pytest.raises(CheckpointError, match="no base checkpoint at"):
        fit(replace(QUICK, base=None, base_checkpoint="absent.pth"), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert (run / "adapters.safetensors").read_bytes() == b"precious"
    adapters = fit(replace(QUICK, seed=2), run, overwrite=True, workers=0)
    assert load_adapters(adapters, run / "base.safetensors").description["recipe"]["seed"] == 2


def test_a_given_base_is_adapted_by_another_method_in_another_frame(tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    save_base(base, build_sam(TINY), TINY, {})
    stage = replace(QUICK.adapt, checkpoint_activations=True, accumulate=2, batch=2)
    recipe = replace(
        QUICK, base=None, base_checkpoint=str(base), image_size=32, method="lora", adapt=stage,
        method_options={"rank": 2}, validate_every=2, validation_slices=2,
    )  # fmt: skip
    loaded = load_adapters(fit(recipe, tmp_path / "run", workers=0), base)
    assert (loaded.method, loaded.model.config.image_size) == (LoRA(rank=2), 32)
    frozen = replace(recipe, method="frozen", method_options={})
    fit(frozen, tmp_path / "frozen", workers=0)
    report = json.loads((tmp_path / "frozen" / "report.json").read_text())
    assert report["trained_parameters"] == {}
    assert [check["step"] for check in report["validations"]] == [0]


def test_the_shipped_recipes_can_be_read() -> None:
    authors = read_recipe(Path("authors"))
    assert (authors.adapt.optimiser, authors.adapt.halve_every) == ("adam", 9000)
    assert read_recipe(None).preset == read_recipe(None, quick=True).preset == "vit_mini"
    with pytest.raises(UsageError, match="one of authors, quick, vit_mini"):
        read_recipe(Path("theirs"))


@pytest.mark.parametrize(
    "text",
    ["", "start = 'a.safetensors'\n[base]\nsteps = 1\nlearning_rate = 1\n",
     "base_checkpoint = 'another.pth'\n"],
)  # fmt: skip
def test_a_given_base_takes_the_place_of_the_recipes(tmp_path: Path, text: str) -> None:
    adapt = "[adapt]\nsteps = 1\nlearning_rate = 1\n"
    (tmp_path / "r.toml").write_text(text + adapt)
    recipe = read_recipe(tmp_path / "r.toml", base=Path("mine.pth"))
    assert (recipe.base, recipe.start, recipe.base_checkpoint) == (None, "", "mine.pth")


def test_a_stopped_stage_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(QUICK, checkpoint_minutes=0.0)
    reports: list[StepReport] = []

    class Stopped(Exception):
        pass

    def stop(step: StepReport) -> None:
        reports.append(step)
        if step.step == 2 and len(reports) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        fit(recipe, tmp_path / "run", workers=0, report=stop)
    fit(recipe, tmp_path / "run", workers=0, report=stop, resume=True)
    assert [step.step for step in reports if step.stage == "base"][:3] == [1, 2, 2]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("slices = ", "no TOML"),
        ("[base]\nsteps=1\nlearning_rate=1", r"\[adapt\] is missing"),
        ("[base]\nsteps=1\nlearning_rate=1\nspeed=2\n[adapt]\nsteps=1", "unknown option speed"),
        ("[base]\nsteps=0\nlearning_rate=1\n[adapt]\nsteps=1", "above 0"),
        ("[adapt]\nsteps=1\nlearning_rate=1", r"base_checkpoint \(--base\), .* it has neither"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UsageError, match=match):
        read_recipe(tmp_path / "r.toml")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--config", "authors", "--base", "b.pth", "--quick"], "--quick is a recipe of its own"),
        (["--base", "b.pth", "--start", "a.pth"], "--start a.pth: b.pth is adapted as it is"),
        (
            ["--base", "b.pth", "--data", "D", "--first-slice", "0"],
            "--first-slice 0: no phantom is trained on",
        ),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(
    tmp_path: Path, options: list[str], words: str
) -> None:
    result = CliRunner().invoke(main, ["fit", *options, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_recipe_without_a_base_stage_starts_from_nothing() -> None:
    with pytest.raises(UsageError, match=r"start = 'a\.safetensors': expected a .base. stage"):
        replace(QUICK, base=None, base_checkpoint="b.safetensors", start="a.safetensors")


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    arguments = ["fit", "--config", str(tmp_path / "absent.toml"), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: cannot read the recipe")
    assert not (tmp_path / "run").exists()
