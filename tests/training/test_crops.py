"""Crops of slices: what they show, and that images, masks and prompts are cut alike."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from samihs_runtime.bundle.entries import WindowRule
from samihs_runtime.encoding.preprocessing import window_of
from samihs_runtime.errors import UsageError
from samihs_training.checkpoints.checkpoint import load_base
from samihs_training.data.cache import CacheSpec, SliceCache, open_cache
from samihs_training.data.cases.finding import find_cases
from samihs_training.data.clicks import Mask
from samihs_training.data.crops import Crops, enough_of
from samihs_training.data.patients import PatientSlices
from samihs_training.data.phantom import BleedType
from samihs_training.data.slices import flipped, moved, worn
from samihs_training.data.sources import Drawing, PhantomSlices, Source
from samihs_training.data.volume_cache import open_volumes
from samihs_training.fit import fit
from samihs_training.network.cropped import CroppedModel, crops_of
from samihs_training.network.initialisation import initialised
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import PRESETS, build_sam
from samihs_training.prompts import prompt_rule
from samihs_training.stages.batches import NumberedBatches, Share, stream
from samihs_training.stages.objective import Answered, Objective
from samihs_training.stages.trainer import Trainer

from .test_data_sets import bcihm, head, save
from .tiny import PYRAMID
from .tiny_run import RECIPE, STAGE

QUARTERS = Crops(grid=8, side=4, starts=(0, 2, 4))
NOTHING = np.zeros((32, 32), bool)  # four pixels a token


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def spot(row: int, column: int, size: int = 2) -> Mask:
    mask = NOTHING.copy()
    mask[row : row + size, column : column + size] = True
    return mask


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> SliceCache:
    spec = CacheSpec("train", 3, matrix=128)
    return open_cache(tmp_path_factory.mktemp("cache"), spec, workers=1)


def test_a_crop_shows_the_blood_wherever_it_fits() -> None:
    """Nine in ten: the others show some of the head, here another corner."""
    blood, head = spot(17, 9), spot(0, 30)
    drawn = Counter(QUARTERS.draw([blood], head, rng_of(seed)) for seed in range(900))
    away = sum(count for (row, column), count in drawn.items() if column == 4 and row == 0)
    assert away == pytest.approx(90, abs=30)
    shown = {origin: count for origin, count in drawn.items() if origin[1] < 4}
    assert set(shown) == {(row, column) for row in (2, 4) for column in (0, 2)}
    assert max(shown.values()) < 1.3 * min(shown.values())
    for row, column in shown:
        assert blood[QUARTERS.part((row, column), 32)].sum() == 4


def test_a_speck_is_shown_as_often_as_a_large_lesion() -> None:
    found = [spot(1, 1, 12), spot(29, 29)]
    drawn = [QUARTERS.draw(found, found[1], rng_of(seed)) for seed in range(400)]
    assert sum(origin == (4, 4) for origin in drawn) == pytest.approx(220, abs=50)


def test_a_slice_without_blood_shows_some_of_its_head() -> None:
    drawn = {QUARTERS.draw([], spot(3, 20), rng_of(seed)) for seed in range(60)}
    assert drawn == {(0, 2), (0, 4)}
    anywhere = {QUARTERS.draw([], NOTHING, rng_of(seed)) for seed in range(200)}
    assert len(anywhere) == 9


def test_a_slice_that_the_grid_does_not_divide_is_refused() -> None:
    assert QUARTERS.part((2, 4), 32) == (slice(8, 24), slice(16, 32))
    with pytest.raises(UsageError, match="a multiple of 8, the tokens"):
        QUARTERS.part((0, 0), 30)


def test_phantoms_are_cut_after_they_are_varied(cache: SliceCache) -> None:
    """Wear and the window's percentiles are those of whole slices, as at inference."""
    rule = WindowRule("percentiles", 0.05, 99.5)
    drawing = Drawing("bleeds", prompts=3, negatives=0.0, window=rule, crops=QUARTERS)
    data = NumberedBatches(PhantomSlices(cache), drawing, batch=2, seed=5, share=Share())
    for number in range(4):
        batch = data[number]
        assert batch.origins is not None
        assert batch.hu.shape == (2, 1, 64, 64)
        for place, origin in enumerate(batch.origins.tolist()):
            rng = np.random.default_rng([5, 1, 2 * number + place])
            sample = moved(flipped(cache[data.slice_at(2 * number + place)], rng), rng)
            hu, part = worn(sample.hu, rng), QUARTERS.part(tuple(origin), 128)
            np.testing.assert_array_equal(batch.hu[place, 0], hu[part])
            assert batch.window[place].tolist() == pytest.approx(window_of(hu, rule))
            np.testing.assert_array_equal(batch.bleeds[place, 0], sample.bleeds[part] > 0)
        for points, mask in zip(batch.points, batch.masks, strict=True):
            column, row = points[0].long().tolist()
            assert mask[0, row, column] or not mask.any()


