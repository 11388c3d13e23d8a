"""Secondary Capture: a picture in the patient's study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from samihs_runtime.deidentify import deidentified
from samihs_runtime.lossy import LossyCompression
from samihs_runtime.measurement import measure
from samihs_runtime.segmentation import Lesion
from samihs_runtime.series import CTSeries
from samihs_runtime.writers.capture import write_capture
from samihs_runtime.writers.contact_sheet import contact_sheet
from samihs_runtime.writers.seg import build_seg
from tests.runtime.series_factory import make_lesion, make_report, make_series, not_found


def written(series: CTSeries, lesion: Lesion, folder: Path) -> Any:
    path = folder / "capture.dcm"
    write_capture(series, lesion, measure(series, lesion), make_report(), path)
    return pydicom.dcmread(path)


def test_it_holds_the_contact_sheet_pixel_by_pixel(tmp_path: Path) -> None:
    series = make_series()
    lesion = make_lesion(series)
    capture = written(series, lesion, tmp_path)
    sheet = contact_sheet(series, lesion, measure(series, lesion), make_report())
    np.testing.assert_array_equal(capture.pixel_array, np.asarray(sheet))
    assert capture.SOPClassUID == SecondaryCaptureImageStorage
    assert capture.PhotometricInterpretation == "RGB"


def test_it_belongs_to_the_patient_and_the_study(tmp_path: Path) -> None:
    series = make_series()
    capture = written(series, make_lesion(series), tmp_path)
    assert str(capture.PatientName) == "Zzyzxova^Quirine^Ottoline"
    assert capture.StudyInstanceUID == series.sources[0].header.StudyInstanceUID
    assert capture.SeriesInstanceUID != series.series_uid
    assert "not for clinical use" in capture.DerivationDescription


MODULES = {
    "IssuerOfPatientID": "HOSPITAL-A",
    "PatientAge": "076Y",
    "StudyDescription": "CT HEAD WITHOUT",
    "ClinicalTrialSponsorName": "Sponsor",
}


def test_it_has_the_patient_and_study_modules_as_the_seg_has(tmp_path: Path) -> None:
    series = make_series(**MODULES)
    lesion = make_lesion(series)
    capture = written(series, lesion, tmp_path)
    seg = build_seg(series, lesion, make_report())
    for keyword, value in MODULES.items():
        assert capture[keyword].value == seg[keyword].value == value
    bare = written(deidentified(series), lesion, tmp_path)
    assert not [keyword for keyword in MODULES if keyword in bare]


@pytest.mark.parametrize("lesion_of", [lambda s: make_lesion(s, (2,)), lambda s: not_found()])
def test_one_slice_or_none_gives_the_clicked_slice(lesion_of: Any, tmp_path: Path) -> None:
    series = make_series()
    assert written(series, lesion_of(series), tmp_path).pixel_array.shape[2] == 3


def test_once_lossy_always_lossy(tmp_path: Path) -> None:
    """Of any slice in the picture, not of the clicked one alone."""
    jpeg = LossyCompression("JPEG", methods=("ISO_10918_1",), ratios=(12.5,))
    series = make_series(lossy={3: jpeg})
    capture = written(series, make_lesion(series, (1, 2, 3), clicked=1), tmp_path)
    assert capture.LossyImageCompression == "01"
    assert capture.LossyImageCompressionMethod == "ISO_10918_1"
    assert capture.LossyImageCompressionRatio == 12.5
    clean = make_series(lossy={0: jpeg})
    assert "LossyImageCompression" not in written(clean, make_lesion(clean), tmp_path)


def test_what_the_scanner_burnt_in_stays_said(tmp_path: Path) -> None:
    burnt = make_series(BurnedInAnnotation="YES")
    assert written(burnt, make_lesion(burnt), tmp_path).BurnedInAnnotation == "YES"
    clean = make_series()
    assert written(clean, make_lesion(clean), tmp_path).BurnedInAnnotation == "NO"


def test_what_is_burnt_into_any_slice_shown_is_said(tmp_path: Path) -> None:
    series = make_series(BurnedInAnnotation="NO")
    series.sources[3].header.BurnedInAnnotation = "YES"
    lesion = make_lesion(series, (1, 2, 3), clicked=1)
    assert written(series, lesion, tmp_path).BurnedInAnnotation == "YES"
    beside = make_lesion(series, (1, 2), clicked=1)
    assert written(series, beside, tmp_path).BurnedInAnnotation == "NO"


def test_a_deidentified_one_says_so(tmp_path: Path) -> None:
    series = make_series()
    capture = written(deidentified(series), make_lesion(series), tmp_path)
    assert capture.PatientIdentityRemoved == "YES"
    assert str(capture.PatientName) == ""


@pytest.mark.parametrize(
    ("row", "column", "expected"),
    [
        ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), ["L", "P"]),
        ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), ["R", "P"]),
        ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), ["R", "A"]),
        ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), ["L", "F"]),
        ((0.0, 1.0, 0.0), (0.0, 0.3, -0.954), ["P", "F"]),
    ],
    ids=["supine", "rows to the right", "prone", "coronal", "sagittal, tilted"],
)
def test_its_orientation_is_the_clicked_slices(
    row: tuple[float, float, float],
    column: tuple[float, float, float],
    expected: list[str],
    tmp_path: Path,
) -> None:
    series = make_series()
    turned = tuple(
        replace(each, row_direction=row, column_direction=column) for each in series.planes
    )
    capture = written(replace(series, planes=turned), not_found(), tmp_path)
    assert list(capture.PatientOrientation) == expected


def test_flaws_of_the_source_do_not_stop_it(tmp_path: Path) -> None:
    series = make_series(
        SpecificCharacterSet=["", "ISO 2022 IR 87"],
        PatientName="Yamada^Tarou=山田^太郎\\Yamada^T",
        PatientBirthDate="19470000",
        StudyTime="256060",
    )
    capture = written(series, make_lesion(series), tmp_path)
    assert capture.PatientName == "Yamada^Tarou=山田^太郎"
    assert capture.PatientBirthDate == capture.StudyTime == ""
