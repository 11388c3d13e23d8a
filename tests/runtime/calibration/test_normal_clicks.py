"""Where a head without hemorrhage is clicked on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from samihs_runtime.calibration.normal_clicks import (
    NormalClick,
    Sampling,
    brain_slices,
    normal_clicks,
    soft_tissue,
)
from samihs_runtime.errors import StudyError
from samihs_runtime.series import CTSeries

from .heads import BRAIN_HU, SIDE, VESSEL_HU, head, head_series


def clicks_on(series: CTSeries, sampling: Sampling, rng: np.random.Generator) -> list[NormalClick]:
    return normal_clicks(series, brain_slices(series), sampling, rng)


@pytest.mark.parametrize("spacing", [(1.5, 1.5), (1.5, 2.4), (2.4, 1.5)])
@pytest.mark.parametrize("gap_mm", [0.0, 10.0])
def test_soft_tissue_is_what_the_skull_encloses(
    spacing: tuple[float, float], gap_mm: float
) -> None:
    """The scalp is as soft, and outside, even where the skull has a gap."""
    plane = head(spacing, gap_mm)
    found = soft_tissue(plane, spacing)
    brain = (plane == BRAIN_HU) | (plane == VESSEL_HU)
    assert (found & ~brain).sum() <= 0.01 * brain.sum()  # of the gap, what the bone would hold
    assert found[brain].mean() > 0.94  # all but what lies right below the bone


def test_a_head_that_touches_the_edge_of_the_image_has_an_inside() -> None:
    whole = head()
    cropped = whole[10:-10, 10:-10]
    assert cropped[0].max() > 200  # bone
    assert soft_tissue(cropped, (1.5, 1.5)).sum() > 0.9 * (whole == BRAIN_HU).sum()


def test_what_is_calcified_or_air_is_no_soft_tissue() -> None:
    plane = head()
    plane[40:46, 50:56], plane[40:46, 70:76] = 150, -400
    found = soft_tissue(plane, (1.5, 1.5))
    assert not found[41:45, 51:55].any()
    assert not found[41:45, 71:75].any()
    assert found[43, 63]


def test_small_cavities_of_bone_are_no_brain() -> None:
    """Marrow in a thick base, and a passage from the brain into it that is 3 mm wide."""
    plane = head()
    base = (np.arange(SIDE)[:, None] > 70) & (plane != -1000) & (plane != 40)
    plane[base] = 900
    plane[80:90, 55:65] = BRAIN_HU
    plane[70:80, 60] = BRAIN_HU
    found = soft_tissue(plane, (1.5, 1.5))
    assert found[30:60, 50:70].all()
    assert not found[74:].any()


def test_a_skull_that_is_wide_open_has_no_inside() -> None:
    plane = head()
    plane[:, : SIDE // 2 - 10] = np.where(plane == 900, 40, plane)[:, : SIDE // 2 - 10]
    assert not soft_tissue(plane, (1.5, 1.5)).any()


def test_a_picture_of_few_pixels_shows_brain_as_well() -> None:
    """Its skull is two pixels thick."""
    series = head_series()
    coarse = replace(
        series, hu=series.hu[:, ::2, ::2],
        planes=tuple(replace(plane, spacing=(3.0, 3.0)) for plane in series.planes),
    )  # fmt: skip
    assert brain_slices(coarse) == brain_slices(series) == [1, 2, 3, 4, 5, 6]


def test_without_bone_there_is_no_inside() -> None:
    plane = np.full((50, 50), 30, np.int16)
    assert not soft_tissue(plane, (1.0, 1.0)).any()


def test_clicks_are_spread_over_the_slices_that_show_brain() -> None:
    clicks = clicks_on(head_series(slices=9), Sampling(3, 4), np.random.default_rng(0))
    assert [each.index for each in clicks] == [2] * 4 + [5] * 4 + [8] * 4
    few = clicks_on(head_series(slices=2), Sampling(5, 4), np.random.default_rng(0))
    assert sorted({each.index for each in few}) == [1, 2]


def test_every_other_click_is_on_what_is_bright() -> None:
    series = head_series()
    noise = np.random.default_rng(5).integers(-3, 4, series.hu.shape).astype(np.int16)
    series = replace(series, hu=series.hu + noise)
    clicks = clicks_on(series, Sampling(4, 40), np.random.default_rng(3))
    hu: dict[str, list[int]] = {"anywhere": [], "bright": []}
    for each in clicks:
        hu[each.where].append(int(series.hu[each.index, each.y, each.x]))
    assert len(hu["anywhere"]) == len(hu["bright"]) == 80
    assert max(hu["anywhere"] + hu["bright"]) < VESSEL_HU + 4  # no bone
    assert np.mean(np.array(hu["anywhere"]) > 50) < 0.1  # the vessel is 3 % of the brain
    assert np.mean(np.array(hu["bright"]) > 50) > 0.2


def test_the_same_seed_clicks_on_the_same_spots() -> None:
    series = head_series()
    first, again, other = (
        clicks_on(series, Sampling(2, 6), np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_series_without_a_head_is_refused() -> None:
    series = head_series()
    body = np.full((len(series), SIDE, SIDE), 40, np.int16)
    with pytest.raises(StudyError, match="no slice shows brain within a skull"):
        brain_slices(replace(series, hu=body))
