"""Whether the score tells blood from other tissue: a threshold, and its trial on other studies.

The score is a predicted IoU. Its threshold is chosen on studies with seeds of their own and tried
on others: on clicks on bleeds (``phantoms.py``), and here on clicks in bleed-free heads, where
every accepted click is a false accept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samihs_runtime.intervals import Estimate, estimate_share
from samihs_training.data.phantom import PhantomOptions
from samihs_training.data.studies import STUDY_SEED, StudySlice, StudySpec, is_bleed, study_slices
from samihs_training.evaluation.metrics import best_threshold
from samihs_training.evaluation.predictors import Predictor

Progress = Callable[[int], None]
CALIBRATION_SEED = STUDY_SEED + 400_000
BLEED_FREE_SEED = STUDY_SEED + 500_000
LEAST_ML = 1.0
"""Smallest bleed used to choose a threshold: whether a speck is blood, nobody can tell."""
BINS = 10


@dataclass(frozen=True)
class ScoreTrials:
    """Clicks in bleed-free studies, and the threshold applied to them."""

    threshold: float
    studies: int
    clicks: int
    false_accepts: Estimate
    """Share of the clicks that were accepted, with an interval over studies."""

    def summary(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


def calibrated_threshold(
    predictor: Predictor, studies: int, *, workers: int = 1, progress: Progress = lambda done: None
) -> float:
    """The score that best separates clicks on bleeds of 1 mL and more from clicks elsewhere.

    Chosen by the largest Youden index on ``studies`` studies that neither training nor evaluation
    sees.
    """
    spec = StudySpec(studies, elsewhere=3, first_seed=CALIBRATION_SEED)
    bled, calm = [], []
    for each in study_slices(spec, workers=workers, progress=progress):
        answers = predictor.answer(each.hu, [target.click for target in each.clicks])
        for target, lesion_ml, (_, score) in zip(
            each.clicks, each.lesions_ml, answers, strict=True
        ):
            if not is_bleed(target):
                calm.append(score)
            elif lesion_ml >= LEAST_ML:
                bled.append(score)
    return best_threshold(bled, calm)


def score_trials(
    predictor: Predictor,
    threshold: float,
    studies: int,
    *,
    workers: int = 1,
    progress: Progress = lambda done: None,
) -> ScoreTrials:
    """Click where nothing bleeds: 40 times in each of ``studies`` bleed-free heads.

    Half of the clicks fall on what looks like blood (``data.targets.negative_target``).
    """
    accepted, of_study = [], []
    for each in bleed_free_slices(studies, workers=workers, progress=progress):
        answers = predictor.answer(each.hu, [target.click for target in each.clicks])
        accepted += [score >= threshold for _, score in answers]
        of_study += [each.study] * len(answers)
    share = estimate_share(accepted, of_study)
    return ScoreTrials(threshold, studies, len(accepted), share)


def bleed_free_slices(
    studies: int, *, workers: int = 1, progress: Progress = lambda done: None
) -> Iterator[StudySlice]:
    """Slices of bleed-free studies: four through each brain, with 10 clicks each."""
    options = PhantomOptions(bleeds=())
    spec = StudySpec(studies, 12, options=options, elsewhere=10, first_seed=BLEED_FREE_SEED)
    return study_slices(spec, workers=workers, progress=progress)


def reliability(scores: Sequence[float], worth: Sequence[float]) -> list[dict[str, float]]:
    """Clicks by score, in bins of 0.1: how many, their mean score, and their mean IoU.

    ``worth``: the IoU of each mask. Scores outside 0 to 1 go into the outer bins.
    """
    score, iou = np.asarray(scores, float), np.asarray(worth, float)
    bins = np.clip((score * BINS).astype(int), 0, BINS - 1)
    return [
        {
            "low": number / BINS,
            "clicks": int((bins == number).sum()),
            "mean_score": float(score[bins == number].mean()),
            "mean_iou": float(iou[bins == number].mean()),
        }
        for number in range(BINS)
        if (bins == number).any()
    ]


def calibration_error(bins: Sequence[dict[str, float]]) -> float:
    """Expected calibration error: the mean distance between a bin's score and its IoU, weighted by
    clicks."""
    clicks = sum(each["clicks"] for each in bins)
    apart = [each["clicks"] * abs(each["mean_score"] - each["mean_iou"]) for each in bins]
    return sum(apart) / clicks if clicks else float("nan")


def plot_reliability(bins: Sequence[dict[str, float]], path: Path) -> None:
    """Write the reliability plot: a calibrated score lies on the diagonal."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    scores = [each["mean_score"] for each in bins]
    axes.plot(scores, [each["mean_iou"] for each in bins], marker="o")
    for each, score in zip(bins, scores, strict=True):
        axes.annotate(f"{each['clicks']:.0f}", (score, each["mean_iou"]), (4, -10),
                      textcoords="offset points", fontsize=7)  # fmt: skip
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), xlabel="predicted IoU (score)",
             ylabel="IoU of the mask; 0 where nothing bleeds")  # fmt: skip
    axes.set_title(f"calibration error {calibration_error(bins):.3f}", fontsize=9)
    figure.savefig(path, dpi=120)
