"""Batches: a function of seed and step, however they are shared, with any prompt and window."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samihs_runtime.bundle.entries import WindowRule
from samihs_runtime.errors import UsageError
from samihs_training.data.cache import CacheSpec, SliceCache, open_cache
from samihs_training.data.phantom import BleedType, PhantomSlice, Tissue
from samihs_training.data.slices import Batch, flipped, misread, moved, worn
from samihs_training.data.sources import Drawing, PhantomSlices, Task
from samihs_training.data.targets import bleed_target, lesions, structure_target
from samihs_training.prompts import prompt_rule
from samihs_training.stages.batches import NumberedBatches, Share


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> SliceCache:
    spec = CacheSpec("train", 3, matrix=128)
    return open_cache(tmp_path_factory.mktemp("cache"), spec, workers=1)


def batches(cache: SliceCache, drawing: Drawing, share: Share | None = None) -> NumberedBatches:
    source = PhantomSlices(cache)
    return NumberedBatches(source, drawing, batch=2, seed=5, share=share or Share())


def same(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("hu", "window", "points", "labels", "masks")
    )


@pytest.mark.parametrize("task", ["structures", "bleeds"])
def test_phantoms_are_drawn_by_hand(cache: SliceCache, task: Task) -> None:
    """Against the plain loop: flipped, moved, worn, then each click, from one generator a slice."""
    data = batches(cache, Drawing(task, prompts=3))
    batch = data[1]
    assert same(batch, data[1])
    assert batch.window.tolist() == [[-20.0, 100.0]] * 2
    assert batch.labels.tolist() == [[1, -1]] * 6
    for place, position in enumerate((2, 3)):
        rng = np.random.default_rng([5, 1, position])
        sample = moved(flipped(cache[data.slice_at(position)], rng), rng)
        found = lesions(sample)
        np.testing.assert_array_equal(batch.hu[place, 0], worn(sample.hu, rng))
        for click in range(3 * place, 3 * place + 3):
            draw = structure_target if task == "structures" else bleed_target
            target = draw(sample, found, rng)
            assert batch.points[click].tolist() == [list(target.click), [0.0, 0.0]]
            np.testing.assert_array_equal(batch.masks[click, 0], target.mask)


def test_a_misread_window_bends_nothing() -> None:
    """HU stay a line through what they were, about as often too high as too low."""
    hu = np.array([-20.0, 40.0, 100.0], np.float32)
    read = np.stack([misread(hu, np.random.default_rng(seed)) for seed in range(400)])
    steps = np.diff(read, axis=1)
    np.testing.assert_allclose(steps[:, 0], steps[:, 1], atol=1e-4)
    assert (steps > 0).all()
    offsets = read[:, 1] - 40
    assert abs(np.median(offsets)) < 1
    assert offsets.std() == pytest.approx(6, abs=1)
    assert np.log(steps[:, 0] / 60).std() == pytest.approx(0.12, abs=0.02)


def test_a_slice_moves_with_its_labels_and_its_spacing() -> None:
    """A bright disc under its own label: wherever it goes, however large, they stay together."""
    rows, columns = np.mgrid[:128, :128]
    disc = np.hypot(rows - 50, columns - 70) < 12
    sample = PhantomSlice(
        np.where(disc, 60, 0).astype(np.int16),
        np.where(disc, BleedType.SUBDURAL, 0).astype(np.uint8),
        np.where(disc, Tissue.BLOOD, Tissue.WHITE).astype(np.uint8),
        0.5,
    )
    zooms, places = [], []
    for seed in range(40):
        again = moved(sample, np.random.default_rng(seed))
        found = again.bleeds == BleedType.SUBDURAL
        np.testing.assert_array_equal(found, again.tissues == Tissue.BLOOD)
        assert (found ^ (again.hu > 30)).mean() < 0.002  # linear against nearest, at the rim
        zooms.append(0.5 / again.pixel_spacing)
        places.append(np.argwhere(found).mean(axis=0))
        assert found.sum() == pytest.approx(disc.sum() * zooms[-1] ** 2, rel=0.06)
    assert 10 < np.count_nonzero(np.array(zooms) == 1) < 30
    assert 0.7 < min(zooms) < 0.8
    assert 1.1 < max(zooms) < 1.26
    assert np.ptp(places, axis=0).min() > 5


def test_a_batch_is_the_same_however_it_is_shared(cache: SliceCache) -> None:
    drawing = Drawing("bleeds", prompts=2)
    whole = batches(cache, drawing)[3]
    for rank in range(2):
        half = batches(cache, drawing, Share(rank, 2))[3]
        assert torch.equal(half.hu, whole.hu[rank::2])
        assert torch.equal(half.points.view(1, 2, 2, 2), whole.points.view(2, 2, 2, 2)[rank::2])
    with pytest.raises(UsageError, match="expected a multiple of 3"):
        batches(cache, drawing, Share(0, 3))


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("hand", [1, -1]), ("random", [1, -1]), ("middle", [1, -1]), ("deepest", [1, -1]),
        ("points", [1, 1, 1, -1]), ("mixed", [1, 0, -1]), ("box", [2, 3]),
    ],
)  # fmt: skip
def test_every_prompt_makes_a_batch(cache: SliceCache, name: str, labels: list[int]) -> None:
    """On lesions and where nothing bleeds; foreground points lie in their masks."""
    drawing = Drawing("bleeds", prompts=8, rule=prompt_rule(name), negatives=0.5)
    batch = batches(cache, drawing)[0]
    assert batch.labels.tolist() == [labels] * 16
    assert batch.points.shape == (16, len(labels), 2)
    empty = ~batch.masks.bool().flatten(1).any(1)
    assert empty.any()
    assert not empty.all()
    for points, kinds, mask in zip(batch.points, batch.labels, batch.masks, strict=True):
        for (x, y), kind in zip(points.long().tolist(), kinds.tolist(), strict=True):
            if mask.any() and kind in (0, 1):
                assert mask[0, y, x] == kind


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_of_negatives(cache: SliceCache, share: float) -> None:
    drawing = Drawing("bleeds", prompts=4, negatives=share, vary=False)
    bleeding = [bool(lesions(cache[index])) for index in range(len(cache))]
    assert any(bleeding)
    data = batches(cache, drawing)
    for place in (0, 1):
        masks = data[0].masks[4 * place : 4 * place + 4].bool().flatten(1).any(1)
        wanted = share == 0 and bleeding[data.slice_at(place)]
        assert masks.tolist() == [wanted] * 4


def test_a_window_of_percentiles_is_each_slices_own(cache: SliceCache) -> None:
    rule = WindowRule("percentiles", 0.05, 99.5)
    batch = batches(cache, Drawing("bleeds", prompts=1, window=rule))[0]
    for hu, window in zip(batch.hu[:, 0].numpy(), batch.window.numpy(), strict=True):
        assert window == pytest.approx(np.percentile(hu, [0.05, 99.5]), rel=1e-6)
