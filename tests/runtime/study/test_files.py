"""Files and folders, honest and not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from samihs_runtime.errors import StudyError
from samihs_runtime.study import list_series, read_study
from tests.runtime.dicom_factory import ct_image, dicomdir, enhanced_ct, pattern, save, write_series

HU = [pattern(k) for k in range(4)]


def test_a_nested_folder_with_other_files_among_the_images(tmp_path: Path) -> None:
    write_series(tmp_path / "a" / "b c" / "d")
    (tmp_path / "a" / "report.txt").write_text("SECRET")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"\0" * 500)
    (tmp_path / "a" / "empty").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    dicomdir(tmp_path, [["NOT", "THERE"]])
    np.testing.assert_array_equal(read_study(tmp_path).hu, HU)


def test_files_without_preamble_or_meta_information(tmp_path: Path) -> None:
    path = tmp_path / "IM0"
    pydicom.dcmwrite(
        path, _bare(ct_image(0)), implicit_vr=True, little_endian=True, enforce_file_format=False
    )
    assert path.read_bytes()[:2] == b"\x08\0"
    np.testing.assert_array_equal(read_study(path).hu[0], HU[0])


def _bare(image: Dataset) -> Dataset:
    del image.file_meta
    return image


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"hello", "notes.txt: no DICOM image; expected CT as DICOM"),
        ("empty.dcm", b"", "empty.dcm: a damaged DICOM file"),
        ("prefix.dcm", b"\0" * 128 + b"DICM", "prefix.dcm: a damaged DICOM file"),
        ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(200), "picture.png: no DICOM image"),
    ],
)
def test_what_is_no_dicom_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError, match=message):
        read_study(tmp_path / name)


def test_nothing_there_and_nothing_in_there(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="nowhere: no such file or folder"):
        read_study(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="empty: no DICOM image among 0 files"):
        list_series(tmp_path / "empty")


@pytest.mark.parametrize("kept", [0, 400, 700])
def test_a_slice_cut_off_before_its_image_is_named(kept: int, tmp_path: Path) -> None:
    """Whatever is left of it: a volume without it would be too small, and nobody would know."""
    write_series(tmp_path)
    whole = (tmp_path / "IM2").read_bytes()
    header = whole.index(b"\x28\x00\x10\x00")  # Rows
    assert kept < header
    (tmp_path / "IM2").write_bytes(whole[:kept])
    series = read_study(tmp_path)
    assert len(series) == 3
    assert any(note == "1 damaged DICOM file left out: IM2" for note in series.notes)


def test_the_series_that_a_run_takes_is_marked(tmp_path: Path) -> None:
    write_series(tmp_path / "soft", SeriesNumber=3, ConvolutionKernel="H31s")
    write_series(
        tmp_path / "bone",
        SeriesNumber=2,
        SeriesInstanceUID="1.2.3.2",
        ConvolutionKernel="H60s",
    )
    rows = list_series(tmp_path)
    assert [(row.number, row.chosen, row.kernel) for row in rows] == [
        (2, False, "sharp"),
        (3, True, "soft"),
    ]
    assert "preferred to 1 other axial series" in rows[1].reason
    chosen = read_study(tmp_path)
    assert chosen.series_uid == rows[1].uid
    assert read_study(tmp_path, series=3).series_uid == rows[1].uid  # a number as such, too


def test_of_two_studies_with_one_number_the_uids_are_told(tmp_path: Path) -> None:
    for name in ("1.2.31", "1.2.32"):
        folder = tmp_path / name
        write_series(folder, SeriesNumber=2, StudyInstanceUID=name, SeriesInstanceUID=f"{name}.5")
    with pytest.raises(StudyError, match=r"several studies.*1\.2\.31\.5.*1\.2\.32\.5"):
        read_study(tmp_path)
    assert not any(row.chosen for row in list_series(tmp_path))
    assert read_study(tmp_path, series="1.2.31.5").series_uid == "1.2.31.5"


def test_a_damaged_file_among_good_ones_is_left_out_and_named(tmp_path: Path) -> None:
    write_series(tmp_path)
    (tmp_path / "broken").write_bytes((tmp_path / "IM0").read_bytes()[:150])
    series = read_study(tmp_path)
    assert len(series) == 4
    assert series.notes == ("1 damaged DICOM file left out: broken",)


@pytest.mark.skipif(sys.platform != "linux", reason="only UTF-8 names are possible")
def test_a_file_whose_name_is_not_utf_8_can_be_named_in_a_report(tmp_path: Path) -> None:
    write_series(tmp_path)
    (tmp_path / os.fsdecode(b"M\xfcller.dcm")).touch()
    series = read_study(tmp_path)
    assert series.notes == ("1 damaged DICOM file left out: M?ller.dcm",)


def test_malformed_values_that_are_not_needed_pass_in_silence(tmp_path: Path) -> None:
    image = ct_image(0)
    path = save(image, tmp_path / "IM0")
    data = path.read_bytes()
    assert b"SECRET-ID" in data
    bad = ct_image(0)
    bad.add_new("StudyDate", "LO", "1999.05.05")
    bad.add_new("PatientAge", "LO", "not an age at all")
    save(bad, path)
    path.write_bytes(path.read_bytes().replace(b"\x08\0\x20\0LO", b"\x08\0\x20\0DA"))
    np.testing.assert_array_equal(read_study(path).hu[0], HU[0])


def test_no_message_or_note_names_the_patient(tmp_path: Path) -> None:
    write_series(tmp_path)
    (tmp_path / "broken").write_bytes((tmp_path / "IM0").read_bytes()[:400])
    series = read_study(tmp_path)
    said = [*series.notes, series.description, str(list_series(tmp_path))]
    with pytest.raises(StudyError) as refusal:
        read_study(tmp_path, series="none")
    assert not any("SECRET" in text for text in [*said, str(refusal.value)])


def test_importing_the_reader_loads_neither_highdicom_nor_torch() -> None:
    program = (
        "import sys, samihs_runtime.study; "
        "sys.exit(bool({'highdicom', 'torch', 'nibabel'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def mutations(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, a stretch cut out or doubled, or the end cut off."""
    changed = bytearray(data)
    at = int(rng.integers(128, len(data)))
    length = int(rng.integers(1, 64))
    match int(rng.integers(4)):
        case 0:
            for k in rng.integers(132, len(data), int(rng.integers(1, 12))):
                changed[k] = int(rng.integers(256))
        case 1:
            del changed[at : at + length]
        case 2:
            changed[at:at] = changed[at - length : at]
        case _:
            del changed[at:]
    return bytes(changed)


