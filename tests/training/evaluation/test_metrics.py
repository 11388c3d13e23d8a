"""Metrics against slow references, their rules for empty masks, and the best threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_training.evaluation.metrics import best_threshold, mask_metrics
from samihs_training.evaluation.surface import hausdorff_95, rowwise_hausdorff, surface_dice

# MONAI 1.6 on torch 2.13: its own use of deprecated torch and numpy calls, nothing of ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:monai"),
]


def box(top: int, left: int, height: int, width: int) -> NDArray[np.bool_]:
    mask = np.zeros((60, 50), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def slow_hd95(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, float]) -> float:
    """From the definition: the larger of the two directed 95th percentiles."""

    def surface(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        padded = np.pad(mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        return np.argwhere(mask & ~inner) * np.asarray(spacing)

    first, second = surface(a), surface(b)
    distances = np.linalg.norm(first[:, None] - second[None], axis=-1)
    return float(max(np.percentile(distances.min(axis), 95) for axis in (0, 1)))


def test_overlap() -> None:
    metrics = mask_metrics(box(0, 0, 10, 10), box(0, 5, 10, 10), (0.5, 0.5))
    assert metrics.dice == pytest.approx(0.5)
    assert metrics.iou == pytest.approx(1 / 3)
    assert metrics.area_error_mm2 == 0


def test_area_error_has_a_sign_and_a_unit() -> None:
    metrics = mask_metrics(box(0, 0, 10, 10), box(0, 0, 10, 5), (0.5, 0.4))
    assert metrics.area_error_mm2 == pytest.approx(50 * 0.5 * 0.4)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.45, 0.45), (0.5, 0.8)])
def test_distance_is_the_definition_in_mm(spacing: tuple[float, float]) -> None:
    rng = np.random.default_rng(8)
    for _ in range(5):
        top, left, height, width = (int(value) for value in rng.integers(1, 20, 4))
        a = box(top, left, height, width)
        b = box(int(rng.integers(0, 30)), int(rng.integers(0, 20)), 7, 9)
        assert hausdorff_95(a, b, spacing) == pytest.approx(slow_hd95(a, b, spacing), abs=1e-4)


def test_a_vertical_shift_is_seen() -> None:
    """The authors' row-wise variant scores 0 here."""
    assert hausdorff_95(box(0, 5, 10, 10), box(40, 5, 10, 10), (0.5, 0.5)) == pytest.approx(20.0)


def slow_surface(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~inner)


@pytest.mark.parametrize("shift", [1, 2, 3, 5])
def test_surface_dice_is_the_definition(shift: int) -> None:
    a, b = box(10, 10, 20, 15), box(10, 10 + shift, 20, 13)
    first, second = (slow_surface(mask) * 0.5 for mask in (a, b))
    distances = np.linalg.norm(first[:, None] - second[None], axis=-1)
    near = sum(int((distances.min(axis) <= 1.0).sum()) for axis in (0, 1))
    wanted = near / (len(first) + len(second))
    assert surface_dice(a, b, (0.5, 0.5), 1.0) == pytest.approx(wanted, abs=1e-6)


def test_distances_in_three_dimensions() -> None:
    a = np.stack([box(10, 10, 8, 8)] * 3 + [box(0, 0, 0, 0)] * 3)
    b = np.roll(a, 3, axis=0)
    assert hausdorff_95(a, b, (5.0, 0.5, 0.5)) == pytest.approx(15.0)
    assert surface_dice(a, a, (5.0, 0.5, 0.5), 1.0) == 1.0


def test_rowwise_variant_is_no_distance() -> None:
    """DESIGN 3: a blob 187 pixels off scores 3.3, a shift of 40 rows scores 0."""
    truth, blob, moved = (np.zeros((512, 512), bool) for _ in range(3))
    truth[200:240, 100:140] = blob[200:240, 100:140] = moved[240:280, 100:140] = True
    blob[387:400, 300:311] = True  # 11 columns wide
    assert rowwise_hausdorff(blob, truth) == pytest.approx(math.sqrt(11))
    assert rowwise_hausdorff(moved, truth) == 0
    assert hausdorff_95(moved, truth, (1, 1)) == pytest.approx(40)


def test_rowwise_variant_against_its_definition() -> None:
    rng = np.random.default_rng(12)
    a, b = rng.random((2, 9, 7)) < 0.3
    first, second = a.astype(float), b.astype(float)
    directed = [
        max(min(math.dist(row, other) for other in there) for row in here)
        for here, there in ((first, second), (second, first))
    ]
    assert rowwise_hausdorff(a, b) == pytest.approx(max(directed))


def test_empty_masks() -> None:
    nothing, something = box(0, 0, 0, 0), box(3, 3, 4, 4)
    both = mask_metrics(nothing, nothing, (1, 1))
    assert (both.dice, both.iou, both.hd95_mm) == (1.0, 1.0, 0.0)
    for pair in ((nothing, something), (something, nothing)):
        one = mask_metrics(*pair, (1, 1))
        assert (one.dice, one.iou) == (0.0, 0.0)
        assert math.isnan(one.hd95_mm)
        assert surface_dice(*pair, (1, 1), 1.0) == 0
    assert surface_dice(nothing, nothing, (1, 1), 1.0) == 1


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="expected one shape"):
        mask_metrics(np.zeros((4, 4), bool), np.zeros((4, 5), bool), (1, 1))


def test_threshold() -> None:
    assert 0.4 < best_threshold([0.6, 0.8, 0.9], [0.1, 0.2, 0.4]) < 0.6
    assert best_threshold([], [0.1]) == 0.5
    # Against trying every score there is.
    rng = np.random.default_rng(10)
    bled, calm = rng.normal(0.7, 0.2, 80), rng.normal(0.3, 0.2, 90)

    def youden(cut: float) -> float:
        return float((bled >= cut).mean() + (calm < cut).mean())

    best = max(youden(cut) for cut in np.concatenate([bled, calm]))
    assert youden(best_threshold(list(bled), list(calm))) == pytest.approx(best)
