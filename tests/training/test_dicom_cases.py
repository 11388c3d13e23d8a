"""DICOM exports as archives write them: which SEG belongs to which series, and where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from samihs_runtime.errors import DataError
from samihs_runtime.study import files
from samihs_runtime.writers.seg import build_seg
from samihs_training.data.cases.case import CaseFiles, patients_of
from samihs_training.data.cases.dicom import _labels, _read_seg
from samihs_training.data.cases.finding import find_cases
from samihs_training.data.cases.reading import read_case
from samihs_training.data.phantom import (
    BleedType,
    PhantomOptions,
    PhantomStudy,
    generate_study,
    write_dicom,
)
from tests.runtime.series_factory import make_lesion, make_report, make_series

SLICES = 5


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    options = PhantomOptions(
        matrix=64, slices=SLICES, slice_thickness_mm=8, volume_range_ml=(30, 40),
        bleeds=(BleedType.INTRAPARENCHYMAL,),
    )  # fmt: skip
    return generate_study(5, options)


def other_patient() -> PhantomStudy:
    options = PhantomOptions(
        matrix=64, slices=SLICES, slice_thickness_mm=8, bleeds=(BleedType.EPIDURAL,)
    )
    return generate_study(6, options)


def exported(study: PhantomStudy, root: Path) -> Path:
    """A study as archives export it: a folder for each series, one of them the SEG."""
    write_dicom(study, root / "ct", segmentation=True)
    (root / "seg").mkdir()
    (root / "ct" / "truth_seg.dcm").rename(root / "seg" / "1.dcm")
    return root


def changed(path: Path, **tags: Any) -> pydicom.Dataset:
    """The object in a file, with other tags; None removes one."""
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def other_series(images: Path, out: Path) -> None:
    """The same images as another series of the study, into the folder ``out``."""
    out.mkdir(exist_ok=True)
    series = generate_uid()
    for path in images.glob("IM*.dcm"):
        changed(
            path, SeriesInstanceUID=series, SOPInstanceUID=generate_uid(), SeriesNumber=9
        ).save_as(out / f"other_{path.name}")


def test_series_and_segmentation_may_lie_in_folders_of_their_own(
    study: PhantomStudy, tmp_path: Path
) -> None:
    exported(study, tmp_path / "case")
    (case,) = find_cases(tmp_path)
    assert (case.name, case.layout) == ("case/ct", "dicom")
    assert len(case.files()) == SLICES + 1
    np.testing.assert_array_equal(read_case(case).labels, study.bleeds > 0)


@pytest.mark.parametrize("where", ["thin", "ct"])
def test_the_series_is_the_one_that_was_drawn_on(
    study: PhantomStudy, tmp_path: Path, where: str
) -> None:
    """Also in one folder with it; what else the study holds is no case."""
    exported(study, tmp_path)
    other_series(tmp_path / "ct", tmp_path / where)
    (case,) = find_cases(tmp_path)
    assert case.name == "ct"
    np.testing.assert_array_equal(read_case(case).labels, study.bleeds > 0)


def test_a_segmentation_may_have_a_study_of_its_own(study: PhantomStudy, tmp_path: Path) -> None:
    exported(study, tmp_path)
    path = tmp_path / "seg" / "1.dcm"
    changed(path, StudyInstanceUID=generate_uid()).save_as(path)
    other_series(tmp_path / "ct", tmp_path / "thin")
    (case,) = find_cases(tmp_path)
    np.testing.assert_array_equal(read_case(case).labels, study.bleeds > 0)


def test_two_drawn_series_of_one_folder_are_two_cases(study: PhantomStudy, tmp_path: Path) -> None:
    write_dicom(study, tmp_path / "ct", segmentation=True)
    other_series(tmp_path / "ct", tmp_path / "ct")
    uid = str(pydicom.dcmread(tmp_path / "ct" / "other_IM0001.dcm").SeriesInstanceUID)
    drawn = pydicom.dcmread(tmp_path / "ct" / "truth_seg.dcm")
    drawn.ReferencedSeriesSequence[0].SeriesInstanceUID = uid
    drawn.save_as(tmp_path / "ct" / "other_seg.dcm")
    names = [case.name for case in find_cases(tmp_path)]
    assert len(names) == 2
    assert f"ct/{uid}" in names


def test_a_flat_folder_may_hold_any_number_of_studies(
    study: PhantomStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each case reads its own files, not the whole folder, which has more than a study may have."""
    monkeypatch.setattr(files, "MAX_FILES", SLICES)
    for seed in (5, 6):
        write_dicom(study if seed == 5 else other_patient(), tmp_path / "new", segmentation=True)
        for path in (tmp_path / "new").glob("*.dcm"):
            path.rename(tmp_path / f"{seed}_{path.name}")
    first, second = find_cases(tmp_path)
    assert len(first.files()) == len(second.files()) == SLICES + 1
    volumes = [read_case(first).volume_ml, read_case(second).volume_ml]
    assert sorted(volumes) == pytest.approx(
        sorted([study.volume_ml(), other_patient().volume_ml()])
    )


