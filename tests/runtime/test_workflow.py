"""Locating the slice and segmenting a lesion: on a fake backend that grows regions.

The series is brain at 30 HU with a ball of blood at 70 HU, so every expectation is known exactly.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from samihs_runtime import workflow
from samihs_runtime.answering import SliceAnswer
from samihs_runtime.backends.fake import FOUND_SCORE, FakeBackend
from samihs_runtime.bundle import Bundle
from samihs_runtime.encoding.slice_frame import SliceFrame
from samihs_runtime.errors import PromptError
from samihs_runtime.probability import Evidence
from samihs_runtime.prompts import parse_request
from samihs_runtime.propagation import propagate
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.series import CTSeries
from samihs_runtime.workflow import segment_lesion
from samihs_runtime.writers.seg import write_seg

from .series_factory import ball_series, make_report, make_series


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


def test_another_threshold_decides_and_is_said(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    own, request = bundle.manifest.score_threshold, parse_request(["36,30,4"])
    for threshold in (own, FOUND_SCORE - 0.01, FOUND_SCORE + 0.01):
        backend = FakeBackend.for_manifest(bundle.manifest)
        with Segmenter(bundle, backend, score_threshold=threshold) as segmenter:
            lesion = segment_lesion(segmenter, ball_series(), request, propagation=False)
        assert lesion.found == (threshold < FOUND_SCORE)
        said = f"the score's threshold is {threshold:.3f}, as given; the bundle's own is {own:.3f}"
        assert (said in lesion.notes) == (threshold != own)


def test_the_lesion_is_followed_by_the_given_threshold_too(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, asked = Bundle.open(tiny_bundle), []

    def noted(*arguments: Any) -> Any:
        asked.append(arguments[3].min_score)
        return propagate(*arguments)

    monkeypatch.setattr(workflow, "propagate", noted)
    backend = FakeBackend.for_manifest(bundle.manifest)
    with Segmenter(bundle, backend, score_threshold=0.77) as segmenter:
        assert segment_lesion(segmenter, ball_series(), parse_request(["36,30,4"])).found
    assert asked == [0.77]
