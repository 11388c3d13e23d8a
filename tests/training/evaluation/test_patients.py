"""Evaluation on a data set: known answers, the authors' protocol, files, one-line errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from monai import metrics
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.distance import directed_hausdorff

from samihs_runtime.errors import DataError, UsageError
from samihs_runtime.intervals import estimate
from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_training.data.cases.case import CaseFiles
from samihs_training.data.cases.finding import find_cases
from samihs_training.data.cases.reading import read_case
from samihs_training.evaluation import pipeline
from samihs_training.evaluation.cli import main
from samihs_training.evaluation.patients import METRICS, authors_mask, evaluate_data, scores_of
from samihs_training.evaluation.predictors import Predictor, Reply
from samihs_training.evaluation.report import FILES, markdown, write_data_report
from tests.training.test_data_sets import bcihm, save

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MONAI 1.6's own calls
]


@pytest.fixture
def cases(tmp_path: Path) -> list[CaseFiles]:
    return find_cases(bcihm(tmp_path / "data", 3))


class Oracle:
    """Knows the mask of every slice, answers with it (moved), and records what was asked."""

    def __init__(self, cases: list[CaseFiles], shift: int = 0) -> None:
        self.asked: list[Prompt] = []
        self.priors: list[NDArray[np.float32] | None] = []
        self.spacings: list[tuple[float, float] | None] = []
        self.shift = shift
        self.truth = {
            hu.tobytes(): label > 0
            for case in cases
            for volume in [read_case(case)]
            for hu, label in zip(volume.hu, volume.labels, strict=True)
        }

    def ask(
        self,
        hu: NDArray[np.float32],
        prompt: Prompt,
        prior: NDArray[np.float32] | None = None,
        spacing_mm: tuple[float, float] | None = None,
    ) -> Reply:
        self.asked.append(prompt)
        self.spacings.append(spacing_mm)
        self.priors.append(prior)
        mask = np.roll(self.truth[hu.tobytes()], self.shift, axis=1)
        return Reply(mask, 1.0, np.where(mask, 9, -9).astype(np.float32))

    @property
    def predictor(self) -> Predictor:
        return Predictor("oracle", lambda hu, clicks: [], None, self.ask)


def test_the_truth_is_perfect(cases: list[CaseFiles]) -> None:
    result = evaluate_data(Oracle(cases).predictor, cases)
    assert len(result.slices) == 6  # two bleeding slices of each case
    assert len(result.patients) == 3
    for table in (result.by_slice(), result.by_patient()):
        means = {name: mean.mean for name, (mean, _) in table.items()}
        perfect = dict.fromkeys(METRICS, 1.0)
        zero = ("hd95_mm", "hd95_px", "volume_error_ml", "rowwise_hausdorff")
        assert means == pytest.approx({**perfect, **dict.fromkeys(zero, 0.0)})


def test_scores_of_a_known_error() -> None:
    truth, predicted = np.zeros((20, 16), bool), np.zeros((20, 16), bool)
    truth[5:7, 6:9] = True
    predicted[5:7, 7:11] = True
    scores = scores_of(predicted, truth, (0.4, 0.5), 5.0)
    assert scores.dice == pytest.approx(2 * 4 / (6 + 8))
    assert scores.iou == pytest.approx(4 / 10)
    assert scores.sensitivity == pytest.approx(4 / 6)
    assert scores.specificity == pytest.approx(1 - 4 / (320 - 6))
    assert scores.volume_error_ml == pytest.approx(2 * 0.4 * 0.5 * 5 / 1000)
    assert scores.hd95_px == pytest.approx(2.0)
    assert scores.hd95_mm == pytest.approx(1.0)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # as the line above
def test_scores_are_those_of_monai(tmp_path: Path) -> None:
    """MONAI's own metric classes on the same masks, whole and unscaled, by slice and by volume."""
    rng = np.random.default_rng(1)
    hu = read_case(find_cases(bcihm(tmp_path, 1))[0]).hu.transpose(2, 1, 0)
    truth, answer = np.zeros(hu.shape, np.uint8), np.zeros(hu.shape, bool)
    for index, (left, top) in enumerate(rng.integers(5, 9, (3, 2))):
        truth[left : left + 5, top : top + 4, index] = 1
        answer[left - 1 : left + 3, top + 1 : top + 6, index] = True
    hu[..., :3] += np.arange(3)  # no two slices alike
    save(hu, tmp_path / "ct_scans" / "049.nii")
    save(truth, tmp_path / "masks" / "049.nii")
    cases = find_cases(tmp_path)
    volume = read_case(cases[0])
    of_slice = {each.tobytes(): index for index, each in enumerate(volume.hu)}

    def ask(
        hu: NDArray[np.float32], prompt: Prompt, prior: object = None, spacing_mm: object = None
    ) -> Reply:
        mask = answer[..., of_slice[hu.tobytes()]].T
        return Reply(mask, 1.0, np.where(mask, 9, -9).astype(np.float32))

    result = evaluate_data(Predictor("known", lambda *_: [], None, ask), cases)
    assert [each.index for each in result.slices] == [0, 1, 2]
    for each in result.slices:
        masks = answer[..., each.index].T, truth[..., each.index].T > 0
        assert asdict(each.scores) == pytest.approx(by_monai(*masks, (0.4, 0.5), 5.0), abs=1e-5)
    (patient,) = result.patients.values()
    masks = answer.transpose(2, 1, 0), truth.transpose(2, 1, 0) > 0
    wanted = by_monai(*masks, (5.0, 0.4, 0.5), 5.0)
    for name in ("hd95_px", "nsd_px", "rowwise_hausdorff"):
        wanted[name] = np.mean([getattr(each.scores, name) for each in result.slices])
    assert asdict(patient) == pytest.approx(wanted, abs=1e-5)


