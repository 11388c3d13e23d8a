"""Slices varied together with ground truth and clicks, and how the answers are counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from accuracy import ACCEPTED, Tally, difference
from record import Record
from robustness import REFERENCE, VARIATIONS, View, judge, placed

from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_training.data.phantom import BleedType
from samihs_training.data.studies import StudySlice
from samihs_training.data.targets import Target
from samihs_training.evaluation.predictors import Predictor

SIDE = 128


def disk(row: int, column: int, radius: int = 10) -> np.ndarray:
    rows, columns = np.indices((SIDE, SIDE))
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def view_of(truth: np.ndarray, click: tuple[float, float]) -> View:
    """Blood of 70 HU in brain of 30 HU."""
    return View(np.where(truth, 70, 30).astype(np.float32), (truth,), (click,))


@pytest.mark.parametrize("name", VARIATIONS)
def test_truth_and_click_go_with_the_slice(name: str) -> None:
    seen = VARIATIONS[name](view_of(disk(40, 80), (80.0, 40.0)), np.random.default_rng(0))
    assert seen is not None
    (truth,), ((x, y),) = seen.lesions, seen.clicks
    assert truth.shape == seen.hu.shape
    assert truth[int(y), int(x)]  # 4 pixels off is still within 10
    assert seen.hu[truth].mean() - seen.hu[~truth].mean() > 20


@pytest.mark.parametrize("name", VARIATIONS)
def test_each_variation_changes_what_is_asked(name: str) -> None:
    before = view_of(disk(40, 80), (80.0, 40.0))
    seen = VARIATIONS[name](before, np.random.default_rng(0))
    assert seen is not None
    same = seen.hu.shape == before.hu.shape and np.array_equal(seen.hu, before.hu)
    assert not same or seen.clicks != before.clicks


def test_a_turn_is_about_the_middle() -> None:
    seen = placed(view_of(disk(63, 93), (93.0, 63.0)), np.random.default_rng(0), turn_deg=90)
    assert seen is not None
    assert seen.clicks[0] == pytest.approx((64, 93), abs=1)
    assert seen.lesions[0].sum() == pytest.approx(disk(63, 93).sum(), rel=0.05)


def test_a_lesion_pushed_off_the_slice_is_not_asked_for() -> None:
    assert placed(view_of(disk(8, 8, 6), (8.0, 8.0)), np.random.default_rng(0), zoom=1.25) is None


def test_each_click_is_its_own_reference(make_slice: Callable[..., StudySlice]) -> None:
    """An answer that takes everything above 50 HU: adding 5 HU changes nothing, and a lesion that a
    zoom pushes off the slice is undefined, not wrong."""
    inner, outer = disk(64, 64), disk(8, 8, 6)
    targets = tuple(
        Target(mask, Prompt((point,), (FOREGROUND,)), BleedType.SUBDURAL)
        for mask, point in ((inner, (64.0, 64.0)), (outer, (8.0, 8.0)))
    )
    hu = np.where(inner | outer, 70, 30).astype(np.int16)

    def answer(hu: np.ndarray, clicks: list[tuple[float, float]]) -> list[tuple[np.ndarray, float]]:
        return [(hu > 50, 0.4 if hu.max() > 72 else 0.9) for _ in clicks]

    tally = Tally()
    judge(make_slice(5, hu, targets), Predictor("", answer, 0.5), tally)
    record = Record("robustness", tally.series(), commit="", machine={}, versions={})
    as_it_is = record.find(REFERENCE, "Dice, all").samples
    areas = inner.sum(), outer.sum()
    assert as_it_is == pytest.approx([2 * a / (a + sum(areas)) for a in areas], abs=1e-4)
    raised = difference(record, "5 HU higher", REFERENCE, "Dice", "all")
    assert (raised.mean, raised.count) == (0, 2)
    assert difference(record, "5 HU higher", REFERENCE, ACCEPTED, "all").mean == -1
    zoomed = difference(record, "field of view a fifth smaller", REFERENCE, "Dice", "all")
    assert (zoomed.count, zoomed.undefined) == (0, 2)
