"""Locating the slice, segmenting, following: on a fake backend that grows regions.

The series is brain at 30 HU with a ball of blood at 70 HU, so every expectation is known exactly.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from samihs_runtime import workflow
from samihs_runtime.answering import SliceAnswer
from samihs_runtime.backends.fake import FakeBackend
from samihs_runtime.bundle import Bundle
from samihs_runtime.encoding.slice_frame import SliceFrame
from samihs_runtime.errors import PromptError
from samihs_runtime.interior import deepest_point
from samihs_runtime.probability import Evidence
from samihs_runtime.prompts import parse_request
from samihs_runtime.propagation import PropagationOptions, propagate
from samihs_runtime.segmentation import Prompt, SliceMask
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.series import CTSeries
from samihs_runtime.workflow import segment_lesion
from samihs_runtime.writers.seg import write_seg

from .series_factory import make_report, make_series

BALL = (4, 30, 36)  # slice, row, column of its centre
RADIUS = 12  # pixels; 2.5 mm slices of 0.5 mm pixels, so 5 pixels a slice


def ball_series(**changes: object) -> CTSeries:
    series = make_series(positions=[2.5 * z for z in range(9)], thickness=2.5)
    z, y, x = np.mgrid[:9, :64, :64]
    distance = np.hypot(np.hypot(y - BALL[1], x - BALL[2]), 5.0 * (z - BALL[0]))
    hu = np.where(distance <= RADIUS, 70, 30).astype(np.int16)
    return replace(series, hu=hu, **changes)


@pytest.fixture
def segmenter(tiny_bundle: Path) -> Iterator[Segmenter]:
    bundle = Bundle.open(tiny_bundle)
    with Segmenter(bundle, FakeBackend.for_manifest(bundle.manifest)) as opened:
        yield opened


def truth(series: CTSeries) -> NDArray[np.bool_]:
    return series.hu == 70


def test_a_click_is_followed_through_the_whole_ball(segmenter: Segmenter) -> None:
    series = ball_series()
    lesion = segment_lesion(segmenter, series, parse_request(["36,30,4"]))
    assert lesion.found
    assert [part.index for part in lesion.slices] == [2, 3, 4, 5, 6]
    assert [part.origin for part in lesion.slices].count("clicked") == 1
    wanted = truth(series)
    mask = lesion.volume_mask(series.hu.shape)
    dice = 2 * (mask & wanted).sum() / (mask.sum() + wanted.sum())
    assert dice > 0.95  # the fake's logits are a quarter of the slice's size
    assert len(lesion.stop_reasons) == 2


@pytest.mark.parametrize("aspect", [0.5, 1.6])
def test_a_ball_of_oblong_pixels_is_followed_in_true_proportions(
    segmenter: Segmenter, aspect: float
) -> None:
    """The masks, and the evidence that a FRACTIONAL SEG is made of, lie on the stored pixels."""
    series = ball_series()
    planes = tuple(replace(plane, spacing=(0.5, 0.5 / aspect)) for plane in series.planes)
    lesion = segment_lesion(segmenter, replace(series, planes=planes), parse_request(["36,30,4"]))
    wanted = truth(series)
    mask = lesion.volume_mask(series.hu.shape)
    assert 2 * (mask & wanted).sum() / (mask.sum() + wanted.sum()) > 0.9
    for part in lesion.slices:
        assert part.evidence is not None
        assert part.evidence.frame.aspect == pytest.approx(aspect)
        sure = part.evidence.probability(part.mask) > 0.5
        assert 2 * (sure & part.mask).sum() / (sure.sum() + part.mask.sum()) > 0.9


def test_without_propagation_only_the_clicked_slice_is_answered(segmenter: Segmenter) -> None:
    request = parse_request(["36,30,4"])
    lesion = segment_lesion(segmenter, ball_series(), request, propagation=False)
    assert [part.index for part in lesion.slices] == [4]
    assert lesion.notes == ("only the clicked slice was segmented: the volume is a lower bound",)


def test_a_single_image_has_no_other_slices_to_segment(segmenter: Segmenter) -> None:
    series = make_series(positions=[0.0])
    lone = replace(series, hu=ball_series().hu[4:5])
    lesion = segment_lesion(segmenter, lone, parse_request(["36,30"]))
    assert lesion.found
    assert lesion.notes == ()


def test_without_a_slice_the_best_one_is_found_and_said(segmenter: Segmenter) -> None:
    lesion = segment_lesion(segmenter, ball_series(), parse_request(["36,30"]))
    assert lesion.found
    assert lesion.clicked_slice in range(2, 7)
    assert lesion.notes[0] == (
        "no slice was named: the click could be blood on 9 of 9 slices; "
        f"slice {lesion.clicked_slice} has the best score of those that are accepted"
    )
    assert lesion.notes[1] == "9 slices were tried; the score's threshold is meant for one"


def test_a_refused_answer_of_a_better_score_does_not_hide_an_accepted_one(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask on slice 2 has the best score, and the HU of bone."""
    series, scores = ball_series(), {2: 0.99, 4: 0.8}
    hu = np.full_like(series.hu, 400)
    for index in scores:
        hu[index] = 30  # the spot could be blood
    hu[2, 20:30, 20:30] = 400
    hu[4, 20:30, 20:30] = 70
    mask = hu[4] == 70

    def answering(_: Segmenter, plane: NDArray[np.int16], *__: Any) -> SliceAnswer:
        (index,) = (each for each in scores if np.array_equal(plane, hu[each]))
        evidence = Evidence(np.zeros((16, 16), np.float32), SliceFrame(64, 64, 64))
        return SliceAnswer(mask, evidence, scores[index])

    monkeypatch.setattr(workflow, "answer_prompt", answering)
    bundle = Bundle.open(tiny_bundle)
    with Segmenter(bundle, FakeBackend.for_manifest(bundle.manifest)) as segmenter:
        asked = (segmenter, replace(series, hu=hu), parse_request(["36,40"]))
        lesion = segment_lesion(*asked, propagation=False)
        assert (lesion.found, lesion.clicked_slice) == (True, 4)
        hu[4, 20:30, 20:30] = 401
        lesion = segment_lesion(*asked, propagation=False)
    assert (lesion.found, lesion.clicked_slice) == (False, 2)
    assert lesion.notes[0].endswith("best score of all of them, as none is accepted")