def test_patients_are_cut_in_the_models_frame(tmp_path: Path) -> None:
    cases = open_volumes(tmp_path / "cache", find_cases(bcihm(tmp_path / "data", 2)))
    source = PatientSlices(cases, size=32)
    plain = Drawing("bleeds", 2, rule=prompt_rule("random"), negatives=0.0, vary=False)
    for index in range(len(source)):
        whole = source.draw(index, plain, rng_of(0))
        one = source.draw(index, replace(plain, crops=QUARTERS), rng_of(0))
        assert whole.origin is None
        assert one.origin is not None
        part = QUARTERS.part(one.origin, 32)
        np.testing.assert_array_equal(one.hu, whole.hu[part])
        np.testing.assert_array_equal(one.bleeds, whole.bleeds[part])
        for prompt, mask in one.asked:
            ((x, y),) = prompt.points
            assert mask[int(y), int(x)]


def full_of_blood(cache: SliceCache, tmp_path: Path) -> list[Source]:
    """A phantom and a patient whose every pixel bleeds, but for the image's corner."""
    sample = cache[0]
    bleeds = np.full(sample.bleeds.shape, BleedType.SUBDURAL, np.uint8)
    bleeds[:8, :8] = BleedType.NONE
    phantoms = PhantomSlices(cache)
    phantoms._cache = [replace(sample, bleeds=bleeds)] * 3  # type: ignore[assignment]
    hu, mask = head(0)
    mask[:] = 1
    mask[:4, :4] = 0
    save(hu, tmp_path / "data" / "ct_scans" / "1.nii")
    save(mask, tmp_path / "data" / "masks" / "1.nii")
    cases = open_volumes(tmp_path / "cache", find_cases(tmp_path / "data"))
    return [phantoms, PatientSlices(cases, size=32)]


@pytest.mark.parametrize("name", ["hand", "random", "box", "points"])
def test_a_crop_full_of_blood_is_asked_for_it(cache: SliceCache, tmp_path: Path, name: str) -> None:
    """There is nowhere else for a prompt, whatever the share of negatives."""
    rule = prompt_rule(name)
    drawing = Drawing("bleeds", 2, rule=rule, negatives=1.0, vary=False, crops=QUARTERS)
    for source in full_of_blood(cache, tmp_path):
        drawn = [source.draw(0, drawing, rng_of(seed)) for seed in range(12)]
        full = [each for each in drawn if each.bleeds.all()]
        assert full
        for each in full:
            for prompt, mask in each.asked:
                assert mask.all()
                assert prompt.points or prompt.box


def test_arms_that_meet_outside_the_crop_are_one_lesion(cache: SliceCache) -> None:
    """A U of blood in 128 pixels, of which most crops show one arm or both, and few the bend."""
    bleeds = np.zeros((128, 128), np.uint8)
    bleeds[40:120, 40:44] = bleeds[40:120, 80:84] = bleeds[116:120, 40:84] = BleedType.SUBDURAL
    source = PhantomSlices(cache)
    source._cache = [replace(cache[0], bleeds=bleeds)]  # type: ignore[assignment]
    drawing = Drawing("bleeds", 1, negatives=0.0, vary=False, crops=QUARTERS)
    apart = 0
    for seed in range(60):
        one = source.draw(0, drawing, rng_of(seed))
        ((_, mask),) = one.asked
        np.testing.assert_array_equal(mask, one.bleeds)
        apart += ndimage.label(mask)[1] == 2
    assert apart


