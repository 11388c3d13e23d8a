"""Augmentation: image and mask move alike, values stay in HU, a seed repeats it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_runtime.errors import UsageError
from samihs_training.data.augmentation import GAMMA_RANGE_HU, Augmentation, bent

# MONAI 1.6's own use of deprecated torch and numpy calls, nothing of ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:monai"),
]
NOTHING = Augmentation(mirror=0, upside_down=0, affine=0, noise=0, contrast=0, gamma=0, window_hu=0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def lesion() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A bright ellipse, off the middle, and its mask."""
    y, x = np.mgrid[:64, :64]
    mask = ((y - 24) / 9) ** 2 + ((x - 38) / 6) ** 2 < 1
    return np.where(mask, 70, 30).astype(np.float32), np.asarray(mask)


def test_nothing_asked_nothing_done() -> None:
    hu, mask = lesion()
    image, moved = NOTHING(hu, mask, rng())
    np.testing.assert_array_equal(image, hu)
    np.testing.assert_array_equal(moved, mask)
    assert NOTHING.window((-20, 100), rng()) == (-20, 100)


def test_flips() -> None:
    hu, mask = lesion()
    image, moved = replace(NOTHING, mirror=1.0)(hu, mask, rng())
    np.testing.assert_array_equal(image, hu[:, ::-1])
    np.testing.assert_array_equal(moved, mask[:, ::-1])
    image, moved = replace(NOTHING, upside_down=1.0)(hu, mask, rng())
    np.testing.assert_array_equal(moved, mask[::-1])


def test_image_and_mask_move_alike() -> None:
    hu, mask = lesion()
    turned = replace(NOTHING, affine=1.0, degrees=30.0, scale=0.2)
    areas = []
    for seed in range(20):
        image, moved = turned(hu, mask, rng(seed))
        areas.append(moved.sum() / mask.sum())
        # Half way between the two values is the outline; nearest and bilinear differ at its rim.
        differ = ((image > 50) != moved).sum()
        assert differ <= 12
    assert min(areas) < 0.9
    assert max(areas) > 1.1
    assert 0.6 < min(areas) < max(areas) < 1.6  # (1 +- 0.2)^2, the mapping or its inverse


def test_values_stay_hounsfield_units() -> None:
    hu = np.full((64, 64), 50.0, np.float32)
    flat = np.zeros((64, 64), bool)
    for seed in range(20):
        image, _ = replace(NOTHING, contrast=1.0, gain=0.05, offset_hu=4.0)(hu, flat, rng(seed))
        assert 50 * 0.95 - 4 <= image.min() == image.max() <= 50 * 1.05 + 4
        noisy, _ = replace(NOTHING, noise=1.0, noise_hu=4.0)(hu, flat, rng(seed))
        assert noisy.std() < 4.4
        assert abs(noisy.mean() - 50) < 0.4


def test_gamma_bends_the_brain_only() -> None:
    hu = np.arange(-1000, 2000, dtype=np.float32)
    low, high = GAMMA_RANGE_HU
    for gamma in (0.7, 1.4):
        curve = bent(hu, gamma)
        assert (np.diff(curve) > 0).all()
        outside = (hu <= low) | (hu >= high)
        np.testing.assert_array_equal(curve[outside], hu[outside])
        middle = (low + high) / 2
        assert curve[hu == middle].item() == pytest.approx(low + (high - low) * 0.5**gamma)


def test_window_jitter() -> None:
    drawn = np.array([Augmentation(window_hu=5.0).window((-20, 100), rng(s)) for s in range(400)])
    assert drawn.mean(0) == pytest.approx([-20, 100], abs=1)
    assert drawn.std(0) == pytest.approx([5, 5], rel=0.15)
    wide = [Augmentation(window_hu=500.0).window((-20, 100), rng(s)) for s in range(50)]
    assert min(high - low for low, high in wide) >= 60 - 1e-9  # half of 120


def test_a_seed_repeats() -> None:
    hu, mask = lesion()
    everything = Augmentation(mirror=0.5, upside_down=0.5, affine=1, noise=1, contrast=1, gamma=1)
    first, second, other = (everything(hu, mask, rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert (first[0] != other[0]).any()


def test_options_are_checked() -> None:
    with pytest.raises(UsageError, match=r"augmentation mirror 1\.5: expected 0 to 1"):
        Augmentation(mirror=1.5)
    with pytest.raises(UsageError, match="augmentation noise_hu -1"):
        Augmentation(noise_hu=-1)
