"""Measurement against bodies whose numbers are known, and against slow references."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_runtime.lossy import LossyCompression
from samihs_runtime.measurement import measure
from samihs_runtime.segmentation import Lesion, Prompt, SliceMask
from samihs_runtime.series import CTSeries

from .series_factory import make_lesion, make_series, not_found


def lesion_of(masks: dict[int, NDArray[np.bool_]]) -> Lesion:
    prompt = Prompt(((0.0, 0.0),), (1,))
    slices = tuple(SliceMask(z, mask, 0.9, "propagated", prompt) for z, mask in masks.items())
    return Lesion(True, 0.9, next(iter(masks)), slices)


def disc(series: CTSeries, diameter_mm: float) -> NDArray[np.bool_]:
    rows, columns = series.shape
    row_mm, column_mm = series.planes[0].spacing
    y, x = np.mgrid[:rows, :columns]
    away = np.hypot((y - rows / 2) * row_mm, (x - columns / 2) * column_mm)
    return np.asarray(away < diameter_mm / 2)


def test_volume_is_area_times_each_slices_own_extent() -> None:
    """GE's tilted series in small: 4 mm gaps, 1.08 once, 7 mm; extents 4, 2.54 and 4.04 mm."""
    series = make_series(
        (0, 4, 8, 9.08, 16.08), thickness=[4, 4, 4, 7, 7], tilt_deg=18.5, spacing=(0.5, 0.4)
    )
    measured = measure(series, make_lesion(series, (1, 2, 3), size=(8, 6)))
    area = 8 * 6 * 0.5 * 0.4
    assert measured.volume_ml == pytest.approx(area * (4 + 2.54 + 4.04) / 1000)
    assert [each.extent_mm for each in measured.slices] == pytest.approx([4, 2.54, 4.04])
    assert measured.height_mm == pytest.approx(10.58)
    assert any("unevenly spaced" in note and "2.54 to 4.04" in note for note in measured.notes)


@pytest.mark.parametrize("diameter", [9.0, 17.0, 24.0])
def test_a_discs_diameter_and_width_are_its_diameter(diameter: float) -> None:
    """Anisotropic pixels; within one pixel, as an outline of pixels can be."""
    series = make_series(spacing=(0.5, 0.4))
    (one,) = measure(series, lesion_of({2: disc(series, diameter)})).slices
    assert one.diameter_mm == pytest.approx(diameter, abs=0.5)
    assert one.width_mm == pytest.approx(diameter, abs=0.5)
    assert one.area_mm2 == pytest.approx(np.pi * diameter**2 / 4, rel=0.03)


def test_a_row_of_pixels_measures_as_many_pixels() -> None:
    series = make_series(spacing=(0.7, 0.4))
    mask = np.zeros(series.shape, dtype=bool)
    mask[5, 10:21] = True
    (one,) = measure(series, lesion_of({2: mask})).slices
    assert one.diameter_mm == pytest.approx(11 * 0.4)
    assert one.width_mm == pytest.approx(0.7)


def test_diameter_agrees_with_every_pair_of_outline_points() -> None:
    """The hull is a shortcut: all pairs of edge midpoints are the reference."""
    series = make_series(shape=(24, 24), spacing=(0.6, 0.45))
    mask = np.random.default_rng(5).random((24, 24)) < 0.06
    points = [
        ((x + dx) * 0.45, (y + dy) * 0.6)
        for y, x in np.argwhere(mask)
        for dx, dy in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))
    ]
    slow = max(np.hypot(a - c, b - d) for (a, b), (c, d) in itertools.combinations(points, 2))
    assert measure(series, lesion_of({2: mask})).largest_diameter_mm == pytest.approx(slow)


def test_abc2_counts_slices_by_their_share_of_the_largest_area() -> None:
    """Shares 1, 0.8, 0.5, 0.2 count whole, whole, half and not at all: C = 2.5 x 5 mm."""
    series = make_series()
    masks = {}
    for z, rows in zip((1, 2, 3, 4), (20, 16, 10, 4), strict=True):
        masks[z] = np.zeros(series.shape, dtype=bool)
        masks[z][10 : 10 + rows, 12:22] = True
    measured = measure(series, lesion_of(masks))
    assert measured.abc_mm is not None
    a, b, c = measured.abc_mm
    assert c == pytest.approx(12.5)
    assert measured.abc2_ml == pytest.approx(a * b * c / 2 / 1000)
    assert a == pytest.approx(measured.slices[0].diameter_mm)


