"""Clicks where nothing bleeds, as ``samihs-infer`` answers them, and what share is accepted."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from samihs_runtime.answering import SliceAnswer, answer_prompt
from samihs_runtime.calibration.normal_clicks import NormalClick, Where
from samihs_runtime.intervals import Estimate, estimate_share
from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_runtime.workflow import why_rejected

if TYPE_CHECKING:
    from samihs_runtime.segmenter import Segmenter
    from samihs_runtime.series import CTSeries

STEP = 0.001
"""Thresholds are given to three digits."""
Seen = Callable[[NormalClick, SliceAnswer], None]


@dataclass(frozen=True)
class Trial:
    """One click, and its answer."""

    study: int
    """Number of the study, from 1, in the order given."""
    click: NormalClick
    score: float
    possible: bool
    """Whether the mask could be blood: there is one, and its HU are those of blood."""

    def accepted(self, threshold: float) -> bool:
        """Whether the answer counts as a hemorrhage at this threshold."""
        return self.possible and self.score >= threshold


def click_through(
    segmenter: Segmenter,
    series: CTSeries,
    clicks: Sequence[NormalClick],
    study: int,
    *,
    accepted: Seen = lambda click, answer: None,
) -> list[Trial]:
    """Answer the clicks on a series one by one, each on its own slice.

    ``accepted`` is called with each answer that the segmenter's threshold accepts.

    Raises:
        BackendError: the device failed, or the segmenter is closed.
    """
    plausible = segmenter.bundle.manifest.plausible_hu
    trials = []
    for each in clicks:
        hu, prompt = series.hu[each.index], Prompt(((each.x, each.y),), (FOREGROUND,))
        answer = answer_prompt(segmenter, hu, prompt, series.planes[each.index].spacing)
        possible = why_rejected(hu, answer, -math.inf, plausible) is None
        trial = Trial(study, each, answer.score, possible)
        if trial.accepted(segmenter.score_threshold):
            accepted(each, answer)
        trials.append(trial)
    return trials


def accepted_share(
    trials: Sequence[Trial], threshold: float, where: Where | None = None
) -> Estimate:
    """Share of the clicks (``where`` only, if given) that a threshold accepts, with a 95 % interval
    over studies."""
    chosen = [each for each in trials if where is None or each.click.where == where]
    accepted = [each.accepted(threshold) for each in chosen]
    return estimate_share(accepted, [each.study for each in chosen])


def threshold_for(trials: Sequence[Trial], share: float) -> float:
    """The lowest threshold, in steps of 0.001, that accepts at most this share of the clicks."""
    scores = sorted((each.score for each in trials if each.possible), reverse=True)
    allowed = math.floor(share * len(trials) + 1e-9)
    if allowed >= len(scores):
        return 0.0
    above = math.floor(max(scores[allowed], 0.0) / STEP) + 1
    return min(round(above * STEP, 3), 1.0)


def share_on_others(trials: Sequence[Trial], share: float, least: float) -> Estimate:
    """What share :func:`threshold_for` accepts in studies that it has not seen: each study's clicks
    are judged by the threshold that the others give, but at least by ``least``."""
    by_study = _by_study(trials)
    if len(by_study) < 2:
        return estimate_share([], [])
    accepted, studies = [], []
    for study, own in by_study.items():
        others = [each for number, group in by_study.items() if number != study for each in group]
        threshold = max(threshold_for(others, share), least)
        accepted += [each.accepted(threshold) for each in own]
        studies += [study] * len(own)
    return estimate_share(accepted, studies)


def threshold_interval(
    trials: Sequence[Trial], share: float, least: float, draws: int = 500
) -> tuple[float, float]:
    """95 % interval of the threshold, or ``least`` where that is higher; NaN for a single study.

    Studies are resampled, and the clicks within each: with few studies, it is where the clicks fell
    that moves the threshold most.
    """
    groups = list(_by_study(trials).values())
    if len(groups) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(0)
    found = []
    for picks in rng.integers(len(groups), size=(draws, len(groups))):
        drawn = [
            groups[pick][each]
            for pick in picks
            for each in rng.integers(len(groups[pick]), size=len(groups[pick]))
        ]
        found.append(max(threshold_for(drawn, share), least))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _by_study(trials: Sequence[Trial]) -> dict[int, list[Trial]]:
    groups: dict[int, list[Trial]] = defaultdict(list)
    for each in trials:
        groups[each.study].append(each)
    return dict(groups)
