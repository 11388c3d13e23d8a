"""``samihs-calibrate`` as its user runs it: heads on disk, a bundle, exit codes and files."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pydicom
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from samihs_runtime.answering import answer_prompt
from samihs_runtime.calibration import result as result_module
from samihs_runtime.calibration import trials
from samihs_runtime.calibration.cli import main
from samihs_runtime.calibration.normal_clicks import Sampling
from samihs_runtime.calibration.result import Calibration, refused_by_evaluation
from samihs_runtime.errors import NonFiniteError
from samihs_training.data.phantom import BleedType, PhantomOptions, generate_study, write_dicom

pytestmark = pytest.mark.filterwarnings(
    # Click's runner leaves its captured streams to the garbage collector.
    "ignore::ResourceWarning"
)


def written(folder: Path, seed: int, bleeds: tuple[BleedType, ...] = ()) -> Path:
    """A small phantom study; with hemorrhage, as when a head was said to have none, and has."""
    options = PhantomOptions(
        matrix=128,
        slices=6,
        slice_thickness_mm=10.0,
        bleeds=bleeds,
        volume_range_ml=(60.0, 80.0),
        artefacts=False,
    )
    write_dicom(generate_study(seed, options), folder)
    return folder


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two phantoms without hemorrhage."""
    return [written(tmp_path_factory.mktemp("head"), seed) for seed in (3, 4)]