def test_a_ball_is_near_its_formula() -> None:
    """A ball of 20 mm in 1 mm slices: volume 4.19 mL, one part. ABC/2 counts 11 slices whole and 6
    half, 14 mm of the 20, and so gives 2.8 mL."""
    series = make_series(tuple(float(z) for z in range(25)), thickness=1.0)
    masks = {}
    for z in range(2, 23):
        squared = 10.0**2 - (z - 12) ** 2
        if squared > 0:
            masks[z] = disc(series, 2 * float(np.sqrt(squared)))
    measured = measure(series, lesion_of(masks))
    assert measured.volume_ml == pytest.approx(4 / 3 * np.pi, rel=0.02)
    assert measured.abc2_ml == pytest.approx(2.8, rel=0.08)
    assert measured.parts == 1
    assert measured.notes == ()


def test_parts_are_connected_through_corners_and_cut_by_an_empty_slice() -> None:
    series = make_series()
    masks = {z: np.zeros(series.shape, dtype=bool) for z in (0, 1, 3)}
    masks[0][10:14, 10:14] = True
    masks[1][14:16, 14:16] = True  # touches the first at one corner
    masks[1][40:42, 40:42] = True
    masks[3][14:16, 14:16] = True  # slice 2 is empty
    measured = measure(series, lesion_of(masks))
    pixel = 0.25 * 5 / 1000
    assert measured.parts_ml == pytest.approx((20 * pixel, 4 * pixel, 4 * pixel))
    assert sum(measured.parts_ml) == pytest.approx(measured.volume_ml)
    assert any("no mask on slice 2 between" in note for note in measured.notes)


def test_hu_is_weighted_by_voxel_volume() -> None:
    series = make_series((0, 2, 4, 12, 20), thickness=2.0)  # extents 2, 2, 5, 8, 5
    lesion = make_lesion(series, (1, 3))
    mask = lesion.slices[0].mask
    series.hu[1][mask], series.hu[3][mask] = 50, 80
    measured = measure(series, lesion)
    mean = (50 * 2 + 80 * 8) / 10
    assert measured.mean_hu == pytest.approx(mean)
    assert measured.sd_hu == pytest.approx(np.sqrt(0.2 * (50 - mean) ** 2 + 0.8 * (80 - mean) ** 2))


def test_entries_of_one_slice_are_united() -> None:
    series = make_series()
    once, shifted = make_lesion(series, (2,)), make_lesion(series, (2,), centre=(32, 26))
    both = Lesion(True, 0.9, 2, (*once.slices, *shifted.slices))
    assert measure(series, both).slices[0].area_mm2 == pytest.approx(10 * 6 * 0.25)


def test_nothing_found_measures_nothing() -> None:
    measured = measure(make_series(), not_found())
    assert measured.volume_ml == 0
    assert measured.abc2_ml is measured.mean_hu is measured.largest_diameter_mm is None
    assert measured.slices == measured.parts_ml == measured.notes == ()


@pytest.mark.parametrize(
    ("changes", "indices", "size", "note"),
    [
        ({"positions": (0.0,)}, (0,), (8, 6), "one slice only"),
        ({}, (3, 4), (8, 6), "reaches the end of the series (slice 4)"),
        ({"thickness": None}, (0, 1), (8, 6), "no slice thickness"),
        ({"lossy": {2: LossyCompression("JPEG")}}, (2,), (8, 6), "compressed with loss (JPEG)"),
        ({}, (2,), (3, 3), "small lesion (9 pixels"),
        ({}, (2,), (60, 6), "touches the image's edge"),
    ],
)
def test_what_is_uncertain_is_said(
    changes: dict[str, object], indices: tuple[int, ...], size: tuple[int, int], note: str
) -> None:
    series = make_series(**changes)  # type: ignore[arg-type]
    notes = measure(series, make_lesion(series, indices, size=size)).notes
    assert any(note in each for each in notes), notes


def test_loss_is_no_matter_of_the_notes_wording_or_of_other_slices() -> None:
    lossy = {4: LossyCompression("JPEG")}
    series = make_series(notes=("uneven: a lossy protocol",), lossy=lossy)
    assert measure(series, make_lesion(series, (2,))).notes == ()
