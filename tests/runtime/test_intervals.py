"""Means with bootstrap intervals, and what an interval means."""

from __future__ import annotations

import math

import numpy as np
import pytest

from samihs_runtime.intervals import estimate


def test_interval_resamples_studies_not_slices() -> None:
    """Ten copies of each study's value say nothing new: the interval must not shrink."""
    values = np.random.default_rng(9).normal(0.8, 0.1, 30)
    single = estimate(list(values), list(range(30)))
    copied = estimate(list(np.repeat(values, 10)), list(np.repeat(np.arange(30), 10)))
    assert copied.mean == pytest.approx(single.mean)
    assert (copied.low, copied.high) == pytest.approx((single.low, single.high))
    half = 1.96 * values.std() / math.sqrt(30)
    assert single.high - single.low == pytest.approx(2 * half, rel=0.15)


def test_one_study_has_a_mean_and_no_interval() -> None:
    alone = estimate([0.5, 0.7], [3, 3])
    assert (alone.mean, alone.count, alone.interval()) == (pytest.approx(0.6), 2, "no interval")
    assert estimate([0.5, 0.7], [3, 4]).interval(".1f") == "0.5 to 0.7"


def test_undefined_values_are_counted() -> None:
    result = estimate([1.0, float("nan"), 3.0], [1, 2, 3])
    assert (result.mean, result.count, result.undefined) == (2.0, 2, 1)
    assert estimate([float("nan")], [1]).count == 0