def test_where_one_slice_alone_qualifies_the_threshold_is_meant_for_it(
    segmenter: Segmenter,
) -> None:
    series = ball_series()
    hu = np.full_like(series.hu, 400)
    hu[4] = series.hu[4]
    lesion = segment_lesion(segmenter, replace(series, hu=hu), parse_request(["36,30"]))
    assert lesion.clicked_slice == 4
    assert not any("were tried" in note for note in lesion.notes)


def test_of_the_slices_tried_only_the_best_answer_is_kept(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[weakref.ref[SliceAnswer]] = []
    alive: list[int] = []
    real = workflow.answer_prompt

    def answering(*arguments: Any) -> SliceAnswer:
        alive.append(sum(each() is not None for each in answers))
        answer = real(*arguments)
        answers.append(weakref.ref(answer))
        return answer

    monkeypatch.setattr(workflow, "answer_prompt", answering)
    segment_lesion(segmenter, ball_series(), parse_request(["36,30"]), propagation=False)
    assert len(answers) == 9
    assert max(alive) <= 2  # the best one, and the last


def test_where_nothing_can_be_blood_the_slice_is_asked_for(segmenter: Segmenter) -> None:
    series = ball_series()
    calcified = replace(series, hu=np.full_like(series.hu, 400))
    with pytest.raises(PromptError, match="--slice"):
        segment_lesion(segmenter, calcified, parse_request(["36,30"]))


def test_a_click_on_brain_is_answered_not_found(segmenter: Segmenter) -> None:
    lesion = segment_lesion(segmenter, ball_series(), parse_request(["8,8,4"]))
    assert not lesion.found
    assert lesion.slices == ()
    assert "no hemorrhage found" in lesion.notes[-1]


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


def test_the_deepest_point_of_a_rectangle_is_its_middle() -> None:
    region = np.zeros((20, 30), bool)
    region[5:12, 3:24] = True
    x, y = deepest_point(region)
    assert y == 8
    assert 6 <= x <= 20


def test_the_deepest_point_is_deepest_in_mm() -> None:
    """Which of two rectangles is the deeper one depends on the shape of the pixels."""
    region = np.zeros((40, 60), bool)
    region[2:38, 4:13] = True  # 36 x 9 pixels
    region[12:32, 20:56] = True  # 20 x 36 pixels
    assert 20 <= deepest_point(region)[0] < 56
    assert 4 <= deepest_point(region, aspect=0.4)[0] < 13  # 14.4 x 9, and 8 x 36


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


def test_confidence_is_given_slice_by_slice(segmenter: Segmenter) -> None:
    lesion = segment_lesion(segmenter, ball_series(), parse_request(["36,30,4"]))
    for part in lesion.slices:
        assert 0 <= part.score <= 1
        assert part.evidence is not None
        probability = part.evidence.probability(part.mask)
        assert probability[part.mask].mean() > 0.5 > probability[~part.mask].mean()


def test_a_box_bounds_the_probability_as_it_does_the_mask(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """The box takes in the left half of the ball: a FRACTIONAL SEG must not show the right one."""
    bundle = Bundle.open(tiny_bundle)
    told = {**bundle.manifest.provenance, "prompts": {"points": 2, "boxes": False}}
    bundle = replace(bundle, manifest=replace(bundle.manifest, provenance=told))
    series, request = ball_series(), parse_request([], box="24,18,36,42", slice_index=4)
    with Segmenter(bundle, FakeBackend.for_manifest(bundle.manifest)) as segmenter:
        lesion = segment_lesion(segmenter, series, request, propagation=False)
    write_seg(series, lesion, make_report(), tmp_path / "seg.dcm", fractional=True)
    probable = pydicom.dcmread(tmp_path / "seg.dcm").pixel_array.reshape(64, 64) / 255 >= 0.5
    reach = np.zeros((64, 64), bool)
    reach[14:47, 21:40] = True  # the box, a tenth of its sides and 2 pixels
    assert (truth(series)[4] & ~reach).any()
    assert probable[reach & truth(series)[4]].mean() > 0.9
    assert not (probable & ~reach).any()


@pytest.mark.parametrize("plausible", [(10.0, 60.0), (80.0, 110.0)])
def test_a_mask_that_has_not_the_density_of_blood_is_not_found(
    plausible: tuple[float, float], tiny_bundle: Path
) -> None:
    """The clicked slice is asked for the same as those that it is followed into."""
    bundle = Bundle.open(tiny_bundle)
    bundle = replace(bundle, manifest=replace(bundle.manifest, plausible_hu=plausible))
    with Segmenter(bundle, FakeBackend.for_manifest(bundle.manifest)) as segmenter:
        lesion = segment_lesion(segmenter, ball_series(), parse_request(["36,30,4"]))
    assert not lesion.found
    assert lesion.score > bundle.manifest.score_threshold
    assert "median of 70 HU is not blood's" in lesion.notes[-1]
