"""What a DICOM SEG takes from its sources, mended if need be: patient, study, UIDs, text, loss."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage

from samihs_runtime.deidentify import deidentified
from samihs_runtime.lossy import LossyCompression
from samihs_runtime.study import read_study
from samihs_runtime.uids import new_uid
from samihs_runtime.writers.capture import build_capture
from samihs_runtime.writers.seg import build_seg
from samihs_runtime.writers.seg_source import decimals
from tests.runtime.dicom_factory import write_series
from tests.runtime.series_factory import PLANTED, make_lesion, make_report, make_series

from .seg_file import written

LONG = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


def test_patient_and_study_are_the_sources(tmp_path: Path) -> None:
    series = make_series()
    dataset = pydicom.dcmread(written(series, make_lesion(series), tmp_path))
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyID"):
        assert dataset[keyword].value == PLANTED[keyword]
    header = series.sources[0].header
    assert dataset.StudyInstanceUID == header.StudyInstanceUID
    assert dataset.FrameOfReferenceUID == header.FrameOfReferenceUID
    assert dataset.SeriesInstanceUID != header.SeriesInstanceUID
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == header.SeriesInstanceUID


def test_what_a_source_lacks_is_filled_on_a_copy(tmp_path: Path) -> None:
    missing = dict.fromkeys(
        ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID",
         "AccessionNumber", "ReferringPhysicianName", "StudyTime", "FrameOfReferenceUID")
    )  # fmt: skip
    series = make_series(**missing, StudyDate="1999.05.05")
    before = [source.header.to_json() for source in series.sources]
    dataset = pydicom.dcmread(written(series, make_lesion(series), tmp_path))
    assert dataset.StudyDate == "19990505"
    assert not dataset.PatientName
    assert not dataset.PatientID
    assert dataset.FrameOfReferenceUID
    assert [source.header.to_json() for source in series.sources] == before


def test_objects_of_one_series_share_the_uids_that_it_lacks() -> None:
    series = make_series(StudyInstanceUID=None, FrameOfReferenceUID=None)
    lesions = (make_lesion(series, (1, 2)), make_lesion(series, (3,)))
    made = [build_seg(series, lesion, make_report()) for lesion in lesions]
    picture = np.zeros((8, 8, 3), np.uint8)
    made.append(build_capture(series, lesions[1], make_report(), picture))
    studies = {each.StudyInstanceUID for each in made}
    frames = {each.FrameOfReferenceUID for each in made[:2]}  # a picture has none
    assert len(studies) == len(frames) == len(studies ^ frames) / 2 == 1
    for other in (replace(series, series_uid="1.2.3"), deidentified(series)):
        assert build_seg(other, lesions[0], make_report()).StudyInstanceUID not in studies


def test_a_study_of_two_uids_has_one() -> None:
    """As a backslash in the UID produces."""
    series = make_series(StudyInstanceUID=["1.2.3", "4.5"])
    uid = build_seg(series, make_lesion(series), make_report()).StudyInstanceUID
    assert isinstance(uid, str)
    assert uid.startswith("2.25.")


def _uids(dataset: Any) -> set[str]:
    return {str(each.value) for each in dataset.iterall() if each.VR == "UI"}


def test_no_uid_is_longer_than_an_archive_has_to_take(tmp_path: Path) -> None:
    """Each has a replacement, whichever object names it; those that are valid stay."""
    long = {name: f"1.2.{number}{'3' * 64}" for number, name in enumerate(LONG)}
    referenced = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of the UIDs, which are the point
        referenced.ReferencedSOPInstanceUID = long["StudyInstanceUID"]
        folder = write_series(tmp_path / "study", 1, ReferencedStudySequence=[referenced], **long)
    series = read_study(folder)
    lesion = make_lesion(series, (0,), centre=(5, 5))
    seg = pydicom.dcmread(written(series, lesion, tmp_path))
    capture = build_capture(series, lesion, make_report(), np.zeros((8, 8, 3), np.uint8))
    assert max(map(len, _uids(seg) | _uids(capture))) <= 64
    study = new_uid(long["StudyInstanceUID"])
    assert seg.StudyInstanceUID == capture.StudyInstanceUID == study
    assert seg.ReferencedStudySequence[0].ReferencedSOPInstanceUID == study
    assert seg.FrameOfReferenceUID == new_uid(long["FrameOfReferenceUID"])
    (source,) = seg.ReferencedSeriesSequence
    assert source.SeriesInstanceUID == new_uid(long["SeriesInstanceUID"])
    (instance,) = source.ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == new_uid(long["SOPInstanceUID"])
    assert instance.ReferencedSOPClassUID == CTImageStorage


@pytest.mark.parametrize("deidentify", [False, True])
def test_no_uid_is_empty_or_anothers_if_a_series_has_none_at_all(deidentify: bool) -> None:
    made = []
    for hu in (40, 50):
        series = make_series(StudyInstanceUID=None, FrameOfReferenceUID=None)
        series.hu[0] = hu
        sources = tuple(replace(source, sop_instance_uid="") for source in series.sources)
        series = replace(series, series_uid="", sources=sources)
        lesion = make_lesion(series)
        series = deidentified(series) if deidentify else series
        made.append(build_seg(series, lesion, make_report()))
    one, other = ({str(each.value) for each in seg.iterall() if each.VR == "UI"} for seg in made)
    assert "" not in one
    assert len({each.ReferencedSOPInstanceUID for each in made[0].SourceImageSequence}) == 3
    assert not {each for each in one & other if each.startswith("2.25.")}


@pytest.mark.parametrize(
    ("character_set", "name", "words"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "頭部"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", "두부"),
        ("ISO_IR 100", "Buc^Jérôme", "tête"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小东", "头部"),
        ("ISO 2022 IR 100", "Doe^Jane", "head"),
        ("ISO_IR 6", "Doe^Jane", "head"),
        ("", "Doe^Jane", "head"),
        (None, "Doe^Jane", "head"),
    ],
)
def test_text_is_what_it_was_in_any_character_set(
    character_set: str | list[str] | None, name: str, words: str, tmp_path: Path
) -> None:
    """Those of Japan and Korea, and those that highdicom takes for wrong; in sequences, too."""
    procedure = Dataset()
    procedure.CodeMeaning = words
    tags = {"PatientName": name, "StudyDescription": words, "ProcedureCodeSequence": [procedure]}
    write_series(tmp_path / "study", 1, SpecificCharacterSet=character_set, **tags)
    series = read_study(tmp_path / "study")
    dataset = pydicom.dcmread(written(series, make_lesion(series, (0,), centre=(5, 5)), tmp_path))
    assert dataset.PatientName == name
    assert dataset.StudyDescription == words
    assert dataset.ProcedureCodeSequence[0].CodeMeaning == words


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientBirthDate", "19470000"),
        ("PatientBirthDate", "00000000"),
        ("StudyDate", "20230229"),
        ("StudyTime", "256060"),
        ("StudyTime", "1061"),
    ],
)
def test_dates_and_times_that_cannot_be_are_left_empty(
    keyword: str, value: str, tmp_path: Path
) -> None:
    series = make_series(**{keyword: value})
    dataset = pydicom.dcmread(written(series, make_lesion(series), tmp_path))
    assert dataset[keyword].value == ""


def test_what_cannot_be_converted_is_left_behind(tmp_path: Path) -> None:
    series = make_series()
    size = Tag("PatientSize")
    for source in series.sources:
        source.header._dict[size] = RawDataElement(size, "US", 1, b"x", 0, False, True)
    dataset = pydicom.dcmread(written(series, make_lesion(series), tmp_path))
    assert "PatientSize" not in dataset
    assert dataset.PatientID == PLANTED["PatientID"]


JPEG = LossyCompression("JPEG", methods=("ISO_10918_1",), ratios=(12.5,))


def test_once_lossy_always_lossy(tmp_path: Path) -> None:
    """The header of one slice of three says nothing of it, the others' that there was no loss."""
    series = make_series(lossy={3: JPEG})
    seg = pydicom.dcmread(written(series, make_lesion(series), tmp_path))
    assert seg.LossyImageCompression == "01"
    assert seg.LossyImageCompressionMethod == "ISO_10918_1"
    assert seg.LossyImageCompressionRatio == 12.5
    hidden = pydicom.dcmread(written(deidentified(series), make_lesion(series), tmp_path))
    assert hidden.LossyImageCompression == "01"
    elsewhere = make_series(lossy={0: JPEG})
    seg = pydicom.dcmread(written(elsewhere, make_lesion(elsewhere), tmp_path))
    assert seg.LossyImageCompression == "00"


def test_of_a_loss_only_what_is_known_is_said(tmp_path: Path) -> None:
    series = make_series(lossy={2: LossyCompression("method not stated")})
    seg = pydicom.dcmread(written(series, make_lesion(series), tmp_path))
    assert seg.LossyImageCompression == "01"
    assert "LossyImageCompressionMethod" not in seg
    assert "LossyImageCompressionRatio" not in seg


@pytest.mark.parametrize("value", [0.1, -123.5404569, 1 / 3, -1e-17, 12345678.123456789, 5.0])
def test_decimal_strings_fit_and_are_exact_where_they_can_be(value: float) -> None:
    (text,) = decimals([value])
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, rel=1e-9, abs=1e-12)
    if len(repr(value)) <= 16:
        assert float(text) == value


@pytest.mark.parametrize("name", ["Zzyzxova^Quirine\\Zzyzxova^Ottoline", "\\Ottoline"])
def test_of_a_name_with_a_backslash_the_first_value_is_taken(name: str, tmp_path: Path) -> None:
    series = make_series(PatientName=name, ReferringPhysicianName=name)
    dataset = pydicom.dcmread(written(series, make_lesion(series), tmp_path))
    assert dataset.PatientName == dataset.ReferringPhysicianName == name.split("\\")[0]
