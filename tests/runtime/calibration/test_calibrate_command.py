"""``samihs-calibrate`` as its user runs it: heads on disk, a bundle, exit codes and files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from samihs_runtime.calibration.cli import main
from samihs_runtime.calibration.result import Calibration, refused_by_evaluation
from samihs_training.data.phantom import BleedType, PhantomOptions, generate_study, write_dicom

pytestmark = pytest.mark.filterwarnings(
    # Click's runner leaves its captured streams to the garbage collector.
    "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two phantoms without hemorrhage."""
    folders = []
    for seed in (3, 4):
        options = PhantomOptions(matrix=128, slices=6, slice_thickness_mm=10.0, bleeds=())
        folders.append(tmp_path_factory.mktemp("head"))
        write_dicom(generate_study(seed, options), folders[-1])
    return folders


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def test_shares_a_threshold_and_every_click(
    heads: list[Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run(*heads, "--bundle", tiny_bundle, "--out", out, "--slices", 2, "--clicks", 6)
    assert result.exit_code == 0, result.output
    found = summary(out)
    assert (found["studies"], found["clicks"], found["left_out"]) == (2, 24, [])
    with (out / "clicks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    accepted = [row for row in rows if row["accepted"] == "1"]
    share = found["accepted"]
    assert share["all"]["mean"] == pytest.approx(len(accepted) / 24)
    assert (share["anywhere"]["clicks"], share["bright"]["clicks"]) == (12, 12)
    threshold = found["score_threshold"]
    assert all(
        (row["possible"] == "1" and float(row["score"]) >= threshold) == (row in accepted)
        for row in rows
    )
    again = tmp_path / "again"
    suggested = found["suggested_threshold"]
    options = ("--bundle", tiny_bundle, "--slices", 2, "--clicks", 6)
    assert run(*heads, *options, "--out", again, "--score-threshold", suggested).exit_code == 0
    assert summary(again)["score_threshold"] == suggested
    assert summary(again)["accepted"] == found["accepted_at_suggested"]
    assert summary(again)["accepted"]["all"]["mean"] <= 0.05
    assert "few clicks or studies" in result.output


def test_accepted_clicks_are_shown(tiny_bundle: Path, tmp_path: Path) -> None:
    """As when a head was said to be without hemorrhage, and is not."""
    bleed = (BleedType.INTRAPARENCHYMAL,)
    study = PhantomOptions(
        matrix=128, slices=6, slice_thickness_mm=10.0, bleeds=bleed, volume_range_ml=(60.0, 80.0)
    )
    head, out = tmp_path / "head", tmp_path / "out"
    write_dicom(generate_study(3, study), head)
    options = ("--bundle", tiny_bundle, "--out", out, "--slices", 3, "--clicks", 8)
    assert run(head, *options, "--score-threshold", 0).exit_code == 0
    assert summary(out)["accepted"]["all"]["mean"] > 0
    with Image.open(out / "accepted.png") as page:
        assert page.width > 1000
    assert run(head, *options, "--score-threshold", 1, "--overwrite").exit_code == 0
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


def test_no_file_tells_which_patient_it_was(
    heads: list[Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    named = tmp_path / "Doe^Jane"
    named.symlink_to(heads[0])
    out = tmp_path / "out"
    options = ("--bundle", tiny_bundle, "--out", out, "--slices", 1, "--clicks", 2)
    assert run(named, tmp_path / "Roe^Rick", *options).exit_code == 0
    for path in out.iterdir():
        assert b"Doe" not in path.read_bytes()
        assert b"Roe" not in path.read_bytes()


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
    ]
}


def test_what_a_threshold_refuses_is_taken_from_the_bundles_evaluation() -> None:
    result = Calibration("a 1", "id", "cpu", 0.5, 0.05, (), refused_by_evaluation(EVALUATED))
    assert [result.refuses(each) for each in (0.0, 0.25, 0.5, 0.65)] == pytest.approx(
        [0.0, 0.05, 0.1, 0.25]
    )
    assert result.refuses(0.9) is None


@pytest.mark.parametrize(
    "accuracy", [{}, {"by_threshold": 3}, {"by_threshold": [{"score_threshold": 0.1}]}]
)
def test_an_evaluation_without_thresholds_tells_nothing(accuracy: dict[str, Any]) -> None:
    assert refused_by_evaluation(accuracy) == {}
    assert Calibration("a 1", "id", "cpu", 0.5, 0.05, ()).refuses(0.5) is None


def test_the_price_of_the_suggested_threshold_is_said(
    heads: list[Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    options = ("--bundle", tiny_bundle, "--slices", 1, "--clicks", 2)
    plain = run(heads[0], *options, "--out", tmp_path / "plain")
    assert "A higher threshold also refuses more hemorrhages" in plain.output
    manifest = tiny_bundle / "manifest.json"
    written = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**written, "accuracy": EVALUATED}))
    known = run(heads[0], *options, "--out", tmp_path / "known")
    assert "10% are refused at 0.500" in " ".join(known.output.split())