def test_a_segmentation_that_names_no_series_belongs_to_the_one_beside_it(
    study: PhantomStudy, tmp_path: Path
) -> None:
    write_dicom(study, tmp_path / "case", segmentation=True)
    path = tmp_path / "case" / "truth_seg.dcm"
    changed(path, ReferencedSeriesSequence=None).save_as(path)
    (case,) = find_cases(tmp_path)
    assert case.name == "case"
    path.rename(tmp_path / "seg.dcm")
    (alone,) = find_cases(tmp_path)
    with pytest.raises(DataError, match=r"seg\.dcm: a mask without a scan.*it names none"):
        read_case(alone)


def test_a_turned_segmentation_is_refused(study: PhantomStudy, tmp_path: Path) -> None:
    """Its frames name the right images, but its rows run the other way."""
    exported(study, tmp_path)
    path = tmp_path / "seg" / "1.dcm"
    drawn = pydicom.dcmread(path)
    shared = drawn.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, -1, 0]
    drawn.save_as(path)
    with pytest.raises(DataError, match=r"1\.dcm: a frame lies .* mm from the image"):
        read_case(find_cases(tmp_path)[0])


@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_what_a_segmentation_marks(study: PhantomStudy, tmp_path: Path, kind: str) -> None:
    exported(study, tmp_path)
    images = [pydicom.dcmread(path) for path in sorted((tmp_path / "ct").glob("IM*.dcm"))]
    binary = hd.seg.segread(tmp_path / "seg" / "1.dcm")
    pixels: Any = study.bleeds > 0
    if kind == "FRACTIONAL":  # a halo of low probability about it
        pixels = np.maximum(0.9 * pixels, 0.2)
    made = hd.seg.Segmentation(
        images, pixels.astype(np.float32 if kind == "FRACTIONAL" else np.uint8), kind,
        binary.SegmentSequence, generate_uid(), 100, generate_uid(), 1, "m", "m", "1", "1",
        **({"fractional_type": "PROBABILITY"} if kind == "FRACTIONAL" else {}),
    )  # fmt: skip
    made.save_as(tmp_path / "seg" / "1.dcm")
    (case,) = find_cases(tmp_path)
    np.testing.assert_array_equal(read_case(case).labels, study.bleeds > 0)


def test_frames_of_one_object_are_told_apart(tmp_path: Path) -> None:
    """Enhanced CT: all slices have one SOP instance, and a SEG gives the frame besides."""
    series = make_series(enhanced=True)
    lesion = make_lesion(series, (1, 3))
    build_seg(series, lesion, make_report()).save_as(tmp_path / "seg.dcm")
    path = tmp_path / "seg.dcm"
    labels = _labels(series, *_read_seg(path, ()), path)
    assert np.flatnonzero(labels.any((1, 2))).tolist() == [1, 3]
    for each in lesion.slices:
        np.testing.assert_array_equal(labels[each.index], each.mask)


def cases(*ids: str) -> Iterator[CaseFiles]:
    for number, patient in enumerate(ids):
        yield CaseFiles(str(number), None, None, "dicom", patient)


def test_scans_of_one_patient_are_known_by_their_id(study: PhantomStudy, tmp_path: Path) -> None:
    exported(study, tmp_path)
    assert find_cases(tmp_path)[0].patient_id == "SAMIHS-000005"
    assert patients_of(cases("A", "B", "A", "")) == {"0": "0", "1": "1", "2": "0", "3": "3"}
    assert patients_of(cases("ANON", "ANON")) == {"0": "0", "1": "1"}