@pytest.fixture(scope="module")
def bled(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two phantoms with a large one, which the tiny model accepts where it is clicked."""
    bleed = (BleedType.INTRAPARENCHYMAL,)
    return [written(tmp_path_factory.mktemp("bled"), seed, bleed) for seed in (8, 12)]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def test_shares_a_threshold_and_every_click(
    bled: list[Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--bundle", tiny_bundle, "--slices", 3, "--clicks", 8, "--share", 0.1)
    result = run(*bled, *options, "--out", out)
    assert result.exit_code == 0, result.output
    found = summary(out)
    clicks = found["clicks"]
    assert (found["studies"], found["left_out"]) == (2, [])
    assert found["options"] == {"slices": 3, "clicks": 8, "seed": 0}
    with (out / "clicks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == clicks == 48
    accepted = [row for row in rows if row["accepted"] == "1"]
    share, threshold = found["accepted"], found["score_threshold"]
    assert share["all"]["mean"] == pytest.approx(len(accepted) / clicks)
    assert share["all"]["mean"] > 0.1
    assert (share["anywhere"]["clicks"], share["bright"]["clicks"]) == (24, 24)
    assert share["bright"]["mean"] > share["anywhere"]["mean"]
    assert sum(each["accepted"] for each in found["accepted_by_study"]) == len(accepted)
    assert all(
        (row["possible"] == "1" and float(row["score"]) >= threshold) == (row in accepted)
        for row in rows
    )
    suggested = found["suggested_threshold"]
    assert suggested > threshold
    assert f"suggested: --score-threshold {suggested:.3f}" in result.output
    again = tmp_path / "again"
    assert run(*bled, *options, "--out", again, "--score-threshold", suggested).exit_code == 0
    assert summary(again)["score_threshold"] == suggested
    reached = {name: each["mean"] for name, each in summary(again)["accepted"].items()}
    assert reached == found["accepted_at_suggested"]
    assert reached["all"] <= 0.1
    assert "few studies" in result.output
    assert found["provisional"] is True
    assert f"--score-threshold {suggested:.3f} (provisional" in " ".join(result.output.split())


def test_few_clicks_do_not_prove_that_a_threshold_accepts_few_enough(
    heads: list[Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    """A lower one would accept few enough, too; but the bundle's was chosen on hemorrhages."""
    options = ("--bundle", tiny_bundle, "--slices", 1, "--clicks", 6, "--out", tmp_path / "out")
    result = run(*heads, *options)
    said = " ".join(result.output.split())
    assert "nothing need be changed" not in said
    assert re.search(r"these are too few to tell; up to \d+% is possible", said)
    found = summary(tmp_path / "out")
    assert found["suggested_threshold"] == found["bundle_threshold"]


def test_many_clicks_do(
    heads: list[Path], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_module, "FEW_STUDIES", 2)
    options = ("--bundle", tiny_bundle, "--slices", 1, "--clicks", 6, "--share", 0.3)
    result = run(*heads, *options, "--out", tmp_path / "out")  # of twelve clicks, up to 27 %
    assert "nothing need be changed" in " ".join(result.output.split())
    assert summary(tmp_path / "out")["provisional"] is False


def test_accepted_clicks_are_shown(bled: list[Path], tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--bundle", tiny_bundle, "--out", out, "--slices", 3, "--clicks", 8)
    assert run(bled[0], *options).exit_code == 0
    with Image.open(out / "accepted.png") as page:
        assert page.width > 1000
    assert run(bled[0], *options, "--score-threshold", 1, "--overwrite").exit_code == 0
    assert summary(out)["accepted"]["all"]["mean"] == 0
    assert not (out / "accepted.png").exists()


def test_a_study_that_is_no_head_is_left_out_and_said(
    heads: list[Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    options = ("--bundle", tiny_bundle, "--slices", 1, "--clicks", 2)
    result = run(tmp_path / "empty", heads[0], *options, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "study 1" in result.output
    found = summary(tmp_path / "out")
    assert found["studies"] == 1
    assert found["left_out"] == [1]
    with (tmp_path / "out" / "clicks.csv").open() as file:
        assert {row["study"] for row in csv.DictReader(file)} == {"2"}
    nothing = run(tmp_path / "empty", *options, "--out", tmp_path / "none")
    assert nothing.exit_code == 2
    assert "none of the studies" in nothing.stderr
    assert not (tmp_path / "none").exists()


def test_no_text_file_tells_which_patient_it_was(
    bled: list[Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    named, out = tmp_path / "Doe^Jane", tmp_path / "out"
    shutil.copytree(bled[0], named)
    for path in named.glob("*.dcm"):
        image = pydicom.dcmread(path)
        image.PatientName, image.StudyDescription = "Poe^Ann", "Coe"
        image.save_as(path)
    options = ("--bundle", tiny_bundle, "--out", out, "--slices", 2, "--clicks", 6)
    assert run(named, tmp_path / "Roe^Rick", *options).exit_code == 0
    texts = [path.read_text() for path in out.iterdir() if path.suffix != ".png"]
    assert len(texts) == 2
    uid = str(pydicom.dcmread(next(named.glob("*.dcm"))).SeriesInstanceUID)
    assert not [name for name in ("Doe", "Roe", "Poe", "Coe", uid) if name in "".join(texts)]


def test_the_same_series_given_twice_counts_once(
    heads: list[Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--bundle", tiny_bundle, "--slices", 1, "--clicks", 2, "--out", out)
    result = run(heads[0], heads[1], heads[0], *options)
    assert "the same series as study 1" in " ".join(result.output.split())
    assert (summary(out)["studies"], summary(out)["left_out"]) == (2, [3])


def test_what_is_odd_about_a_study_is_said(
    heads: list[Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    """Contrast agent; and a skull that is open, as after a craniectomy, on nearly all slices."""
    odd = tmp_path / "odd"
    shutil.copytree(heads[0], odd)
    for number, path in enumerate(sorted(odd.glob("*.dcm"))):
        image = pydicom.dcmread(path)
        image.ContrastBolusAgent = "Iohexol"
        if number not in (2, 3):
            pixels = image.pixel_array.copy()
            pixels[:, :64] = pixels.min()
            image.PixelData = pixels.tobytes()
        image.save_as(path)
    options = ("--bundle", tiny_bundle, "--slices", 1, "--clicks", 2, "--out", tmp_path / "out")
    said = " ".join(run(odd, *options).output.split())
    assert "study 1: a contrast agent is recorded" in said
    assert "of 6 slices show brain within a closed skull" in said


def test_a_share_that_is_no_number_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    result = run(tmp_path, "--bundle", tiny_bundle, "--share", "nan", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "--share nan" in result.stderr


def test_an_answer_that_is_not_finite_leaves_its_study_out(
    heads: list[Path], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def faulty(*arguments: Any) -> Any:
        asked.append(len(asked))
        if len(asked) == 2:
            raise NonFiniteError("not finite")
        return answer_prompt(*arguments)

    monkeypatch.setattr(trials, "answer_prompt", faulty)
    out = tmp_path / "out"
    options = ("--bundle", tiny_bundle, "--slices", 1, "--clicks", 4, "--out", out)
    assert run(*heads, *options).exit_code == 0
    assert summary(out)["left_out"] == [1]
    assert summary(out)["clicks"] == 4


def test_an_earlier_result_is_kept_unless_told(
    heads: list[Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    options = (heads[0], "--bundle", tiny_bundle, "--out", tmp_path, "--slices", 1, "--clicks", 2)
    assert run(*options).exit_code == 0
    again = run(*options)
    assert again.exit_code == 2
    assert "already holds" in again.stderr
    assert run(*options, "--overwrite").exit_code == 0


EVALUATED = {
    "by_threshold": [
        {"score_threshold": 0.0, "wrong_rejects_from_1_ml": 0.0, "accepted_elsewhere": 1.0},
        {"score_threshold": 0.5, "wrong_rejects_from_1_ml": 0.1, "accepted_elsewhere": 0.2},
        {"score_threshold": 0.8, "wrong_rejects_from_1_ml": 0.4, "accepted_elsewhere": 0.1},
        {"score_threshold": 1.0, "wrong_rejects_from_1_ml": 1.0, "accepted_elsewhere": 0.0},
    ]
}


def test_what_a_threshold_refuses_is_taken_from_the_bundles_evaluation() -> None:
    result = Calibration(
        "a 1", "id", "cpu", 0.5, 0.5, 0.05, Sampling(), (), refused_by_evaluation(EVALUATED)
    )
    assert [result.refuses(each) for each in (0.0, 0.25, 0.5, 0.65)] == pytest.approx(
        [0.0, 0.05, 0.1, 0.25]
    )
    assert result.refuses(1.1) is None


@pytest.mark.parametrize(
    "accuracy", [{}, {"by_threshold": 3}, {"by_threshold": [{"score_threshold": 0.1}]}]
)
def test_an_evaluation_without_thresholds_tells_nothing(accuracy: dict[str, Any]) -> None:
    assert refused_by_evaluation(accuracy) == {}
    assert Calibration("a 1", "id", "cpu", 0.5, 0.5, 0.05, Sampling(), ()).refuses(0.5) is None


def test_the_price_of_the_suggested_threshold_is_said(
    bled: list[Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    options = ("--bundle", tiny_bundle, "--slices", 3, "--clicks", 8)
    plain = run(bled[0], *options, "--out", tmp_path / "plain")
    assert "A higher threshold also refuses more hemorrhages" in plain.output
    manifest = tiny_bundle / "manifest.json"
    old = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**old, "accuracy": EVALUATED}))
    known = run(bled[0], *options, "--out", tmp_path / "known")
    assert "10% are refused at 0.500" in " ".join(known.output.split())
