"""Clicks of several subjects, counted and compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import report
from accuracy import Tally, difference, mean_of
from plots import _bars_of
from record import Record, Series

from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_training.data.phantom import BleedType
from samihs_training.data.studies import StudySlice
from samihs_training.data.targets import Target

SIDE = 40


def square(first: int, side: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[first : first + side, first : first + side] = True
    return mask


@pytest.fixture(scope="module")
def record(make_slice: Callable[..., StudySlice]) -> Record:
    """Two studies with a lesion of 10 x 10 pixels of 0.25 mm2, on slices of 4 mm extent."""
    tally = Tally()
    truth = square(10, 10)
    for study in (7, 8):
        target = Target(truth, Prompt(((14.0, 14.0),), (FOREGROUND,)), BleedType.SUBDURAL)
        study_slice = make_slice(study, np.zeros((SIDE, SIDE), np.int16), (target,))
        half = truth & (np.arange(SIDE) < (15 if study == 7 else 20))
        masks = {"perfect": truth, "half": half, "nothing": np.zeros_like(truth)}
        tally.add(study_slice, target, masks)
    machine = {
        "processor": "a processor", "cores": 2, "system": "", "python": "3.11", "gpus": [],
    }  # fmt: skip
    return Record(
        "methods", tally.series(), command="python x.py", commit="abc1234", machine=machine,
        versions={},
    )  # fmt: skip


def test_each_click_is_judged_under_its_type_and_under_all(record: Record) -> None:
    for kind in ("subdural", "all"):
        assert record.find("half", f"Dice, {kind}").samples == pytest.approx((2 / 3, 1.0))
        assert record.find("click", f"study, {kind}").samples == (7.0, 8.0)
    assert record.find("perfect", "HD95, all").samples == (0.0, 0.0)
    # 50 of 100 pixels are missing: 50 x 0.25 mm2 x 4 mm = 50 mm3
    assert record.find("half", "volume error, all").samples == pytest.approx((-0.05, 0.0))


def test_an_interval_is_over_studies(record: Record) -> None:
    found = mean_of(record, "half", "Dice", "all")
    assert found is not None
    assert found.mean == pytest.approx(5 / 6)
    assert (found.low, found.high) == pytest.approx((2 / 3, 1.0))
    assert mean_of(record, "absent", "Dice", "all") is None


def test_a_difference_is_taken_click_by_click(record: Record) -> None:
    found = difference(record, "half", "perfect", "Dice", "all")
    assert found is not None
    assert found.mean == pytest.approx(-1 / 6)
    same = difference(record, "perfect", "perfect", "Dice", "all")
    assert same is not None
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)


def test_a_distance_that_is_not_defined_is_counted_not_averaged(record: Record) -> None:
    found = mean_of(record, "nothing", "HD95", "all")
    assert found is not None
    assert (found.count, found.undefined) == (0, 2)


def test_the_report_has_a_row_of_each_subject_and_its_difference(
    record: Record, tmp_path: Path
) -> None:
    record.write(tmp_path / "results")
    text = report.write(tmp_path / "results", tmp_path).read_text()
    assert "| half | 0.833 (0.667 to 1.000) | 0.833 (0.667 to 1.000) |" in text
    assert "| difference from perfect, same clicks | Dice | HD95, mm | volume error, mL |" in text
    assert "| nothing | -1.000 (-1.000 to -1.000) |  | -0.100 (-0.100 to -0.100) |" in text
    assert "| click |" not in text


def test_means_have_no_interval_without_the_studies_of_the_clicks() -> None:
    lesions = Record("mask-grid", (Series("128 x 128 cells", "Dice, all", "", (0.5, 1.0)),))
    found = mean_of(lesions, "128 x 128 cells", "Dice", "all")
    assert found is not None
    assert found.mean == 0.75
    assert found.interval() == "no interval"
    (bar,) = _bars_of(lesions, "Dice, all")
    assert (bar.name, bar.middle) == ("128 x 128 cells", 0.75)


def test_a_picture_of_accuracies_is_of_means(record: Record) -> None:
    bars = {each.name: each for each in _bars_of(record, "Dice, all")}
    assert set(bars) == {"perfect", "half", "nothing"}
    assert (bars["half"].middle, bars["half"].low) == pytest.approx((5 / 6, 2 / 3))
