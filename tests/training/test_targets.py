"""What a click means: the lesion under it, or nothing."""

from __future__ import annotations

import numpy as np
import pytest

from samihs_training.data.phantom import (
    BleedType,
    PhantomOptions,
    PhantomSlice,
    Tissue,
    generate_slice,
)
from samihs_training.data.targets import BRIGHT, bleed_target, lesions, negative_target


@pytest.fixture(scope="module")
def phantoms() -> list[PhantomSlice]:
    options = PhantomOptions(crossing_probability=1.0)
    return [generate_slice(seed, options) for seed in range(20_000, 20_006)]


def made(bleeds: np.ndarray) -> PhantomSlice:
    tissues = np.full(bleeds.shape, 8, np.uint8)
    return PhantomSlice(np.zeros(bleeds.shape, np.int16), bleeds, tissues, 0.45)


def test_lesions_are_parts_of_one_type() -> None:
    bleeds = np.zeros((40, 40), np.uint8)
    bleeds[2:10, 2:10] = BleedType.SUBDURAL
    bleeds[10:14, 10:14] = BleedType.SUBDURAL  # touches at a corner: one lesion
    bleeds[2:10, 10:20] = BleedType.EPIDURAL  # touches along a side: another type, another lesion
    bleeds[30:36, 30:36] = BleedType.SUBDURAL
    bleeds[38, 2:5] = BleedType.SUBDURAL  # 3 pixels: nobody clicks on that
    found = [(kind, int(mask.sum())) for kind, mask in lesions(made(bleeds))]
    assert found == [
        (BleedType.SUBDURAL, 80), (BleedType.SUBDURAL, 36), (BleedType.EPIDURAL, 80),
    ]  # fmt: skip


def test_share_of_negatives(phantoms: list[PhantomSlice]) -> None:
    rng = np.random.default_rng(2)
    sample = next(each for each in phantoms if lesions(each))
    found = lesions(sample)
    drawn = [bleed_target(sample, found, rng).kind is BleedType.NONE for _ in range(120)]
    assert 0.15 < np.mean(drawn) < 0.45
    calm = made(np.zeros((40, 40), np.uint8))
    assert all(bleed_target(calm, lesions(calm), rng).kind is BleedType.NONE for _ in range(3))


def test_training_clicks_on_bright_cortex_more_often_than_an_evaluation() -> None:
    """A ninth of the brain is cortex 10 HU above the rest; bone is no brain, however bright."""
    rng = np.random.default_rng(4)
    tissues = np.full((100, 100), Tissue.WHITE, np.uint8)
    tissues[:10], tissues[-10:] = Tissue.GREY, Tissue.BONE
    hu = rng.normal(30, 1, (100, 100)).astype(np.int16)
    hu[:10], hu[-10:] = hu[:10] + 10, 900
    sample = PhantomSlice(hu, np.zeros((100, 100), np.uint8), tissues, 0.45)

    def on_cortex(clicks: list[tuple[float, float]]) -> float:
        return float(np.mean([y < 10 for _, y in clicks]))

    clicks = [bleed_target(sample, [], rng).click for _ in range(600)]
    assert BRIGHT < on_cortex(clicks) < BRIGHT + 0.12
    assert np.mean([y == 89 for _, y in clicks]) < 0.03  # beside bone, whose HU must not count
    assert on_cortex([negative_target(sample, rng).click for _ in range(600)]) < 0.1