def by_monai(
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    spacing: tuple[float, ...],
    extent: float,
) -> dict[str, Any]:
    """Every metric, independently of the code under test."""
    first, second = (torch.from_numpy(np.float32(each)[None, None]) for each in (predicted, truth))
    confusion = metrics.get_confusion_matrix(first, second)

    def rate(name: str) -> float:
        return float(metrics.compute_confusion_matrix_metric(name, confusion))

    def distance(unit: Sequence[float]) -> float:
        found = metrics.compute_hausdorff_distance(
            first, second, include_background=True, percentile=95, spacing=list(unit)
        )
        return float(found)

    def surface(unit: Sequence[float], tolerance: float) -> float:
        found = metrics.compute_surface_dice(
            first, second, [tolerance], include_background=True, spacing=list(unit)
        )
        return float(found)

    pixels = [1.0] * predicted.ndim
    voxel_ml = spacing[-1] * spacing[-2] * extent / 1000
    rows = [np.float64(each.reshape(-1, each.shape[-1])) for each in (predicted, truth)]
    apart = directed_hausdorff(*rows)[0], directed_hausdorff(*rows[::-1])[0]
    return {
        "dice": float(metrics.compute_dice(first, second)),
        "iou": float(metrics.compute_iou(first, second)),
        "sensitivity": rate("sensitivity"),
        "specificity": rate("specificity"),
        "hd95_mm": distance(spacing),
        "hd95_px": distance(pixels),
        "nsd_mm": surface(spacing, 1.0),
        "nsd_px": surface(pixels, 2.0),
        "volume_error_ml": (int(predicted.sum()) - int(truth.sum())) * voxel_ml,
        "rowwise_hausdorff": max(apart),
    }


def test_intervals_are_those_of_resampled_patients(cases: list[CaseFiles]) -> None:
    """Each draw takes whole patients: its mean is that of all their slices."""
    dice, patients = [0.1, 0.2, 0.9, 0.6, 0.7], ["a", "a", "b", "c", "c"]
    rng = np.random.default_rng(5)
    of = {name: [d for d, p in zip(dice, patients, strict=True) if p == name] for name in "abc"}
    draws = rng.choice(list("abc"), (4000, 3))
    means = [np.concatenate([of[str(name)] for name in names]).mean() for names in draws]
    found = estimate(dice, patients)
    assert found.mean == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.02)


def test_scans_of_one_patient_count_as_one(cases: list[CaseFiles]) -> None:
    oracle = Oracle(cases).predictor
    again = [replace(case, patient_id=who) for case, who in zip(cases, "aba", strict=True)]
    result = evaluate_data(oracle, again)
    assert (len(result.patients), result.patient_count) == (3, 2)
    assert "3 cases of 2 patients" in markdown(result)
    alone = [replace(case, patient_id=who) for case, who in zip(cases, "aa", strict=False)]
    alone.append(replace(cases[2], patient_id="b"))
    assert np.isfinite(evaluate_data(oracle, alone).by_slice()["dice"][0].low)
    assert np.isnan(evaluate_data(oracle, alone[:1]).by_slice()["dice"][0].low)


