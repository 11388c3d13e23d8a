"""10,000 damaged files: no crash, no hang over 10 s, no memory over 2 GB, no other error."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from tests.runtime.dicom_factory import ct_image, enhanced_ct, pattern, save

from . import mutation_worker

SLOWEST_S, MOST_MB = 10.0, 2048.0
PROCESSES, A_MUTATION_S = 2, 1.0
"""The time limit of a process is far above what reading takes (about 5 ms; 0.2 s on a slow, busy
machine), so that only a hang in native code, which no exception could end, reaches it."""


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    """Good files of every coding that can be made here, and real ones that pydicom carries."""
    folder = tmp_path / "originals"
    save(enhanced_ct([0, 3, 6]), folder / "enhanced")
    save(ct_image(0, pattern(0, 64, 48)), folder / "classic")
    for name, syntax in {"rle": RLELossless, "j2k": JPEG2000Lossless}.items():
        image: Any = ct_image(0, pattern(0, 64, 48))
        image.compress(syntax, generate_instance_uid=False)
        save(image, folder / name)
    deflated = ct_image(0, pattern(0, 64, 48))
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save(deflated, folder / "deflated")
    for name in ("CT_small.dcm", "J2K_pixelrep_mismatch.dcm"):
        (folder / name).write_bytes(_carried(name).read_bytes())
    save(_as_ct(_carried("MR_small_jpeg_ls_lossless.dcm")), folder / "jpeg_ls")
    return folder


def _carried(name: str) -> Path:
    """One of the files that pydicom's package carries."""
    return Path(str(get_testdata_file(name)))


def _as_ct(path: Path) -> Any:
    """Its pixels under a CT's header: no CT in JPEG-LS is carried."""
    source = pydicom.dcmread(path)
    image = ct_image(0, Rows=source.Rows, Columns=source.Columns)
    image.PixelData = source.PixelData
    image["PixelData"].VR = "OB"
    image.PixelRepresentation = source.PixelRepresentation
    image.file_meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
    return image


def run(originals: Path, count: int) -> dict[str, Any]:
    """Mutations 0 to count - 1, in processes side by side; the results added up."""
    bounds = [count * k // PROCESSES for k in range(PROCESSES + 1)]
    workers = [
        subprocess.Popen(
            [sys.executable, mutation_worker.__file__, str(originals), str(first), str(last)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for first, last in itertools.pairwise(bounds)
    ]
    results = []
    for worker in workers:
        output, _ = worker.communicate(timeout=60 + A_MUTATION_S * count)
        assert worker.returncode == 0, f"a reader died (signal or exit {worker.returncode})"
        results.append(json.loads(output))
    added = {key: sum(each[key] for each in results) for key in ("read", "refused")}
    worst = {key: max(each[key] for each in results) for key in ("slowest_s", "peak_mb")}
    return {
        **added,
        **worst,
        "unexpected": [line for each in results for line in each["unexpected"]],
    }


def check(originals: Path, count: int) -> None:
    result = run(originals, count)
    print(result)
    assert result["unexpected"] == []
    assert result["read"] + result["refused"] == count
    assert min(result["read"], result["refused"]) > count / 20  # both ends are reached
    assert result["slowest_s"] < SLOWEST_S
    assert result["peak_mb"] < MOST_MB


def test_damaged_files_are_read_or_refused(originals: Path) -> None:
    check(originals, 400)


@pytest.mark.slow
def test_ten_thousand_damaged_files(originals: Path) -> None:
    check(originals, 10_000)


def test_a_mutation_can_be_made_again_from_its_number(originals: Path) -> None:
    files = [path.read_bytes() for path in sorted(originals.iterdir())]
    assert mutation_worker.mutated(files, 7) == mutation_worker.mutated(files, 7)
    assert mutation_worker.mutated(files, 7) != mutation_worker.mutated(files, 8)
