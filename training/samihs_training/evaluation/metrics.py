"""Metrics of masks, and the threshold that separates two groups of scores.

Rules for empty masks: if both are empty, the answer is perfect (Dice 1, distance 0); if only one
is, Dice is 0 and the surface distance is undefined (NaN). A mean leaves out undefined values and
counts them (:class:`~samihs_runtime.intervals.Estimate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samihs_training.data.clicks import Mask
from samihs_training.evaluation.surface import hausdorff_95


@dataclass(frozen=True)
class MaskMetrics:
    """Metrics of one predicted mask against the true mask of that slice."""

    dice: float
    iou: float
    hd95_mm: float
    """95th percentile of the symmetric surface distance, mm (MONAI); NaN where undefined."""
    area_error_mm2: float
    """Predicted minus true area."""


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