@pytest.mark.parametrize("kind", ["classic", "JPEG 2000", "RLE", "enhanced"])
def test_mutated_files_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    image: Any = enhanced_ct([0, 3, 6]) if kind == "enhanced" else ct_image(0, pattern(0, 64, 48))
    if kind in ("JPEG 2000", "RLE"):
        syntax = {"JPEG 2000": "1.2.840.10008.1.2.4.90", "RLE": "1.2.840.10008.1.2.5"}[kind]
        image.compress(syntax, generate_instance_uid=False)
    path = save(image, tmp_path / "IM0")
    original = path.read_bytes()
    rng = np.random.default_rng(7)
    outcomes = set()
    for _ in range(250):
        path.write_bytes(mutations(original, rng))
        try:
            series = read_study(path)
        except StudyError:
            outcomes.add("refused")
        else:
            outcomes.add("read")
            assert np.isfinite(series.hu).all()
            assert np.isfinite(series.extents_mm).all()
    assert outcomes == {"read", "refused"}


def test_pydicoms_log_stays_silent_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = ct_image(0)
    path = save(image, tmp_path / "IM0")
    # A UID that pydicom complains about, quoting it.
    uid = image.SOPInstanceUID.encode()
    path.write_bytes(path.read_bytes().replace(uid, b"SECRET" + uid[6:]))
    read_study(path)
    assert caplog.records == []
