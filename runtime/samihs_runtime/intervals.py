"""Means over cases that belong together, with bootstrap intervals over what they belong to.

A mean leaves out undefined values and reports how many there were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_DRAWS = 2000


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


def estimate_share(happened: Sequence[bool], studies: Sequence[int] | Sequence[str]) -> Estimate:
    """The share of clicks with which something happened; its interval over ``studies`` is at least
    as wide as that of as many independent clicks (Clopper and Pearson, 1934).

    Resampled studies alone would give 0 to 0 if it happened with none of a few clicks.
    """
    over_studies = estimate([float(each) for each in happened], studies)
    if math.isnan(over_studies.low):
        return over_studies
    low, high = _clopper_pearson(sum(happened), len(happened))
    return replace(over_studies, low=min(low, over_studies.low), high=max(high, over_studies.high))


def _clopper_pearson(happened: int, of: int) -> tuple[float, float]:
    from scipy.special import betaincinv  # slow to import

    low = float(betaincinv(happened, of - happened + 1, 0.025)) if happened else 0.0
    high = float(betaincinv(happened + 1, of - happened, 0.975)) if happened < of else 1.0
    return low, high
