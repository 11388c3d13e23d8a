"""samihs-phantom: one-line errors, nothing half-written, no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from samihs_training.data.phantom.cli import main

SMALL = ["--matrix", "128", "--slices", "3", "--thickness", "5"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_it_writes_a_series_and_its_truth(tmp_path: Path) -> None:
    out = tmp_path / "study"
    result = run(out, "--seed", "7", "--bleed", "subdural", "--volume", "30-40", *SMALL)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == [
        "IM0001.dcm",
        "IM0002.dcm",
        "IM0003.dcm",
        "truth.json",
    ]
    assert json.loads((out / "truth.json").read_text())["seed"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


def test_a_volume_that_the_slices_do_not_hold_is_said(tmp_path: Path) -> None:
    options = ["--bleed", "intraparenchymal", "--matrix", "128", "--slices", "2"]
    result = run(tmp_path / "much", *options, "--volume", "150")
    assert "150.0" in result.output
    assert "asked" in result.output
    result = run(tmp_path / "little", *options, "--thickness", "20", "--volume", "20")
    assert "asked" not in result.output


def test_several_studies_in_both_formats(tmp_path: Path) -> None:
    result = run(
        tmp_path, "--count", "2", "--format", "both", "--seg", "--bleed", "epidural", *SMALL
    )
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed_000000", "seed_000001"]
    for folder in tmp_path.iterdir():
        assert (folder / "dicom" / "IM0003.dcm").is_file()
        assert (folder / "nifti" / "mask_epidural.nii.gz").is_file()


def test_overwrite_replaces_our_files_and_leaves_others(tmp_path: Path) -> None:
    assert run(tmp_path, *SMALL).exit_code == 0
    (tmp_path / "notes.txt").write_text("mine")
    assert run(tmp_path, "--overwrite", "--matrix", "128", "--slices", "2").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "IM0001.dcm",
        "IM0002.dcm",
        "notes.txt",
        "truth.json",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--volume", "much"], "--volume much"),
        (["--volume", "9-3"], "volume_range_ml"),
        (["--volume", "9", "--bleed", "none"], "--volume has no effect with --bleed none"),
        (["--seg", "--format", "nifti"], "--seg is DICOM"),
        (["--slices", "0"], "slices"),
        (["--tilt", "80"], "tilt_deg"),
        (["--count", "0"], "--count"),
        (["--seed", "-1"], "--seed"),
        (["--bleed", "none", "--bleed", "subdural"], "none and random"),
        (["--bleed", "nosebleed"], "nosebleed"),
        (["--thickness", "0"], "slice_thickness_mm"),
    ],
)
def test_bad_options_exit_2_and_write_nothing(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run(tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "patient.dcm").write_text("precious")
    result = run(tmp_path, *SMALL)
    assert result.exit_code == 2
    assert "--overwrite" in result.output
    assert result.output.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["patient.dcm"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("precious")
    for out in (target, target / "below"):
        result = run(out, *SMALL)
        assert result.exit_code == 2
        assert "file" in result.output
    assert target.read_text() == "precious"


def test_no_torch_is_loaded() -> None:
    code = "import sys, samihs_training.data.phantom.cli; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.strip() == "False"
