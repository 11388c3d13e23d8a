"""Clicks where nothing bleeds: what counts as accepted, and which threshold accepts fewer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from samihs_runtime.answering import SliceAnswer
from samihs_runtime.calibration.normal_clicks import NormalClick, Where
from samihs_runtime.calibration.trials import (
    Trial,
    accepted_share,
    click_through,
    share_on_others,
    threshold_for,
    threshold_interval,
)
from samihs_runtime.prompts import parse_request
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.workflow import segment_lesion
from tests.runtime.series_factory import ball_series


def trial(score: float, study: int = 1, where: Where = "anywhere", possible: bool = True) -> Trial:
    return Trial(study, NormalClick(0, 1, 2, where), score, possible)


def test_a_click_counts_as_samihs_infer_answers_it(segmenter: Segmenter) -> None:
    """The ball of 70 HU is found, the brain of 30 around it is not."""
    series = ball_series()
    clicks = [NormalClick(4, 36, 30, "bright"), NormalClick(4, 8, 8, "anywhere")]
    seen: list[tuple[NormalClick, SliceAnswer]] = []
    trials = click_through(
        segmenter, series, clicks, 3, accepted=lambda click, answer: seen.append((click, answer))
    )
    threshold = segmenter.score_threshold
    for each in trials:
        place = f"{each.click.x},{each.click.y},{each.click.index}"
        lesion = segment_lesion(segmenter, series, parse_request([place]))
        assert each.accepted(threshold) == lesion.found
        assert each.score == pytest.approx(lesion.score)
    assert [each.accepted(threshold) for each in trials] == [True, False]
    assert [each.study for each in trials] == [3, 3]
    ((click, answer),) = seen
    assert click == clicks[0]
    assert answer.mask[30, 36]


def test_a_mask_that_cannot_be_blood_is_accepted_at_no_threshold() -> None:
    assert not trial(0.9, possible=False).accepted(0.0)
    assert trial(0.9).accepted(0.9)
    assert not trial(0.9).accepted(0.901)


def test_shares_by_where_and_their_interval_over_studies() -> None:
    trials = [
        *(trial(score, study, "bright") for study in (1, 2, 3) for score in (0.2, 0.4)),
        *(trial(0.1, study) for study in (1, 2, 3)),
    ]
    whole = accepted_share(trials, 0.3)
    assert (whole.mean, whole.count) == (pytest.approx(3 / 9), 9)
    assert whole.low < 0.1  # the studies are alike, and yet nine clicks prove little
    assert whole.high > 0.65
    assert accepted_share(trials, 0.3, "bright").mean == pytest.approx(0.5)
    assert accepted_share(trials, 0.3, "anywhere").mean == 0
    assert math.isnan(accepted_share(trials[:2], 0.3).low)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_the_threshold_is_the_lowest_that_accepts_few_enough(share: float) -> None:
    rng = np.random.default_rng(11)
    trials = [trial(score, possible=score > 0.1) for score in rng.random(200).tolist()]
    chosen = threshold_for(trials, share)
    assert accepted_share(trials, chosen).mean <= share
    if chosen > 0:
        assert accepted_share(trials, chosen - 0.001).mean > share


def test_what_cannot_be_blood_takes_no_part_in_the_threshold() -> None:
    assert threshold_for([trial(0.9, possible=False), trial(0.2)], 0.0) == pytest.approx(0.201)
    assert threshold_for([trial(0.9, possible=False)], 0.0) == 0.0


def test_the_share_in_other_studies_is_not_that_which_was_chosen() -> None:
    """One head of three is worse than the others, which do not tell of it."""
    trials = [
        *(trial(score, study) for study in (1, 2) for score in (0.1, 0.1, 0.1, 0.3)),
        *(trial(score, 3) for score in (0.1, 0.6, 0.7, 0.8)),
    ]
    chosen = threshold_for(trials, 0.25)
    assert chosen == pytest.approx(0.301)
    assert accepted_share(trials, chosen).mean == 0.25
    # 1 and 2: the others give 0.601 and accept nothing; 3: they give 0.101 and accept three of 4.
    others = share_on_others(trials, 0.25, least=0.0)
    assert (others.mean, others.count) == (pytest.approx(3 / 12), 12)
    assert share_on_others(trials, 0.25, least=0.65).mean == pytest.approx(2 / 12)
    assert share_on_others(trials[:4], 0.25, least=0.0).count == 0


def test_the_thresholds_interval_is_over_studies_and_their_clicks() -> None:
    rng = np.random.default_rng(3)
    level = rng.normal(0.2, 0.05, 12)
    trials = [
        trial(score, study)
        for study, mean in enumerate(level.tolist())
        for score in rng.normal(mean, 0.05, 40).tolist()
    ]
    low, high = threshold_interval(trials, 0.05, least=0.0)
    assert low < threshold_for(trials, 0.05) < high
    # Two heads that do not differ: only where the clicks fell moves the threshold.
    rng = np.random.default_rng(1)
    alike = [trial(score, study) for study in (1, 2) for score in rng.normal(0.2, 0.05, 40)]
    low, high = threshold_interval(alike, 0.05, least=0.0)
    others = [
        threshold_for([trial(score) for score in rng.normal(0.2, 0.05, 80)], 0.05)
        for _ in range(200)
    ]
    assert high - low > 3 * np.std(others)
    assert threshold_interval(trials, 0.05, least=0.9) == (0.9, 0.9)
    assert all(math.isnan(each) for each in threshold_interval(trials[:40], 0.05, least=0.0))
