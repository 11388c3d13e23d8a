"""Zips and DICOMDIRs, honest and not."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from samihs_runtime.errors import StudyError
from samihs_runtime.study import list_series, read_study
from tests.runtime.dicom_factory import ct_image, dicomdir, pattern, save, write_series

HU = [pattern(k) for k in range(4)]


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                archive.write(each, each.relative_to(folder))
    return path


def test_a_zip_reads_like_its_folder(tmp_path: Path) -> None:
    path = zipped(write_series(tmp_path / "study"), tmp_path / "study.zip")
    before = sorted(tmp_path.rglob("*"))
    series = read_study(path)
    np.testing.assert_array_equal(series.hu, HU)
    assert series.sources[0].path == path / "IM0"
    assert sorted(tmp_path.rglob("*")) == before  # nothing unpacked
    assert list_series(path)[0].slices == 4


@pytest.mark.parametrize("name", ["../IM0", "/etc/IM0", "a/../../IM0", "C:\\IM0", "..\\IM0"])
def test_zip_paths_that_leave_it_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), save(ct_image(0), tmp_path / "IM0").read_bytes())
    with pytest.raises(StudyError, match=r"evil\.zip: the zip has a member whose path leaves it"):
        read_study(path)


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("IM0")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(StudyError, match="symbolic link"):
        read_study(tmp_path / "link.zip")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = zipped(write_series(tmp_path / "study", 1), tmp_path / "locked.zip")
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(signature) + offset] |= 1  # general purpose flag, bit 0
    path.write_bytes(data)
    with pytest.raises(StudyError, match="encrypted"):
        read_study(path)


@pytest.mark.parametrize(
    ("limit", "amount", "message"),
    [
        ("MAX_ZIP_BYTES", 1000, "its DICOM files expand to more than"),
        ("MAX_ZIP_MEMBER_BYTES", 500, "a DICOM file in it expands to more than"),
        ("MAX_FILES", 3, "more than 3 files"),
    ],
)
def test_zip_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, amount: int, message: str
) -> None:
    path = zipped(write_series(tmp_path / "study"), tmp_path / "study.zip")
    monkeypatch.setattr(f"samihs_runtime.study.files.{limit}", amount)
    with pytest.raises(StudyError, match=message):
        read_study(path)


@pytest.mark.parametrize(
    ("limit", "amount", "message"),
    [("MAX_FILES", 3, "more than 3 files"), ("MAX_FILE_BYTES", 900, "larger than the limit")],
)
def test_folder_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, amount: int, message: str
) -> None:
    write_series(tmp_path)
    monkeypatch.setattr(f"samihs_runtime.study.files.{limit}", amount)
    with pytest.raises(StudyError, match=message):
        read_study(tmp_path)


def test_a_large_file_that_is_no_dicom_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path)
    (tmp_path / "raw.bin").write_bytes(bytes(10_000))
    monkeypatch.setattr("samihs_runtime.study.files.MAX_FILE_BYTES", 9_000)
    assert len(read_study(tmp_path)) == 4


@pytest.mark.parametrize("limit", ["MAX_ZIP_MEMBER_BYTES", "MAX_ZIP_BYTES"])
def test_what_is_no_dicom_does_not_matter_in_a_zip_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    write_series(tmp_path / "study")
    (tmp_path / "study" / "raw.bin").write_bytes(bytes(100_000))
    path = zipped(tmp_path / "study", tmp_path / "study.zip")
    monkeypatch.setattr(f"samihs_runtime.study.files.{limit}", 90_000)
    np.testing.assert_array_equal(read_study(path).hu, HU)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_would_expand_beyond_what_it_states_is_refused(
    tmp_path: Path, method: int
) -> None:
    """zipfile expands these methods before it looks at the size."""
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("IM0", save(ct_image(0), tmp_path / "IM0").read_bytes())
    with pytest.raises(StudyError, match=r"^study\.zip: IM0 is packed neither with Deflate"):
        read_study(path)


@pytest.mark.parametrize("kept", [30, 700, -30])
def test_a_damaged_zip_is_told_as_such(tmp_path: Path, kept: int) -> None:
    """As of a download that was cut off; zipfile knows a zip by its end."""
    path = zipped(write_series(tmp_path / "study"), tmp_path / "study.zip")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StudyError, match=r"^study\.zip: a damaged zip file$"):
        read_study(path)


def test_a_changed_byte_in_a_zip_member_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(save(ct_image(0), tmp_path / "IM0"), "IM0")
    data = bytearray(path.read_bytes())
    pixels = ct_image(0).PixelData
    data[data.find(pixels) + 99] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(StudyError, match=r"^IM0: .* damaged"):
        read_study(path)


def test_a_dicomdir_leads_to_the_files_that_exist(tmp_path: Path) -> None:
    write_series(tmp_path / "images")
    (tmp_path / "images").rename(tmp_path / "IMAGES")
    (tmp_path / "IMAGES" / "IM3").rename(tmp_path / "elsewhere")
    path = dicomdir(tmp_path, [["IMAGES", f"IM{k}"] for k in range(4)])
    series = read_study(path)
    np.testing.assert_array_equal(series.hu, HU[:3])
    assert series.notes == ("1 of the 4 files the DICOMDIR names are missing",)


@pytest.mark.parametrize(
    ("named", "lies"),
    [
        ("IMAGES/IM0", "IMAGES/IM0"),
        ("IMAGES/IM0", "images/im0"),
        ("Images/Im0", "Images/Im0"),
        ("images/im0", "IMAGES/IM0"),
    ],
)
def test_a_dicomdir_finds_its_files_in_any_case(tmp_path: Path, named: str, lies: str) -> None:
    """As it spells them, as the standard does, and as they are often copied."""
    save(ct_image(0), tmp_path / lies)
    assert len(read_study(dicomdir(tmp_path, [named.split("/")]))) == 1


def test_a_dicomdir_never_leaves_its_folder(tmp_path: Path) -> None:
    save(ct_image(0), tmp_path / "IM0")
    path = dicomdir(tmp_path / "disc", [["..", "IM0"]])
    with pytest.raises(StudyError, match="refers to 1 file, none of which is beside it"):
        read_study(path)


def test_pydicoms_real_dicomdir() -> None:
    path = Path(str(get_testdata_file("DICOMDIR")))
    rows = list_series(path)
    assert {row.modality for row in rows} == {"CT", "MR", "CR"} & {row.modality for row in rows}
    assert any(row.kind == "localizer" for row in rows)
    assert sum(row.eligible for row in rows) >= 2
    with pytest.raises(StudyError, match="several studies"):
        read_study(path)
