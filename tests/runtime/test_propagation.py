"""Following a lesion from slice to slice: on a fake backend that grows regions.

The series is brain at 30 HU with a ball of blood at 70 HU, or with bars of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from samihs_runtime.prompts import parse_request
from samihs_runtime.propagation import PropagationOptions, propagate
from samihs_runtime.segmentation import Prompt, SliceMask
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.series import CTSeries
from samihs_runtime.workflow import segment_lesion

from .series_factory import ball_series


def test_little_steps_do_not_lead_from_blood_to_brain(segmenter: Segmenter) -> None:
    """8 HU less on each slice: every step is small, the fourth tissue is not what was clicked."""
    series = ball_series()
    hu = np.full_like(series.hu, 20)
    for z in range(9):
        hu[z, 20:40, 26:46] = 70 - 8 * abs(z - 4)
    graded = replace(series, hu=hu)
    lesion = segment_lesion(segmenter, graded, parse_request(["36,30,4"]))
    assert [part.index for part in lesion.slices] == [3, 4, 5]
    assert all("HU is not the clicked lesion's (60 to 80)" in why for why in lesion.stop_reasons)


def test_a_wide_gap_ends_the_lesion(segmenter: Segmenter) -> None:
    series = ball_series()
    moved = [
        replace(plane, position=(plane.position[0], plane.position[1], plane.position[2] + 30.0))
        if index > 4
        else plane
        for index, plane in enumerate(series.planes)
    ]
    lesion = segment_lesion(
        segmenter, replace(series, planes=tuple(moved)), parse_request(["36,30,4"])
    )
    assert [part.index for part in lesion.slices] == [2, 3, 4]
    assert "32.5 mm away" in lesion.stop_reasons[1]
    assert lesion.notes == (
        "the lesion may go on where it was not followed (the next slice is 32.5 mm away (at most "
        "10)): the volume is a lower bound",
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"position": (4.0, -20.25, -17.625)},
            "its pixels lie 20.0 mm to the side of the last slice's",
        ),
        ({"spacing": (0.6, 0.6)}, "its pixels are of 0.6 x 0.6 mm, the last slice's of 0.5 x 0.5"),
    ],
)
def test_a_lesion_is_not_followed_to_other_places_in_the_patient(
    segmenter: Segmenter, change: dict[str, Any], reason: str
) -> None:
    """As where a series changes its field of view: the same pixels show something else."""
    series = ball_series()
    planes = tuple(
        replace(plane, **change) if z == 5 else plane for z, plane in enumerate(series.planes)
    )
    lesion = segment_lesion(segmenter, replace(series, planes=planes), parse_request(["36,30,4"]))
    assert [part.index for part in lesion.slices] == [2, 3, 4]
    assert lesion.stop_reasons[1] == f"slice 5: {reason}; click on it as well"
    assert lesion.stop_reasons[1] in lesion.notes[-1]


def test_parts_that_split_are_both_followed(segmenter: Segmenter) -> None:
    series = ball_series()
    hu = np.full_like(series.hu, 30)
    hu[4, 20:30, 10:50] = 70  # one bar ...
    hu[5, 20:30, 10:22] = hu[5, 20:30, 38:50] = 70  # ... becomes its two ends
    lesion = segment_lesion(segmenter, replace(series, hu=hu), parse_request(["30,25,4"]))
    above = {part.index: part.mask for part in lesion.slices}[5]
    assert above[25, 15]
    assert above[25, 44]
    assert not above[25, 30]


def test_a_second_bleed_elsewhere_is_not_taken_over(segmenter: Segmenter) -> None:
    series = ball_series()
    hu = series.hu.copy()
    hu[:, 5:12, 5:12] = 70
    lesion = segment_lesion(segmenter, replace(series, hu=hu), parse_request(["36,30,4"]))
    assert not lesion.volume_mask(hu.shape)[:, 5:12, 5:12].any()


def bars(columns: dict[int, slice], hu: int = 70) -> CTSeries:
    """A bar of blood of 10 rows on some slices, at the columns given for each."""
    series = ball_series()
    volume = np.full_like(series.hu, 30)
    for z, across in columns.items():
        volume[z, 20:30, across] = hu
    return replace(series, hu=volume)


def followed(segmenter: Segmenter, series: CTSeries, **options: float) -> tuple[list[int], str]:
    """The slices found from a click at column 20 of slice 4, and why it ended above."""
    request = parse_request(["20,25,4"])
    lesion = segment_lesion(segmenter, series, request, propagation=False)
    limits = PropagationOptions(min_score=0.4, **options)
    slices, (_, above) = propagate(segmenter, series, lesion.slices[0], limits)
    return [part.index for part in slices], above.why


def test_a_lesion_beside_its_place_on_the_last_slice_is_found(segmenter: Segmenter) -> None:
    """As a lens along the skull, where the skull narrows."""
    series = bars({4: slice(14, 26), 5: slice(26, 40)})
    assert followed(segmenter, series)[0] == [4, 5]
    found, why = followed(segmenter, series, reach=0.2)
    assert (found, why) == ([4], "slice 5: only 0% of the last mask still looks like the lesion")


def test_what_lies_beside_it_needs_a_better_score(segmenter: Segmenter) -> None:
    series = bars({4: slice(14, 26), 5: slice(26, 40)})
    assert followed(segmenter, series, nearby_score=2.6)[0] == [4]  # the fake's scores are below 1
    there = bars({4: slice(14, 26), 5: slice(14, 26)})
    assert followed(segmenter, there, nearby_score=2.6)[0] == [4, 5]


def test_a_collection_of_two_densities_is_followed_into_either(segmenter: Segmenter) -> None:
    """A fluid level: what is below the clicked slice is the denser layer, above it the lighter."""
    series = ball_series()
    hu = np.full_like(series.hu, 30)
    hu[4, 12:40, 14:34] = np.repeat([58, 74, 90], (12, 4, 12))[:, None]
    hu[:4, 12:40, 14:34], hu[5:, 12:40, 14:34] = 90, 58
    lesion = segment_lesion(segmenter, replace(series, hu=hu), parse_request(["24,25,4"]))
    assert [part.index for part in lesion.slices] == list(range(9))


def test_skull_at_the_rim_does_not_make_other_tissue_the_lesions(segmenter: Segmenter) -> None:
    """A third of the clicked mask is partly bone; the next slice is 16 HU denser than its core."""
    series = ball_series()
    hu = np.full_like(series.hu, 20)
    hu[4, 20:40, 14:34], hu[5, 20:40, 14:34] = 74, 72
    hu[4, 22:38, 16:32] = 56
    prompt = Prompt(points=((24, 30),), labels=(1,))
    clicked = SliceMask(4, hu[4] > 20, 0.9, "clicked", prompt, None)
    options = PropagationOptions(min_score=0.4)
    slices, (_, above) = propagate(segmenter, replace(series, hu=hu), clicked, options)
    assert [part.index for part in slices] == [4]
    assert above.why == (
        "slice 5: the mask's median of 72 HU is not the clicked lesion's (46 to 66)"
    )


def test_a_mask_of_bone_ends_the_lesion(segmenter: Segmenter) -> None:
    """What was blood becomes bone on the next slice, and looks alike enough to be clicked."""
    series = ball_series()
    lesion = segment_lesion(segmenter, series, parse_request(["36,30,4"]), propagation=False)
    options = PropagationOptions(min_score=0.5, plausible_hu=(20.0, 60.0))
    slices, stops = propagate(segmenter, series, lesion.slices[0], options)
    assert [part.index for part in slices] == [4]
    assert all("median of 70 HU is not blood's (20 to 60)" in stop.why for stop in stops)


def test_a_rim_of_skull_in_the_mask_is_no_reason_to_stop(segmenter: Segmenter) -> None:
    series = ball_series()
    hu = series.hu.copy()
    rim = np.zeros(hu.shape, bool)
    rim[:, 25:29, 30:44] = True
    hu[rim & (hu == 70)] = 84  # partial volume with bone: the mean moves, the median does not
    lesion = segment_lesion(segmenter, replace(series, hu=hu), parse_request(["36,34,4"]))
    clicked = lesion.slices[[part.index for part in lesion.slices].index(4)]
    inside = hu[4][clicked.mask]
    options = PropagationOptions(min_score=0.5, plausible_hu=(60.0, float(np.median(inside)) + 1.0))
    assert inside.mean() > options.plausible_hu[1]  # type: ignore[index]
    slices, _ = propagate(segmenter, replace(series, hu=hu), clicked, options)
    assert len(slices) > 1


def test_the_last_slices_logits_are_handed_on_where_asked(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = ball_series()
    lesion = segment_lesion(segmenter, series, parse_request(["36,30,4"]), propagation=False)
    seen: list[object] = []
    real = segmenter.predict_batch

    def watched(encoded: object, prompts: object, priors: object = None) -> object:
        seen.append(priors)
        return real(encoded, prompts, priors)  # type: ignore[arg-type]

    monkeypatch.setattr(segmenter, "predict_batch", watched)
    for use_prior in (False, True):
        seen.clear()
        options = PropagationOptions(min_score=0.5, use_prior=use_prior)
        propagate(segmenter, series, lesion.slices[0], options)
        assert seen
        assert all((priors is not None) == use_prior for priors in seen)
    evidence = lesion.slices[0].evidence
    assert evidence is not None
    np.testing.assert_array_equal(seen[0][0], evidence.logits)  # type: ignore[index]
