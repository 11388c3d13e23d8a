"""Metrics of masks, and bootstrap intervals of their means.

Rules for empty masks: if both are empty, the answer is perfect (Dice 1, distance 0); if only one
is, Dice is 0 and the surface distance is undefined (NaN). A mean leaves out undefined values and
reports how many there were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samihs_training.data.clicks import Mask
from samihs_training.evaluation.surface import hausdorff_95

BOOTSTRAP_DRAWS = 2000


@dataclass(frozen=True)
class MaskMetrics:
    """Metrics of one predicted mask against the true mask of that slice."""

    dice: float
    iou: float
    hd95_mm: float
    """95th percentile of the symmetric surface distance, mm (MONAI); NaN where undefined."""
    area_error_mm2: float
    """Predicted minus true area."""


@dataclass(frozen=True)
class Estimate:
    """A mean over clicks, and a 95 % bootstrap interval over studies."""

    mean: float
    low: float
    """NaN, like ``high``, if there is only one study, which says nothing about others."""
    high: float
    count: int
    """Values that went into the mean."""
    undefined: int = 0
    """Values left out (NaN)."""

    def interval(self, form: str = ".3f") -> str:
        """The interval as text: ``low to high``, each in format ``form``."""
        return interval_text(self.low, self.high, form)


def interval_text(low: float, high: float, form: str = ".3f") -> str:
    """An interval as text: ``low to high``, each in format ``form``; in words where it is NaN."""
    return "no interval" if math.isnan(low) else f"{low:{form}} to {high:{form}}"


def mask_metrics(predicted: Mask, truth: Mask, spacing_mm: tuple[float, float]) -> MaskMetrics:
    """Metrics of boolean masks [rows, columns]; ``spacing_mm`` is (between rows, columns)."""
    if predicted.shape != truth.shape:
        raise ValueError(f"masks of {predicted.shape} and {truth.shape}: expected one shape")
    both = int((predicted & truth).sum())
    areas = int(predicted.sum()), int(truth.sum())
    either = sum(areas) - both
    return MaskMetrics(
        dice=2 * both / sum(areas) if either else 1.0,
        iou=both / either if either else 1.0,
        hd95_mm=hausdorff_95(predicted, truth, spacing_mm),
        area_error_mm2=(areas[0] - areas[1]) * spacing_mm[0] * spacing_mm[1],
    )


def estimate(
    values: Sequence[float],
    studies: Sequence[int] | Sequence[str],
    *,
    seed: int = 0,
    draws: int = BOOTSTRAP_DRAWS,
) -> Estimate:
    """Mean of ``values``; its interval resamples whole ``studies``, as slices of one are alike.

    ``studies``: number or name of the study, or of the patient, that each value belongs to.
    """
    table = np.asarray(values, np.float64)
    defined = ~np.isnan(table)
    if not defined.any():
        nan = float("nan")
        return Estimate(nan, nan, nan, 0, len(table))
    _, group = np.unique(np.asarray(studies)[defined], return_inverse=True)
    sums = np.bincount(group, weights=table[defined])
    counts = np.bincount(group)
    mean, undefined = float(table[defined].mean()), int((~defined).sum())
    if len(sums) == 1:
        return Estimate(mean, float("nan"), float("nan"), int(defined.sum()), undefined)
    picks = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    means: NDArray[np.float64] = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(mean, float(low), float(high), int(defined.sum()), undefined)


def best_threshold(on_bleeds: Sequence[float], elsewhere: Sequence[float]) -> float:
    """The score that best separates clicks on bleeds from others (largest Youden index).

    Midway between two neighbouring scores; 0.5 if either group is empty.
    """
    if not len(on_bleeds) or not len(elsewhere):
        return 0.5
    bled, calm = np.sort(np.asarray(on_bleeds)), np.sort(np.asarray(elsewhere))
    scores = np.unique(np.concatenate([bled, calm]))
    cuts = np.concatenate([[scores[0] - 0.01], (scores[1:] + scores[:-1]) / 2])
    found = 1 - np.searchsorted(bled, cuts) / len(bled)
    refused = np.searchsorted(calm, cuts) / len(calm)
    return float(cuts[int(np.argmax(found + refused))])
