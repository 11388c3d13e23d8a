"""Which series is read, and what is said about the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from samihs_runtime.errors import SeriesError, StudyError
from samihs_runtime.study import list_series, read_files, read_study
from samihs_runtime.study.kernels import sharpness
from tests.runtime.dicom_factory import (
    AXIAL,
    CT,
    MR,
    PATIENT,
    SECONDARY_CAPTURE,
    ct_image,
    enhanced_ct,
    save,
    uid,
    write_series,
)

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def add(folder: Path, number: int, count: int = 4, **tags: Any) -> str:
    """Another series below `folder`; its UID."""
    own = uid("series", number)
    tags = {"SeriesInstanceUID": own, "SeriesNumber": number, **tags}
    write_series(folder / f"S{number}", count, **tags)
    return own


def add_coronal(folder: Path, number: int) -> str:
    own = uid("series", number)
    for k in range(4):
        image = ct_image(
            k,
            position=(0, 3.0 * k, 0),
            orientation=CORONAL,
            SeriesInstanceUID=own,
            SeriesNumber=number,
            ImageType=["DERIVED", "SECONDARY", "MPR"],
        )
        save(image, folder / f"S{number}" / f"IM{k}")
    return own


LOSERS: dict[str, dict[str, Any]] = {
    "derived": {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"], "count": 9},
    "contrast": {"ContrastBolusAgent": "IOMERON", "count": 9},
    "bone kernel": {"ConvolutionKernel": "H60s", "count": 9},
    "few slices": {"count": 3},
    "fewer slices": {"count": 5},
    "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "count": 9},
    "screenshot": {"SOPClassUID": SECONDARY_CAPTURE, "count": 9},
    "MR": {"SOPClassUID": MR, "Modality": "MR", "count": 9},
    "map": {"ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "RCBF"], "count": 9},
    "no HU": {"RescaleType": "US", "count": 9},
    "mixed kernel by words": {"SeriesDescription": "Head bone thin", "count": 9},
}


@pytest.mark.parametrize("loser", LOSERS.values(), ids=LOSERS.keys())
def test_the_scan_is_preferred(tmp_path: Path, loser: dict[str, Any]) -> None:
    add(tmp_path, 1, **loser)
    scan = add(tmp_path, 2, count=6)
    series = read_study(tmp_path)
    assert series.series_uid == scan
    assert "series 2 'Head' chosen of 2" in series.notes[0]
    assert "--series" in series.notes[0]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "localizer": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
    "screenshot": ({"SOPClassUID": SECONDARY_CAPTURE}, "screenshot"),
    "MR": ({"SOPClassUID": MR, "Modality": "MR"}, "modality MR"),
    "map": ({"ImageType": ["DERIVED", "PRIMARY", "PERFUSION"]}, "perfusion map"),
    "RescaleType": ({"RescaleType": "US"}, "not HU"),
    "no rescale": ({"RescaleSlope": None}, "cannot become HU"),
    "slope 0": ({"RescaleSlope": 0}, "positive number"),
    "no position": ({"ImagePositionPatient": None}, "ImagePositionPatient is missing"),
    "no orientation": ({"ImageOrientationPatient": None}, "ImageOrientationPatient is missing"),
    "no spacing": ({"PixelSpacing": None}, "PixelSpacing is missing"),
    "spacing 0": ({"PixelSpacing": [0, 0.5]}, "not positive"),
    "no unit vectors": ({"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]}, "unit vectors"),
    "skewed": ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "right angles"),
    "colour": ({"SamplesPerPixel": 3}, "colour"),
    "absurd matrix": ({"Rows": 60000}, "Rows is not within 1 to 4096"),
    "several frames": ({"NumberOfFrames": 3}, "several frames"),
    "bits": ({"BitsAllocated": 12}, "BitsAllocated"),
}


@pytest.mark.parametrize(("tags", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_ct_in_hu_is_refused_in_one_line(
    tmp_path: Path, tags: dict[str, Any], reason: str
) -> None:
    path = save(ct_image(0, **tags), tmp_path / "IM0")
    with pytest.raises(StudyError, match=reason) as refusal:
        read_study(path)
    assert "\n" not in str(refusal.value)
    assert PATIENT not in str(refusal.value)
    (summary,) = list_series(path)
    assert not summary.eligible
    assert reason in summary.reason
    with pytest.raises(StudyError, match=reason):
        read_study(path, series="2")


def test_list_shows_every_series_with_its_reason(tmp_path: Path) -> None:
    scan = add(tmp_path, 3)
    add(tmp_path, 1, count=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    add_coronal(tmp_path, 7)
    rows = list_series(tmp_path)
    assert [(r.number, r.kind, r.slices, r.eligible) for r in rows] == [
        (1, "localizer", 1, False),
        (3, "axial", 4, True),
        (7, "coronal", 4, False),
    ]
    assert rows[1].uid == scan
    assert rows[1].modality == "CT"
    assert rows[2].reason == "coronal, not axial"


def test_a_series_can_be_asked_for(tmp_path: Path) -> None:
    first, coronal = add(tmp_path, 1), add_coronal(tmp_path, 12)
    assert read_study(tmp_path, series=first).series_uid == first
    by_number = read_study(tmp_path, series="12")
    assert by_number.series_uid == coronal
    assert any("coronal, not axial" in note for note in by_number.notes)
    unique = next(k for k in range(len(coronal)) if coronal[:k] != first[:k])
    assert read_study(tmp_path, series=coronal[:unique]).series_uid == coronal
    with pytest.raises(StudyError, match="not unique"):
        read_study(tmp_path, series="1.2.826")
    with pytest.raises(StudyError, match="no series '99'; there are series 1 'Head', series 12"):
        read_study(tmp_path, series="99")


def test_a_plain_number_is_no_beginning_of_a_uid(tmp_path: Path) -> None:
    """Every UID here begins with 1: a number that no series has must not read one of them."""
    write_series(tmp_path, SeriesNumber=5)
    with pytest.raises(StudyError, match="no series '1'; there are series 5 'Head'"):
        read_study(tmp_path, series="1")
    assert len(read_study(tmp_path, series="1.2.826")) == 4


@pytest.mark.parametrize("series", [None, "99"])
def test_messages_name_no_patient_that_a_description_names(
    tmp_path: Path, series: str | None
) -> None:
    for number in (1, 2):
        study = uid("study", number)
        described = "Head of SECRET NAME, SECRET-ID"
        add(tmp_path, number, StudyInstanceUID=study, SeriesDescription=described)
    with pytest.raises(StudyError, match=r"series 1 'Head of \[removed\]") as refusal:
        read_study(tmp_path, series=series)
    assert "SECRET" not in str(refusal.value)
    assert "NAME" not in str(refusal.value)


def test_studies_are_not_chosen_between(tmp_path: Path) -> None:
    add(tmp_path, 1, StudyInstanceUID=uid("study", "a"))
    add(tmp_path, 2, count=6, StudyInstanceUID=uid("study", "b"))
    with pytest.raises(StudyError, match="several studies; choose one with --series"):
        read_study(tmp_path)
    assert len(read_study(tmp_path, series="1")) == 4


@pytest.mark.parametrize("series", [None, "2", uid("series", "copied")])
def test_a_uid_that_two_studies_share_is_not_offered(tmp_path: Path, series: str | None) -> None:
    """As after a copy that gave only the study a new UID."""
    shared = uid("series", "copied")
    for name in ("a", "b"):
        study = uid("study", name)
        write_series(tmp_path / name, SeriesInstanceUID=shared, StudyInstanceUID=study)
    with pytest.raises(SeriesError, match=r"same UID in several studies.*point STUDY") as refusal:
        read_study(tmp_path, series=series)
    assert shared not in str(refusal.value)
    assert len(read_study(tmp_path / "a", series=series)) == 4


def test_a_localizer_within_the_series_is_left_out(tmp_path: Path) -> None:
    write_series(tmp_path)
    scout = ct_image(9, orientation=CORONAL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    save(scout, tmp_path / "scout")
    series = read_study(tmp_path)
    assert len(series) == 4
    assert any("1 image of the same series left out: a localizer" in n for n in series.notes)


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        ({"ContrastBolusAgent": "IOMERON"}, "contrast agent"),
        ({"ConvolutionKernel": "BONE"}, "sharp kernel"),
        ({"BodyPartExamined": "CHEST"}, "BodyPartExamined is CHEST"),
        ({"LossyImageCompression": "01"}, "lossy compression"),
        ({"SliceThickness": None}, "thickness unknown"),
        ({"RescaleIntercept": 0}, "no air"),
    ],
)
def test_what_the_model_was_not_made_for_is_noted(
    tmp_path: Path, tags: dict[str, Any], note: str
) -> None:
    series = read_study(save(ct_image(0, **tags), tmp_path / "IM0"))
    assert any(note in n for n in series.notes)


def test_copies_count_once(tmp_path: Path) -> None:
    """In the list, and where the series with the most slices is chosen."""
    copied = add(tmp_path, 1)
    write_series(tmp_path / "again", 4, SeriesInstanceUID=copied, SeriesNumber=1)
    scan = add(tmp_path, 2, 6)
    one, other = list_series(tmp_path)
    assert (one.slices, other.slices) == (4, 6)
    assert one.reason == "axial CT in HU; 4 more images at the same places"
    assert other.chosen
    assert read_study(tmp_path).series_uid == scan
    assert len(read_study(tmp_path, series="1")) == 4


def test_an_ordinary_series_needs_no_note(tmp_path: Path) -> None:
    assert read_study(write_series(tmp_path, ConvolutionKernel="H31s")).notes == ()


MIXED: dict[str, tuple[Any, str]] = {
    "orientations": (ct_image(9, orientation=(-1, 0, 0, 0, 1, 0)), "different orientations"),
    "frames of reference": (ct_image(9, FrameOfReferenceUID=uid("x")), "frames of reference"),
    "matrix": (ct_image(9, Rows=6, PixelData=bytes(120)), "matrix size"),
}


@pytest.mark.parametrize(("other", "reason"), MIXED.values(), ids=MIXED.keys())
def test_mixed_series_are_refused(tmp_path: Path, other: Any, reason: str) -> None:
    save(other, write_series(tmp_path) / "other")
    with pytest.raises(StudyError, match=reason):
        read_study(tmp_path)


def test_enhanced_ct_is_refused_where_it_is_a_map_or_its_groups_are_wrong(tmp_path: Path) -> None:
    image = enhanced_ct([0, 3, 6])
    rescale = image.PerFrameFunctionalGroupsSequence[1].PixelValueTransformationSequence[0]
    rescale.RescaleType = "US"
    with pytest.raises(StudyError, match=r"not HU \(RescaleType US\)"):
        read_study(save(image, tmp_path / "map"))
    with pytest.raises(StudyError, match="4 frames, but functional groups for 3"):
        read_study(save(enhanced_ct([0, 3, 6], NumberOfFrames=4), tmp_path / "short"))


@pytest.mark.parametrize(
    ("kernel", "description", "expected"),
    [
        *[(k, "", "soft") for k in ("H31s", "J40s", "Hr38h", "STANDARD", "STD+", "UB", "FC21")],
        *[(k, "", "sharp") for k in ("H60s", "B70f", "BONE", "BONEPLUS", "FC30", "FC81")],
        *[(k, "", "unknown") for k in ("", "XYZ", "H50s", "FC99")],
        ("", "Brain 5 mm", "soft"),
        ("", "Head BONE 1.0", "sharp"),
    ],
)
def test_kernels(kernel: str, description: str, expected: str) -> None:
    assert sharpness(kernel, description) == expected


def test_of_several_values_the_first_is_the_kernel(tmp_path: Path) -> None:
    image = ct_image(0, ConvolutionKernel=["STANDARD", "3"])
    (row,) = list_series(save(image, tmp_path / "IM0"))
    assert row.kernel == "soft"


def test_the_factory_makes_what_the_tests_say() -> None:
    image = ct_image(0)
    assert (image.SOPClassUID, tuple(image.ImageOrientationPatient)) == (CT, AXIAL)


def test_only_the_files_that_are_given_are_read(tmp_path: Path) -> None:
    first, second = add(tmp_path, 1), add(tmp_path, 2, 6)
    given = sorted((tmp_path / "S1").iterdir())
    series = read_files(given)
    assert (series.series_uid, len(series)) == (first, 4)
    assert [source.path for source in series.sources] == given
    both = [*given, *(tmp_path / "S2").iterdir()]
    assert read_files(both, series=first).series_uid == first
    assert read_files(both).series_uid == second  # of several, the one with the most slices
    with pytest.raises(StudyError, match="no files"):
        read_files([])
    with pytest.raises(StudyError, match="missing: cannot be read"):
        read_files([tmp_path / "missing"])