def test_a_crop_asks_for_no_sliver_of_a_lesion() -> None:
    part = QUARTERS.part((2, 2), 32)
    arms = spot(20, 4, 8) | spot(4, 20, 8) | spot(20, 20, 8)
    assert enough_of(arms, part, 12)
    assert not enough_of(spot(8, 7, 2), part, 12)  # of four pixels, one column is in the crop
    assert enough_of(spot(9, 9, 2), part, 12)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"base": replace(STAGE, crop=64)}, "crop = 64: expected a multiple of 128 pixels"),
        ({"adapt": replace(STAGE, crop=512)}, "crop = 512: expected a multiple of 128 pixels"),
        ({"adapt": replace(STAGE, crop=256), "image_size": 480}, "crop = 256: .* below 480|tokens"),
        ({"adapt": replace(STAGE, crop=128), "image_size": 480}, "a multiple of 30, the tokens"),
    ],
)
def test_crops_that_do_not_fit_are_refused_before_anything_is_made(
    tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    recipe = replace(RECIPE, preset="vit_mini", **change)
    with pytest.raises(UsageError, match=match):
        fit(recipe, tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()


def test_a_run_on_crops_validates_as_many_whole_slices_as_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(PYRAMID, window=2)
    monkeypatch.setitem(PRESETS, "tiny", config)
    validated: list[NumberedBatches] = []
    validate = Trainer.validate

    def watched(self: Trainer, data: NumberedBatches) -> Answered:
        validated.append(data)
        return validate(self, data)

    monkeypatch.setattr(Trainer, "validate", watched)
    stage = replace(STAGE, steps=2, batch=8, crop=32, weight_decay=0.0)
    recipe = replace(
        RECIPE, base=stage, adapt=replace(stage, correct=1.0), score=None, slices=3,
        validation_slices=2,
    )  # fmt: skip
    fit(recipe, tmp_path / "run", workers=0)
    sam, _, _ = load_base(tmp_path / "run" / "base.safetensors")
    torch.manual_seed(recipe.seed)
    untrained: Any = initialised(build_sam(config))
    moved = (sam.image_encoder.pos_embed - untrained.image_encoder.pos_embed).abs()
    assert moved.amax(-1).count_nonzero() == config.grid**2  # two crops in three steps of eight
    assert len(validated) == 2
    for data in validated:
        assert data.batch == 2
        batch = next(data.epoch())
        assert batch.origins is None
        assert batch.hu.shape == (2, 1, 512, 512)
    cropped = CroppedModel(SamihsModel(sam, config), crops_of(config, 32))
    with pytest.raises(ValueError, match="whole slices for a model of crops"):
        Objective(cropped, recipe, stage)(batch)


def test_a_step_on_crops_can_be_cut_in_pieces_and_recomputed(cache: SliceCache) -> None:
    """The same gradients as the plain step's, whose encoder's blocks keep all activations."""
    config = replace(PYRAMID, window=2)

    def gradients(**change: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        sam = build_sam(config)
        trained = dict(sam.named_parameters())
        stage = replace(
            STAGE, crop=32, correct=0.0, batch=4, clip=0.0, loss="bce", score_weight=0.0, **change
        )
        recipe = replace(RECIPE, amp=False)
        trainer = Trainer(
            SamihsModel(sam, config), trained, recipe, stage, "base", cache.home / "none"
        )
        drawing = Drawing("bleeds", stage.prompts, crops=trainer.crops)
        share = Share(pieces=stage.accumulate)
        data = NumberedBatches(PhantomSlices(cache), drawing, batch=4, seed=3, share=share)
        trainer.step(stream(data, range(stage.accumulate), workers=0))
        return {name: each.grad for name, each in trained.items() if each.grad is not None}

    plain = gradients()
    assert any(each.abs().max() > 0 for each in plain.values())
    for change in ({"accumulate": 2}, {"checkpoint_activations": True}):
        again = gradients(**change)
        assert set(again) == set(plain)
        for name, each in again.items():
            torch.testing.assert_close(each, plain[name], atol=1e-6, rtol=1e-4)
