"""The U-Net that the model is compared with, and its answer to a click."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
import unet
from unet import UNetPlan, component_at

from samihs_runtime.errors import CheckpointError, UsageError
from samihs_training.data import sources
from samihs_training.data.cache import SliceCache
from samihs_training.data.sources import PhantomSlices
from samihs_training.stages.batches import stream

SIDE = 32


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> SliceCache:
    """Slices of brain of 30 HU with a square of blood of 70 HU at a different place on each."""
    rng = np.random.default_rng(0)
    bleeds = np.zeros((8, SIDE, SIDE), np.uint8)
    for each in bleeds:
        row, column = rng.integers(2, SIDE - 12, 2)
        each[row : row + 10, column : column + 10] = 1
    hu = np.where(bleeds > 0, 70, 30).astype(np.int16)
    spacing = np.full(8, 0.5, np.float32)
    home = tmp_path_factory.mktemp("cache")
    arrays = {"hu": hu, "bleeds": bleeds, "tissues": np.zeros_like(bleeds), "spacing": spacing}
    for name, array in arrays.items():
        np.save(home / f"{name}.npy", array)
    return SliceCache.load(home)


PLAN = UNetPlan(minutes=2.0, slices=8, channels=(8, 16), learning_rate=2e-2)


@pytest.fixture(scope="module")
def trained(cache: SliceCache) -> tuple[unet.UNet, list[tuple[int, float, float]]]:
    """Trained with a clock that advances by one second each time it is read."""
    told: list[tuple[int, float, float]] = []
    seconds = count()
    made = unet.train(
        PLAN, PhantomSlices(cache), lambda *each: told.append(each),
        clock=lambda: float(next(seconds)), workers=0,
    )  # fmt: skip
    return made, told


def test_slices_are_varied_as_for_the_model(
    cache: SliceCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mirrored, moved and degraded by the same functions that the model's training calls."""
    seen: list[str] = []

    def noted(name: str) -> Callable[..., object]:
        work: Callable[..., object] = getattr(sources, name)

        def call(*given: object) -> object:
            seen.append(name)
            return work(*given)

        return call

    for name in ("flipped", "moved", "worn"):
        monkeypatch.setattr(sources, name, noted(name))
    batches = unet.Batches(PLAN, PhantomSlices(cache))
    image, blood = batches[3]
    assert seen == ["flipped", "moved", "worn"] * PLAN.batch
    assert image.shape == blood.shape == (PLAN.batch, 1, SIDE, SIDE)
    assert set(blood.unique().tolist()) == {0.0, 1.0}
    assert 0 <= image.min() < image.max() <= 1
    again = unet.Batches(PLAN, PhantomSlices(cache))[3]
    assert torch.equal(image, again[0])
    assert torch.equal(blood, again[1])
    assert not torch.equal(image, batches[4][0])


def test_another_process_prepares_the_same_batches(cache: SliceCache) -> None:
    batches = unet.Batches(PLAN, PhantomSlices(cache))
    for number, (image, blood) in enumerate(stream(batches, range(2), workers=1)):
        assert torch.equal(image, batches[number][0])
        assert torch.equal(blood, batches[number][1])
    assert number == 1


def test_training_ends_with_its_time_and_has_learnt(
    trained: tuple[unet.UNet, list[tuple[int, float, float]]], cache: SliceCache
) -> None:
    made, told = trained
    assert made.steps == len(told) == 119  # the 120th second is the end of the two minutes
    assert told[-1][1] == pytest.approx(119 / 120)
    assert told[-1][2] < 0.5 * told[0][2]
    mask, blood = made.mask(cache.hu[0]), cache.bleeds[0] > 0
    assert 2 * (mask & blood).sum() / (mask.sum() + blood.sum()) > 0.8


def test_weights_survive_the_file(
    trained: tuple[unet.UNet, list[tuple[int, float, float]]], cache: SliceCache, tmp_path: Path
) -> None:
    made, _ = trained
    made.save(tmp_path / "deeper" / "unet.safetensors")
    loaded = unet.load(tmp_path / "deeper" / "unet.safetensors")
    assert (loaded.plan, loaded.steps) == (PLAN, made.steps)
    assert np.array_equal(loaded.mask(cache.hu[1]), made.mask(cache.hu[1]))


def test_other_weights_are_refused() -> None:
    base = Path(__file__).parents[2] / "models/vit_mini/adapters.safetensors"
    with pytest.raises(CheckpointError, match="holds adapters: no U-Net"):
        unet.load(base)


def test_a_slice_that_cannot_be_halved_four_times_is_refused(
    trained: tuple[unet.UNet, list[tuple[int, float, float]]],
) -> None:
    with pytest.raises(UsageError, match=r"\(40, 32\) pixels: expected multiples of 16"):
        trained[0].mask(np.zeros((40, 32), np.int16))


def test_no_time_is_refused() -> None:
    with pytest.raises(UsageError, match="expected all above 0"):
        UNetPlan(minutes=0)


def test_the_rate_falls_to_nothing_with_the_time() -> None:
    assert [unet.falling(share) for share in (0, 0.5, 1, 2)] == pytest.approx([1, 0.5, 0, 0])


def test_a_click_gets_the_component_that_it_lies_in() -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[2:6, 2:6] = mask[20:30, 20:30] = True
    mask[6, 6] = True  # connected by a corner
    answer = component_at(mask, (3.0, 4.0))
    assert answer.sum() == 17
    assert answer[6, 6]


def test_a_click_beside_every_component_gets_the_nearest() -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[2:6, 2:6] = mask[20:30, 20:30] = True
    assert component_at(mask, (12.0, 18.0))[20:30, 20:30].all()
    assert not component_at(np.zeros_like(mask), (12.0, 18.0)).any()