def test_only_the_pixels_of_the_worst_slices_are_kept(cases: list[CaseFiles]) -> None:
    """A data set's pixels do not fit into memory; a view would keep its whole volume."""
    result = evaluate_data(Oracle(cases, shift=1).predictor, cases)
    assert len(result.slices) == 6
    assert len(result.worst) == 5
    for each in result.worst:
        base = each.hu.base
        assert base is None or base.nbytes == each.hu.nbytes


def work(*given: object, **options: object) -> None:
    raise AssertionError("the work has begun")


def test_mistyped_options_are_named_before_any_case_is_evaluated(
    cases: list[CaseFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt even before the first case is read; a label once all have been."""
    monkeypatch.setattr(pipeline, "evaluate_data", work)
    asked = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--backend", "cpu"]
    failed = CliRunner().invoke(main, [*asked, "--labels", "1,5"])
    assert (failed.exit_code, "labels 5: in none of the masks" in failed.stderr) == (2, True)
    monkeypatch.setattr(pipeline, "read_checked", work)
    failed = CliRunner().invoke(main, [*asked, "--prompt", "depest"])
    assert (failed.exit_code, "prompt 'depest'" in failed.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_faulty_case_is_named_before_any_is_evaluated(
    cases: list[CaseFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "evaluate_data", work)
    assert cases[-1].mask is not None
    cases[-1].mask.unlink()
    options = ["--data", tmp_path / "data", "--out", tmp_path / "out", "--backend", "cpu"]
    failed = CliRunner().invoke(main, [str(each) for each in options])
    assert failed.exit_code == 2
    assert "051.nii: a scan without a mask" in failed.stderr
    assert not (tmp_path / "out").exists()


def test_a_patient_is_its_volume(cases: list[CaseFiles]) -> None:
    """Each slice has the same error, so the volume's Dice is theirs; false parts add up in mL."""
    result = evaluate_data(Oracle(cases, shift=1).predictor, cases)
    first = result.patients["049"]
    each = result.slices[0].scores
    assert each.dice == pytest.approx(2 / 3)
    assert first.dice == pytest.approx(each.dice)
    assert first.hd95_mm == pytest.approx(0.5)
    assert first.hd95_px == pytest.approx(1.0)


def test_every_lesion_is_asked_for(cases: list[CaseFiles], tmp_path: Path) -> None:
    hu = read_case(cases[0]).hu.transpose(2, 1, 0).astype(np.int16)
    mask = np.zeros(hu.shape, np.uint8)
    mask[6:9, 5:7, 1], mask[13:15, 10:12, 1] = 1, 1
    save(hu, tmp_path / "two" / "ct_scans" / "1.nii")
    save(mask, tmp_path / "two" / "masks" / "1.nii")
    two = find_cases(tmp_path / "two")
    oracle = Oracle(two)
    evaluate_data(oracle.predictor, two)
    assert len(oracle.asked) == 2


def test_corrective_clicks_follow_the_error(cases: list[CaseFiles]) -> None:
    oracle = Oracle(cases, shift=2)
    evaluate_data(oracle.predictor, cases[:1], clicks=3)
    assert [len(prompt.points) for prompt in oracle.asked] == [1, 2, 3, 1, 2, 3]
    assert oracle.spacings == [pytest.approx((0.4, 0.5))] * 6  # as the runtime: oblong pixels
    # The answer before is the prior of the next, as in the runtime; a new prompt has none.
    assert [prior is None for prior in oracle.priors] == [True, False, False] * 2
    hu = read_case(cases[0]).hu[1]
    answer = oracle.ask(hu, Prompt()).logits
    assert all(np.array_equal(oracle.priors[place], answer) for place in (1, 2))  # type: ignore[arg-type]


def test_authors_mask_is_the_sigmoid_first() -> None:
    """Between logits of 9 and -1, half of the logits' way is foreground, of the sigmoids' is not:
    sigmoid(9) = 1.00 and sigmoid(-1) = 0.27 meet 0.5 at 0.68 of the way, the logits 0 at 0.9."""
    logits = np.array([[9.0, -1.0]] * 2, np.float32)
    size = 200  # centres of the two logits lie at 49.5 and 149.5
    mask = authors_mask(logits, size)
    way = (np.arange(size) - 49.5) / 100
    p = 1 / (1 + np.exp(-np.array([9.0, -1.0])))
    wanted = np.clip(way, 0, 1) * (p[1] - p[0]) + p[0] > 0.5
    np.testing.assert_array_equal(mask[0], wanted)
    assert 115 < wanted.sum() < 120


def test_authors_protocol(cases: list[CaseFiles]) -> None:
    """512 pixels, one middle pixel for the whole foreground."""
    asked: list[tuple[tuple[int, ...], Prompt]] = []

    def ask(
        hu: NDArray[np.float32], prompt: Prompt, prior: object = None, spacing_mm: object = None
    ) -> Reply:
        assert spacing_mm is None  # they take any pixel to be square
        asked.append((hu.shape, prompt))
        return Reply(hu > 9999, 1.0, np.full((64, 64), -9, np.float32))

    result = evaluate_data(Predictor("none", lambda *_: [], None, ask), cases, protocol="authors")
    assert {shape for shape, _ in asked} == {(512, 512)}
    for (_, prompt), each in zip(asked, result.worst, strict=False):  # of equal Dice: the first
        pixels = np.argwhere(each.truth)
        row, column = pixels[len(pixels) // 2]
        assert prompt == Prompt(((float(column), float(row)),), (FOREGROUND,))
        assert each.result.scores.dice == 0
    # 20 columns come to 512 pixels: 2 x 3 pixels to 51 x 77, less what bilinear
    # interpolation takes from the four corners.
    assert result.worst[0].truth.sum() == pytest.approx(51.2 * 76.8, rel=0.1)
    distance, _ = result.by_slice()["hd95_mm"]
    assert (distance.count, distance.undefined) == (0, 6)


def test_report_is_whole(cases: list[CaseFiles], tmp_path: Path) -> None:
    result = evaluate_data(Oracle(cases, shift=1).predictor, cases)
    write_data_report(result, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {*FILES, *(f"worst_{rank}.png" for rank in range(1, 6))}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["by_patient"]["dice"]["mean"] == pytest.approx(2 / 3)
    assert (summary["prompt"], summary["clicks"], summary["bleed_free_cases"]) == ("deepest", 1, 0)
    rows = list(csv.DictReader((tmp_path / "out" / "slices.csv").read_text().splitlines()))
    assert len(rows) == 6
    assert float(rows[0]["dice"]) == pytest.approx(2 / 3)
    text = markdown(result)
    assert all(f"| {name} |" in text for name in METRICS)
    assert "Not for clinical use" in text
    with Image.open(tmp_path / "out" / "worst_1.png") as picture:
        assert picture.width > 900


def test_wrong_requests(cases: list[CaseFiles]) -> None:
    with pytest.raises(UsageError, match="takes clicks only"):
        evaluate_data(Predictor("old", lambda *_: [], None), cases)
    with pytest.raises(DataError, match="no case has a hemorrhage"):
        evaluate_data(Oracle(cases).predictor, [])


def test_command_on_the_shipped_bundle(cases: list[CaseFiles], tmp_path: Path) -> None:
    root, out = str(tmp_path / "data"), str(tmp_path / "out")
    done = CliRunner().invoke(main, ["--data", root, "--backend", "cpu", "--out", out])
    assert done.exit_code == 0, done.output
    assert "6 slices with hemorrhage of 3 patients, prompt deepest" in done.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["weights"].keys() == {"bundle_id", "adapters_sha256", "base_sha256"}
    assert summary["data"] == {"layout": "bcihm", "cases": 3, "trained_on": "no"}
    for options, words in (
        (["--data", root], "--data needs --out"),
        (["--data", str(tmp_path / "none"), "--out", out], "no such folder"),
        (["--data", root, "--out", out], "already holds"),
        (["--data", root, "--out", out, "--protocol", "authors", "--clicks", "2"], "leave out"),
    ):
        failed = CliRunner().invoke(main, [*options, "--backend", "cpu"])
        assert failed.exit_code == 2
        assert words in failed.stderr
        assert len(failed.stderr.strip().splitlines()) == 1
