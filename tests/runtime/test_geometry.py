"""Geometry against hand-computed cases, and against its own inverse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samihs_runtime.errors import StudyError
from samihs_runtime.geometry import (
    affine_lps,
    affine_ras,
    along_normal,
    describe_gaps,
    fit_grid,
    nearest_slice,
    same_orientation,
    shear_angle,
    slice_extents,
    slice_gaps,
    to_pixel,
)
from samihs_runtime.series import SlicePlane

Triple = tuple[float, float, float]


def plane(
    position: Triple,
    thickness: float | None = 5.0,
    spacing: tuple[float, float] = (0.5, 0.5),
    tilt: float = 0.0,
) -> SlicePlane:
    """An axial plane, its columns tilted about the x axis by `tilt` degrees."""
    angle = math.radians(tilt)
    column = (0.0, math.cos(angle), -math.sin(angle))
    return SlicePlane(position, (1.0, 0.0, 0.0), column, spacing, thickness)


def at_heights(*heights: float, thickness: float | None = 5.0) -> list[SlicePlane]:
    return [plane((0.0, 0.0, height), thickness) for height in heights]


def tilted(count: int, table_step: float, tilt: float = 18.5) -> list[SlicePlane]:
    """As a tilted gantry makes them: the table moves along z, the planes are inclined."""
    return [plane((-120.0, -100.0, k * table_step), 4.0, tilt=tilt) for k in range(count)]


def test_pixel_to_patient_follows_the_standard() -> None:
    # Equation C.7.6.2.1-1 by hand: rows 0.4 apart, columns 0.6 apart.
    p = plane((10.0, 20.0, 30.0), spacing=(0.4, 0.6))
    np.testing.assert_allclose(p.to_patient(5, 3), [10 + 5 * 0.6, 20 + 3 * 0.4, 30])


def test_extents_are_half_way_to_each_neighbour_and_half_the_thickness_at_the_ends() -> None:
    planes = at_heights(0, 5, 10, 17)
    np.testing.assert_allclose(slice_gaps(planes), [5, 5, 7])
    np.testing.assert_allclose(slice_extents(planes), [5, 5, 6, 6])


def test_an_open_end_of_unknown_thickness_takes_the_gap_it_has() -> None:
    np.testing.assert_allclose(slice_extents(at_heights(0, 3, 9, thickness=None)), [3, 4.5, 6])


@pytest.mark.parametrize(("thickness", "extent"), [(10.0, 10.0), (None, 1.0)])
def test_a_single_slice_stands_for_its_thickness(thickness: float | None, extent: float) -> None:
    assert slice_extents(at_heights(3, thickness=thickness)).tolist() == [extent]


def test_under_tilt_the_distance_is_the_projection_on_the_normal() -> None:
    planes = tilted(5, table_step=4.22)
    np.testing.assert_allclose(slice_gaps(planes), 4.22 * math.cos(math.radians(18.5)))
    assert shear_angle(planes) == pytest.approx(18.5)
    assert fit_grid(planes).uniform


def test_an_oblique_stack_without_shear_has_no_tilt() -> None:
    normal = plane((0, 0, 0), tilt=18.5).normal
    steps = [4.0 * k * normal for k in range(4)]
    planes = [plane((float(s[0]), float(s[1]), float(s[2])), tilt=18.5) for s in steps]
    assert shear_angle(planes) == pytest.approx(0, abs=1e-5)


def test_sheared_affine_puts_every_voxel_where_its_slice_puts_it() -> None:
    planes = tilted(6, table_step=5.0)
    affine = affine_lps(planes)
    for k, x, y in [(0, 0, 0), (3, 17, 5), (5, 511, 300)]:
        np.testing.assert_allclose((affine @ [x, y, k, 1])[:3], planes[k].to_patient(x, y))
    np.testing.assert_allclose(affine_ras(planes)[:2], -affine[:2])
    np.testing.assert_allclose(affine_ras(planes)[2:], affine[2:])


@pytest.mark.parametrize(
    ("planes", "reason"),
    [
        (at_heights(0, 5, 10, 17), "2 x 5.00 mm, 1 x 7.00 mm"),
        ([plane((0, 0, 0)), plane((0, 9, 5)), plane((0, 0, 10))], "shifted"),
        ([plane((0, 0, 0)), plane((0, 0, 5), spacing=(0.4, 0.4))], "pixel spacing"),
        ([plane((0, 0, 0)), plane((0, 0, 5), tilt=2)], "orientation"),
    ],
)
def test_where_no_even_grid_exists_there_is_no_affine(
    planes: list[SlicePlane], reason: str
) -> None:
    assert not fit_grid(planes).uniform
    with pytest.raises(StudyError, match=reason):
        affine_ras(planes)


def test_rounded_headers_still_make_a_grid() -> None:
    planes = at_heights(*(round(k * 4.9987, 2) for k in range(30)))
    assert fit_grid(planes).uniform


def test_gaps_in_words_stay_short() -> None:
    text = describe_gaps(np.array([1.0, 2, 1, 2, 1, 2, 1, 2]))
    assert text.endswith("and 2 more changes")


def test_nearest_slice_of_a_patient_point() -> None:
    planes = at_heights(0, 5, 10)
    assert nearest_slice(planes, planes[1].to_patient(7, 3) + np.array([0, 0, 2.4])) == (
        1,
        7.0,
        3.0,
    )


def test_orientation_tells_a_flip() -> None:
    flipped = SlicePlane((0, 0, 0), (-1, 0, 0), (0, 1, 0), (0.5, 0.5), 5)
    assert not same_orientation(flipped, plane((0, 0, 0)))


finite = st.floats(-500, 500)
sizes = st.floats(0.1, 10)


@given(finite, finite, finite, st.floats(-40, 40), sizes, sizes, st.floats(0, 511), finite)
def test_to_pixel_inverts_to_patient(
    px: float, py: float, pz: float, tilt: float, rows: float, columns: float, x: float, up: float
) -> None:
    p = plane((px, py, pz), spacing=(rows, columns), tilt=tilt)
    found = to_pixel(p, p.to_patient(x, 511 - x) + up * p.normal)
    np.testing.assert_allclose(found, [x, 511 - x, up], atol=1e-6)


@given(st.lists(st.floats(0.2, 20), min_size=1, max_size=40), sizes, st.floats(-30, 30))
def test_extents_fill_the_stack_without_gap_or_overlap(
    gaps: list[float], thickness: float, tilt: float
) -> None:
    normal = plane((0, 0, 0), tilt=tilt).normal
    heights = np.concatenate([[0.0], np.cumsum(gaps)])
    # Sideways steps must not matter: they are in the planes.
    corners = [h * normal + [3.0 * k, 0, 0] for k, h in enumerate(heights)]
    planes = [plane((float(a), float(b), float(c)), thickness, tilt=tilt) for a, b, c in corners]
    extents = slice_extents(planes)
    assert (extents > 0).all()
    assert extents.sum() == pytest.approx(heights[-1] + thickness)
    np.testing.assert_allclose(np.diff(along_normal(planes)), gaps, atol=1e-9)
