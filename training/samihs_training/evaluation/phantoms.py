"""Evaluation by clicks on lesions in unseen phantom studies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from samihs_runtime.errors import UsageError
from samihs_training.data.clicks import Mask
from samihs_training.data.phantom import BleedType
from samihs_training.data.studies import StudySlice, is_bleed
from samihs_training.evaluation.metrics import mask_metrics
from samihs_training.evaluation.phantom_results import (
    BLEEDS,
    KINDS,
    ClickResult,
    Evaluation,
    SliceResult,
)
from samihs_training.evaluation.predictors import Predictor
from samihs_training.evaluation.score_trials import ScoreTrials


def evaluate(
    predictor: Predictor,
    study_slices: Iterable[StudySlice],
    *,
    score_threshold: float,
    threshold_is: str = "measured",
    trials: ScoreTrials | None = None,
) -> Evaluation:
    """Run the predictor on every click of the slices.

    ``threshold_is``: where the threshold comes from (:attr:`Predictor.threshold_is`).

    Raises:
        UsageError: there are no clicks.
    """
    clicks: list[ClickResult] = []
    slices: list[SliceResult] = []
    for each in study_slices:
        answers = predictor.answer(each.hu, [target.click for target in each.clicks])
        clicks += _click_results(each, answers, score_threshold)
        slices += _slice_results(each, answers, score_threshold)
    if not clicks:
        raise UsageError("no slice to click on: ask for more studies")
    studies = len({each.study for each in clicks})
    return Evaluation(
        predictor.name, studies, tuple(clicks), tuple(slices), score_threshold, trials,
        predictor.weights, threshold_is,
    )  # fmt: skip


def _click_results(
    study_slice: StudySlice, answers: Sequence[tuple[Mask, float]], threshold: float
) -> list[ClickResult]:
    spacing = (study_slice.spacing_mm, study_slice.spacing_mm)
    results = []
    for target, lesion_ml, (mask, score) in zip(
        study_slice.clicks, study_slice.lesions_ml, answers, strict=True
    ):
        metrics = mask_metrics(mask, target.mask, spacing)
        served = mask & (score >= threshold)
        results.append(
            ClickResult(
                study=study_slice.study,
                slice=study_slice.index,
                kind=target.kind.name.lower() if is_bleed(target) else "none",
                x=target.click[0],
                y=target.click[1],
                area_mm2=float(target.mask.sum()) * study_slice.spacing_mm**2,
                lesion_ml=lesion_ml,
                dice=metrics.dice,
                iou=metrics.iou,
                hd95_mm=metrics.hd95_mm,
                volume_error_ml=metrics.area_error_mm2 * study_slice.extent_mm / 1000,
                score=score,
                served_dice=mask_metrics(served, target.mask, spacing).dice,
            )
        )
    return results


def _slice_results(
    study_slice: StudySlice, answers: Sequence[tuple[Mask, float]], threshold: float
) -> list[SliceResult]:
    spacing = (study_slice.spacing_mm, study_slice.spacing_mm)
    found = [
        (target.kind, mask, mask & (score >= threshold))
        for target, (mask, score) in zip(study_slice.clicks, answers, strict=True)
        if is_bleed(target)
    ]
    results = []
    for name in (*KINDS, "all"):
        kinds = BLEEDS if name == "all" else {BleedType[name.upper()]}
        drawn = [mask for kind, mask, _ in found if kind in kinds]
        served = [mask for kind, _, mask in found if kind in kinds]
        if not drawn:
            continue
        truth = np.isin(study_slice.bleeds, list(kinds))
        metrics = mask_metrics(np.logical_or.reduce(drawn), truth, spacing)
        area = float(truth.sum()) * study_slice.spacing_mm**2
        served_dice = mask_metrics(np.logical_or.reduce(served), truth, spacing).dice
        results.append(
            SliceResult(
                study_slice.study, study_slice.index, name, len(drawn), area,
                metrics.dice, metrics.hd95_mm, served_dice,
            )
        )  # fmt: skip
    return results
