"""Crops of slices: what they show, and that images, masks and prompts are cut alike."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from samihs_runtime.bundle.entries import WindowRule
from samihs_runtime.encoding.preprocessing import window_of
from samihs_runtime.errors import UsageError
from samihs_training.checkpoints.checkpoint import load_base
from samihs_training.data.cache import CacheSpec, SliceCache, open_cache
from samihs_training.data.cases.finding import find_cases
from samihs_training.data.clicks import Mask
from samihs_training.data.crops import Crops
from samihs_training.data.patients import PatientSlices
from samihs_training.data.slices import flipped, moved, worn
from samihs_training.data.sources import Drawing, PhantomSlices
from samihs_training.data.volume_cache import open_volumes
from samihs_training.fit import fit, validation_drawing
from samihs_training.network.initialisation import initialised
from samihs_training.network.sam import PRESETS, build_sam
from samihs_training.prompts import prompt_rule
from samihs_training.runs.runlog import ValidationReport, read_log
from samihs_training.stages.batches import NumberedBatches, Share

from .test_data_sets import bcihm
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
    drawn = Counter(QUARTERS.draw(blood, head, rng_of(seed)) for seed in range(900))
    away = sum(count for (row, column), count in drawn.items() if column == 4 and row == 0)
    assert away == pytest.approx(90, abs=30)
    shown = {origin: count for origin, count in drawn.items() if origin[1] < 4}
    assert set(shown) == {(row, column) for row in (2, 4) for column in (0, 2)}
    assert max(shown.values()) < 1.3 * min(shown.values())
    for row, column in shown:
        assert blood[QUARTERS.part((row, column), 32)].sum() == 4


def test_a_speck_is_shown_as_often_as_a_large_lesion() -> None:
    blood = spot(1, 1, 12) | spot(29, 29)
    drawn = [QUARTERS.draw(blood, NOTHING, rng_of(seed)) for seed in range(400)]
    assert sum(origin == (4, 4) for origin in drawn) == pytest.approx(200, abs=50)


def test_a_slice_without_blood_shows_some_of_its_head() -> None:
    drawn = {QUARTERS.draw(NOTHING, spot(3, 20), rng_of(seed)) for seed in range(60)}
    assert drawn == {(0, 2), (0, 4)}
    anywhere = {QUARTERS.draw(NOTHING, NOTHING, rng_of(seed)) for seed in range(200)}
    assert len(anywhere) == 9


def test_a_slice_that_the_grid_does_not_divide_is_refused() -> None:
    assert QUARTERS.part((2, 4), 32) == (slice(8, 24), slice(16, 32))
    with pytest.raises(UsageError, match="slices of 30 pixels, and a grid of 8 tokens"):
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


def test_a_run_on_crops_trains_positions_and_validates_whole_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", PYRAMID)
    stage = replace(STAGE, steps=2, crop=32)
    recipe = replace(RECIPE, base=stage, adapt=replace(stage, correct=1.0), score=None)
    fit(recipe, tmp_path / "run", workers=0)
    sam, config, _ = load_base(tmp_path / "run" / "base.safetensors")
    torch.manual_seed(recipe.seed)
    untrained: Any = initialised(build_sam(config))
    moved = (sam.image_encoder.pos_embed - untrained.image_encoder.pos_embed).abs()
    assert moved.amax(-1).count_nonzero() == config.grid**2
    row = read_log(tmp_path / "run", ValidationReport)[-1]
    held_out = SliceCache.load(next((tmp_path / "run" / "cache").glob("validation-*")))
    assert (row.stage, row.step) == ("adapt", 2)
    data = NumberedBatches(
        PhantomSlices(held_out), validation_drawing(recipe, Drawing("bleeds", 2, crops=QUARTERS)),
        batch=2, seed=0, share=Share(),
    )  # fmt: skip
    assert next(data.epoch()).hu.shape[-1] == 512
