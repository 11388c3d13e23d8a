"""Order, gaps, tilt, duplicates: where each slice of a series ends up."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from samihs_runtime.errors import StudyError
from samihs_runtime.study import read_study
from tests.runtime.dicom_factory import PATIENT, ct_image, enhanced_ct, pattern, save, write_series


def test_slices_ascend_along_the_normal_whatever_their_names_and_numbers(tmp_path: Path) -> None:
    for k in (2, 0, 3, 1):
        save(ct_image(k, InstanceNumber=10 - k), tmp_path / f"{'bdac'[k]}.dcm")
    series = read_study(tmp_path)
    assert [p.position[2] for p in series.planes] == [0, 5, 10, 15]
    np.testing.assert_array_equal(series.hu, [pattern(k) for k in range(4)])
    assert [s.header.InstanceNumber for s in series.sources] == [10, 9, 8, 7]
    assert [s.path.name for s in series.sources] == ["b.dcm", "d.dcm", "a.dcm", "c.dcm"]


def test_a_head_seen_from_above_ascends_along_its_own_normal(tmp_path: Path) -> None:
    # Right-left flipped rows: the normal points to the feet, so slices run downwards.
    for k in range(3):
        save(ct_image(k, orientation=(-1, 0, 0, 0, 1, 0)), tmp_path / f"IM{k}")
    series = read_study(tmp_path)
    assert [p.position[2] for p in series.planes] == [10, 5, 0]
    np.testing.assert_allclose(series.planes[0].normal, [0, 0, -1])
    np.testing.assert_array_equal(series.hu[0], pattern(2))


def test_sources_keep_the_header_without_pixels(tmp_path: Path) -> None:
    source = read_study(save(ct_image(0), tmp_path / "IM0")).sources[0]
    assert source.header.PatientName == PATIENT  # writers need it
    assert "PixelData" not in source.header
    assert source.frame is None
    assert source.sop_instance_uid == source.header.SOPInstanceUID


def test_a_tilted_stack_keeps_its_shear_and_its_true_distances(tmp_path: Path) -> None:
    angle = math.radians(20)
    orientation = (1, 0, 0, 0, math.cos(angle), -math.sin(angle))
    for k in range(4):
        image = ct_image(k, orientation=orientation, GantryDetectorTilt=20)
        save(image, tmp_path / f"IM{k}")
    series = read_study(tmp_path)
    step = 5 * math.cos(angle)
    np.testing.assert_allclose(series.extents_mm[1:3], step)
    np.testing.assert_allclose(series.extents_mm[0], step / 2 + 2.5)
    assert series.notes == ("gantry tilt of 20.0 degrees: slices keep their sheared places",)


def test_a_tilt_that_only_the_header_knows_is_not_followed(tmp_path: Path) -> None:
    series = read_study(write_series(tmp_path, GantryDetectorTilt=15))
    np.testing.assert_allclose(series.extents_mm, 5)
    assert "header states a gantry tilt of 15.0" in series.notes[0]


def test_a_header_without_a_tilt_is_not_said_to_state_one(tmp_path: Path) -> None:
    angle = math.radians(20)
    orientation = (1, 0, 0, 0, math.cos(angle), -math.sin(angle))
    assert read_study(write_series(tmp_path / "absent", orientation=orientation)).notes == (
        "gantry tilt of 20.0 degrees: slices keep their sheared places",
    )
    stated = write_series(tmp_path / "zero", orientation=orientation, GantryDetectorTilt=0)
    assert "the header states a gantry tilt of 0.0 degrees" in read_study(stated).notes[1]


def test_uneven_gaps_give_each_slice_its_own_extent(tmp_path: Path) -> None:
    for k, (height, thickness) in enumerate([(0, 4), (4, 4), (8, 4), (15, 7), (22, 7)]):
        image = ct_image(k, position=(0, 0, height), thickness=thickness)
        save(image, tmp_path / f"IM{k}")
    series = read_study(tmp_path)
    np.testing.assert_allclose(series.extents_mm, [4, 4, 5.5, 7, 7])
    assert "2 x 4.00 mm, 2 x 7.00 mm" in series.notes[0]
    assert not any("missing" in note for note in series.notes)


def test_missing_slices_are_said(tmp_path: Path) -> None:
    write_series(tmp_path, 8)
    (tmp_path / "IM3").unlink()
    (tmp_path / "IM4").unlink()
    notes = " ".join(read_study(tmp_path).notes)
    assert "about 2 slices missing: 1 gap of up to 15.00 mm" in notes


def test_copies_of_a_file_are_left_out(tmp_path: Path) -> None:
    write_series(tmp_path)
    save(ct_image(1), tmp_path / "again" / "IM1")
    series = read_study(tmp_path)
    assert len(series) == 4
    assert series.notes == ("1 slice identical to another at the same place: left out",)


def test_the_same_image_under_two_uids_is_read_once(tmp_path: Path) -> None:
    write_series(tmp_path)
    save(ct_image(1, SOPInstanceUID="1.2.3"), tmp_path / "again")
    series = read_study(tmp_path)
    assert len(series) == 4
    assert series.notes == ("1 slice identical to another at the same place: left out",)


def test_two_images_at_one_place_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path)
    save(ct_image(1, pattern(3), SOPInstanceUID="1.2.3"), tmp_path / "other")
    with pytest.raises(StudyError, match="different image lies at the same place"):
        read_study(tmp_path)


@pytest.mark.parametrize("uid", ["1.2.3", None])
def test_two_images_at_one_place_are_no_copies_whatever_their_uids(
    tmp_path: Path, uid: str | None
) -> None:
    """As in exports whose anonymization left UIDs out, or gave one to both phases of a scan."""
    for name, hu in (("one", pattern(1)), ("other", pattern(3))):
        image = ct_image(1, hu, SOPInstanceUID="1.2.3")
        if uid is None:
            del image.SOPInstanceUID
        image.save_as(tmp_path / name)
    with pytest.raises(StudyError, match="different image lies at the same place"):
        read_study(tmp_path)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SOPInstanceUID"])
def test_uids_that_no_archive_takes_are_said(tmp_path: Path, keyword: str) -> None:
    long = f"1.2.{'3' * 61}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of the UID, which is the point
        path = save(ct_image(0, **{keyword: long}), tmp_path / "IM0")
    assert read_study(path).notes == (
        f"{keyword} longer than the 64 characters that DICOM allows: DICOM results refer to "
        "replacements, which nothing matches with these images; give the images valid UIDs first",
    )


def test_an_image_without_uid_has_that_of_its_meta_information(tmp_path: Path) -> None:
    image = ct_image(1, SOPInstanceUID="1.2.3")
    del image.SOPInstanceUID
    image.save_as(tmp_path / "one")
    assert read_study(tmp_path).sources[0].sop_instance_uid == "1.2.3"


def test_a_single_slice_takes_its_thickness_not_the_spacing(tmp_path: Path) -> None:
    image = ct_image(0, SpacingBetweenSlices=20)  # as CQ500 has it: 5 mm thick, 20 mm apart
    assert read_study(save(image, tmp_path / "IM0")).extents_mm.tolist() == [5]
    image = ct_image(0, SpacingBetweenSlices=4, thickness=None)
    assert read_study(save(image, tmp_path / "IM1")).extents_mm.tolist() == [4]


def test_enhanced_frames_are_ordered_and_rescaled_one_by_one(tmp_path: Path) -> None:
    series = read_study(save(enhanced_ct([6, 0, 3]), tmp_path / "enhanced.dcm"))
    assert [s.frame for s in series.sources] == [2, 3, 1]
    assert [p.position[2] for p in series.planes] == [0, 3, 6]
    np.testing.assert_array_equal(series.hu, [pattern(1), pattern(2), pattern(0)])
    np.testing.assert_allclose(series.extents_mm, 3)


def test_anisotropic_pixels_keep_rows_and_columns_apart(tmp_path: Path) -> None:
    series = read_study(save(ct_image(0, spacing=(0.4, 0.6)), tmp_path / "IM0"))
    assert series.planes[0].spacing == (0.4, 0.6)
    np.testing.assert_allclose(series.planes[0].to_patient(1, 0), [0.6, 0, 0])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("spacing", "noted"),
    [((0.5, 0.5), False), ((0.5, 0.52), False), ((0.5, 0.53), True), ((0.6, 0.5), True)],
)
def test_oblong_pixels_are_said(
    tmp_path: Path, count: int, spacing: tuple[float, float], noted: bool
) -> None:
    notes = read_study(write_series(tmp_path, count, spacing=spacing)).notes
    rows, columns = spacing
    expected = (
        f"pixels of {rows:g} mm between rows and {columns:g} mm between columns: the model sees "
        "them resampled to square ones; masks keep the stored pixels"
    )
    assert notes == ((expected,) if noted else ())


def test_progress_counts_slices(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    read_study(write_series(tmp_path), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
