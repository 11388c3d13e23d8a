"""The options of the comparison of methods, and how each method answers a click."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import methods
import numpy as np
import pytest
from accuracy import Tally
from classical import CLASSICAL, blood_window, blood_window_3d
from methods import Learned, read_checkpoints, read_learned
from record import Record

from samihs_runtime.errors import UsageError
from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_training.data.phantom import BleedType
from samihs_training.data.studies import StudySlice
from samihs_training.data.targets import Target
from samihs_training.evaluation.predictors import Predictor

# Without noise the random walker's probabilities exceed [0, 1] by more than its solver's tolerance.
pytestmark = pytest.mark.filterwarnings("ignore:The probability range")


@pytest.fixture
def study_slice(make_slice: Callable[..., StudySlice]) -> StudySlice:
    """A disk of blood of 70 HU, 20 pixels across, in brain of 30 HU."""
    rows, columns = np.indices((160, 160))
    disk = (rows - 80) ** 2 + (columns - 70) ** 2 < 10**2
    hu = np.where(disk, 70, 30).astype(np.int16)
    target = Target(disk, Prompt(((70.0, 80.0),), (FOREGROUND,)), BleedType.INTRAPARENCHYMAL)
    elsewhere = Target(np.zeros_like(disk), Prompt(((20.0, 20.0),), (FOREGROUND,)), BleedType.NONE)
    return make_slice(5, hu, (target, elsewhere))


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_plain_disk_is_found_by_each_classical_method(study_slice: StudySlice, name: str) -> None:
    truth = study_slice.clicks[0].mask
    mask = CLASSICAL[name](study_slice.hu, study_slice.clicks[0].click)
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.85


def test_a_blood_window_stays_within_blood_in_two_and_three_dimensions() -> None:
    hu = np.full((3, 9, 9), 30, np.int16)
    hu[:, 2:7, 2:7] = 70
    found = blood_window_3d(hu, 1, (4.0, 4.0))
    assert found[:, 3:6, 3:6].all()
    assert found.sum() <= 3 * 25
    assert not blood_window_3d(hu, 1, (0.0, 0.0)).any()  # brain was clicked
    assert not blood_window(hu[1], (0.0, 0.0)).any()


def test_all_subjects_are_judged_at_the_same_clicks_on_bleeds(study_slice: StudySlice) -> None:
    asked = []

    def answer(hu: np.ndarray, clicks: list[tuple[float, float]]) -> list[tuple[np.ndarray, float]]:
        asked.extend(clicks)
        return [(study_slice.clicks[0].mask, 1.0) for _ in clicks]

    class Everything:
        """Takes the whole slice for blood."""

        def mask(self, hu: np.ndarray) -> np.ndarray:
            return np.ones(hu.shape, bool)

    tally = Tally()
    methods._judge(study_slice, {"perfect": Predictor("", answer, None)}, Everything(), tally)  # type: ignore[arg-type]
    record = Record("methods", tally.series(), commit="", machine={}, versions={})
    assert asked == [(70.0, 80.0)]
    assert record.find("perfect", "Dice, all").samples == (1.0,)
    assert record.find("U-Net, no click", "Dice, all").samples[0] < 0.03
    subjects = {each.subject for each in record.series}
    assert subjects == {"click", "perfect", "U-Net, no click", *CLASSICAL}


def test_a_checkpoint_is_named_before_the_first_equals_sign() -> None:
    run = "runs/method=lora seed=1/adapters.safetensors"
    assert read_checkpoints([f"LoRA={run}"]) == {"LoRA": Path(run)}
    for given in (["adapters.safetensors"], ["=a"], ["a="], ["a=b", "a=c"]):
        with pytest.raises(UsageError, match="--checkpoint"):
            read_checkpoints(given)


def asked(**given: object) -> argparse.Namespace:
    """The defaults of the command line, except for ``given``."""
    nothing = {"checkpoint": [], "base": None, "unet": None, "unet_minutes": None}
    return argparse.Namespace(**{**nothing, "unet_cache": Path("nowhere"), **given})


def test_checkpoints_without_their_base_are_refused_before_a_network_is_trained() -> None:
    with pytest.raises(UsageError, match="needs --base"):
        read_learned(asked(checkpoint=["LoRA=adapters.safetensors"], unet_minutes=90.0))


def test_a_network_is_given_or_trained_not_both() -> None:
    with pytest.raises(UsageError, match="--unet or --unet-minutes"):
        read_learned(asked(unet=Path("unet.safetensors"), unet_minutes=1.0))
    assert read_learned(asked()) == Learned()


def test_a_comparison_without_the_network_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lacking = Record("methods", (), {}, methods.WANTED[methods.METHODS])
    monkeypatch.setattr(methods, "measure", lambda *given: lacking)
    monkeypatch.setattr("sys.argv", ["methods.py", "--results", str(tmp_path)])
    methods.main()
    assert "not compared: U-Net, no click: give --unet FILE" in capsys.readouterr().err
