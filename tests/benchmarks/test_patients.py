"""Slices of a data set, each lesion clicked once, every method judged by slice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import patients
import pytest
from PIL import Image
from record import Record
from report import _section

from samihs_runtime.errors import DataError
from samihs_training.data.cases.finding import find_cases
from samihs_training.evaluation.predictors import Predictor

SIDE = 40


def archive(root: Path, count: int) -> Path:
    """Slices of two patients, each with two bleeds of 8 x 8 pixels."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    truth = np.zeros((SIDE, SIDE), bool)
    truth[4:12, 4:12] = truth[20:28, 20:28] = True
    for number in range(count):
        grey = np.where(truth, 200, 100).astype(np.uint8)
        Image.fromarray(grey).save(root / "images" / f"{number}_1.png")
        Image.fromarray(truth.astype(np.uint8) * 255).save(root / "masks" / f"{number}_1.png")
    (root / "pictures.toml").write_text("level=40\nwidth=120\npixel_mm=0.5\nslice_mm=5\n")
    return root


@pytest.mark.parametrize("click", patients.CLICKS)
def test_answers_to_a_slices_clicks_are_united(tmp_path: Path, click: str) -> None:
    asked: list[int] = []

    def answer(hu: np.ndarray, clicks: list[tuple[float, float]]) -> list[tuple[np.ndarray, float]]:
        """The bleed that was clicked, without the second one."""
        asked.append(len(clicks))
        first = np.zeros(hu.shape, bool)
        first[4:12, 4:12] = True
        return [(first & (x < 15), 0.4) for x, _ in clicks]

    cases = find_cases(archive(tmp_path, 2))
    tally = patients.measure(cases, Predictor("half", answer, 0.5), click)
    record = Record("patients", tally.series(), {"per": "slice"}, commit="", machine={})
    assert asked == [2, 2]
    found = record.find("SAMIHS, half", "Dice, all")
    assert found is not None
    assert found.samples == pytest.approx((2 / 3, 2 / 3))
    refused = record.find("the same, as served", "Dice, all")
    assert refused is not None
    assert refused.samples == (0.0, 0.0)
    if click == "deepest":  # from a corner, which the median filter rounds off, nothing grows
        grown = record.find("region growing, 8 HU", "Dice, all")
        assert grown is not None
        assert grown.samples == pytest.approx((1.0, 1.0), abs=0.05)
    studies = record.find("click", "study, all")
    assert studies is not None
    assert studies.samples == (0.0, 1.0)


def test_the_report_shows_means_by_slice(tmp_path: Path) -> None:
    def nothing(
        hu: np.ndarray, clicks: list[tuple[float, float]]
    ) -> list[tuple[np.ndarray, float]]:
        return [(np.zeros(hu.shape, bool), 0.0) for _ in clicks]

    tally = patients.measure(find_cases(archive(tmp_path, 2)), Predictor("none", nothing, None))
    settings = {"per": "slice", "over": "cases", "data": "squares"}
    machine = {"processor": "a", "cores": 2, "system": "", "python": "3.11", "gpus": []}
    record = Record("patients", tally.series(), settings, commit="abc", machine=machine)
    text = "\n".join(_section("patients-cpu", record, [], {}))
    assert "Means over slices, with 95 % intervals over cases." in text
    assert "difference from SAMIHS, none, same slices" in text


def test_a_data_set_without_blood_is_refused(tmp_path: Path) -> None:
    root = archive(tmp_path, 1)
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(root / "masks" / "0_1.png")
    with pytest.raises(DataError, match="no slice has a hemorrhage"):
        patients.measure(find_cases(root), Predictor("", lambda hu, clicks: [], None))
