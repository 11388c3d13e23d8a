"""Files, folders, zips and DICOMDIRs, honest and not."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from samihs_runtime.errors import StudyError
from samihs_runtime.study import list_series, read_study

from .dicom_factory import ct_image, enhanced_ct, pattern, save, write_series

HU = [pattern(k) for k in range(4)]


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                archive.write(each, each.relative_to(folder))
    return path


def dicomdir(folder: Path, files: list[list[str]]) -> Path:
    directory = Dataset()
    directory.DirectoryRecordSequence = []
    for parts in files:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of "..", which is the point
            record.ReferencedFileID = parts
        directory.DirectoryRecordSequence.append(record)
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return save(directory, folder / "DICOMDIR")


def test_a_nested_folder_with_other_files_among_the_images(tmp_path: Path) -> None:
    write_series(tmp_path / "a" / "b c" / "d")
    (tmp_path / "a" / "report.txt").write_text("SECRET")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"\0" * 500)
    (tmp_path / "a" / "empty").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    dicomdir(tmp_path, [["NOT", "THERE"]])
    np.testing.assert_array_equal(read_study(tmp_path).hu, HU)


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
        ("MAX_ZIP_BYTES", 1000, "expands to more than"),
        ("MAX_ZIP_MEMBER_BYTES", 500, "member expands to more than"),
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


@pytest.mark.parametrize("kept", [30, 700, -30])
def test_a_damaged_zip_is_one_line(tmp_path: Path, kept: int) -> None:
    path = zipped(write_series(tmp_path / "study"), tmp_path / "study.zip")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StudyError, match=r"^study\.zip: "):
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
    with pytest.raises(StudyError, match="refers to 1 files, none of which is beside it"):
        read_study(path)


def test_pydicoms_real_dicomdir() -> None:
    path = Path(str(get_testdata_file("DICOMDIR")))
    rows = list_series(path)
    assert {row.modality for row in rows} == {"CT", "MR", "CR"} & {row.modality for row in rows}
    assert any(row.kind == "localizer" for row in rows)
    assert sum(row.eligible for row in rows) >= 2
    with pytest.raises(StudyError, match="several studies"):
        read_study(path)


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
    assert any(note == "1 damaged DICOM files were left out: IM2" for note in series.notes)


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
    assert series.notes == ("1 damaged DICOM files were left out: broken",)


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As permissions would, which do not bind root: what has one of these names does not open."""
    opens, lists = Path.open, os.scandir

    def refuse(path: str | Path) -> None:
        if Path(path).name in names:
            raise PermissionError(13, "Permission denied", str(path))

    def open_(path: Path, *args: Any, **options: Any) -> Any:
        refuse(path)
        return opens(path, *args, **options)

    def scandir(path: str) -> Any:
        refuse(path)
        return lists(path)

    monkeypatch.setattr(Path, "open", open_)
    monkeypatch.setattr(os, "scandir", scandir)


def test_files_that_may_not_be_read_are_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last slices among them: no gap shows that they are missing."""
    write_series(tmp_path, 6)
    write_series(tmp_path / "more", 2)
    forbid(monkeypatch, "IM4", "IM5", "more")
    series = read_study(tmp_path)
    assert len(series) == 4
    assert series.notes == ("3 files or folders could not be read (permissions): IM4, IM5, more",)


def test_where_no_file_may_be_read_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_series(tmp_path / "study", 5)
    (study / "notes.txt").write_text("hello")
    forbid(monkeypatch, *(f"IM{k}" for k in range(5)))
    unread = r"5 files or folders could not be read \(permissions\): IM0, IM1, IM2"
    with pytest.raises(StudyError, match=f"study: no DICOM image among 6 files; {unread}; expect"):
        read_study(study)
    forbid(monkeypatch, "study")
    with pytest.raises(StudyError, match=r"no DICOM image; 1 files or folders .*: study; "):
        list_series(study)


def test_a_folder_that_may_be_listed_but_not_entered_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path)
    stats = Path.stat

    def stat(path: Path, **options: Any) -> os.stat_result:
        if path.name == "IM3":
            raise PermissionError(13, "Permission denied", str(path))
        return stats(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert read_study(tmp_path).notes == (
        "1 files or folders could not be read (permissions): IM3",
    )


def lock(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As a folder that may not be entered: what lies in it cannot even be asked for."""
    stats = Path.stat

    def stat(path: Path, **options: Any) -> os.stat_result:
        if folder in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stats(path, **options)

    monkeypatch.setattr(Path, "stat", stat)


@pytest.mark.parametrize("read", [read_study, list_series])
@pytest.mark.parametrize("name", ["", "IM0", "nowhere"])
def test_a_study_behind_a_locked_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], name: str
) -> None:
    path = write_series(tmp_path / "locked" / "study") / name
    lock(monkeypatch, tmp_path / "locked")
    with pytest.raises(StudyError, match=rf"^{path.name}: cannot be read \(Permission denied\)$"):
        read(path)


def test_a_study_below_a_file_or_with_an_impossible_name_is_refused(tmp_path: Path) -> None:
    save(ct_image(0), tmp_path / "IM0")
    with pytest.raises(StudyError, match=r"^IM1: no such file or folder$"):
        read_study(tmp_path / "IM0" / "IM1")
    with pytest.raises(StudyError, match="cannot be read"):
        read_study(tmp_path / "a\0b")


def test_a_folder_of_a_dicomdir_that_is_locked_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path, 3)
    save(ct_image(3), tmp_path / "LOCKED" / "IM3")
    path = dicomdir(tmp_path, [*([f"IM{k}"] for k in range(3)), ["LOCKED", "IM3"]])
    lock(monkeypatch, tmp_path / "LOCKED")
    assert read_study(path).notes == ("1 files or folders could not be read (permissions): IM3",)


def test_a_file_of_a_dicomdir_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path)
    path = dicomdir(tmp_path, [[f"IM{k}"] for k in range(4)])
    forbid(monkeypatch, "IM3")
    assert read_study(path).notes == ("1 files or folders could not be read (permissions): IM3",)


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
