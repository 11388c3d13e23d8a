"""What is written, opened by programs that share no code with it; skipped where not installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from samihs_runtime.measurement import measure
from samihs_runtime.segmentation import Lesion
from samihs_runtime.series import CTSeries
from samihs_runtime.writers import WriteOptions, write_outputs
from tests.runtime.series_factory import make_lesion, make_report, make_series, not_found

SERIES: dict[str, dict[str, Any]] = {
    "even": {},
    "tilted, uneven": {
        "positions": (0, 4, 8, 9.08, 16.08, 23.08),
        "thickness": [4, 4, 4, 7, 7, 7],
        "tilt_deg": 18.5,
    },
    "enhanced": {"enhanced": True},
    "no thickness": {"positions": (0, 5, 10, 16, 22), "thickness": None},
    "bare headers": {"PatientName": None, "StudyDate": "2024.01.02", "PatientSex": "?"},
}
OPTIONS = {
    "plain": WriteOptions(),
    "fractional": WriteOptions(fractional=True),
    "de-identified": WriteOptions(deidentify=True),
}


def tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} (Debian: {package}) is not installed")
    return path


def written(series: CTSeries, lesion: Lesion, out: Path, options: WriteOptions) -> dict[str, Path]:
    formats = ("seg", "capture", "overlay")
    measurement = measure(series, lesion)
    return write_outputs(series, lesion, measurement, make_report(), out, formats, options)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("changes", SERIES.values(), ids=SERIES.keys())
@pytest.mark.parametrize("found", [True, False], ids=["found", "not found"])
def test_dciodvfy_finds_no_error(
    changes: dict[str, Any], options: WriteOptions, found: bool, tmp_path: Path
) -> None:
    """David Clunie's validator, against the standard's modules."""
    dciodvfy = tool("dciodvfy", "dicom3tools")
    series = make_series(**changes)
    lesion = make_lesion(series) if found else not_found()
    for name, path in written(series, lesion, tmp_path / "out", options).items():
        if name.endswith(".dcm"):
            done = subprocess.run([dciodvfy, "-new", path], capture_output=True, text=True)
            said = (done.stdout + done.stderr).splitlines()
            assert [line for line in said if line.startswith("Error")] == [], name


def test_dcmtk_shows_the_same_picture(tmp_path: Path) -> None:
    dcmj2pnm = tool("dcmj2pnm", "dcmtk")
    series = make_series()
    files = written(series, make_lesion(series), tmp_path / "out", WriteOptions())
    target = tmp_path / "shown.png"
    subprocess.run([dcmj2pnm, "+on", files["contact-sheet.dcm"], target], check=True)
    with Image.open(target) as shown, Image.open(files["contact-sheet.png"]) as meant:
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(meant))
