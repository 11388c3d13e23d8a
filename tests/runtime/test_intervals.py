"""Means with bootstrap intervals, and what an interval means."""

from __future__ import annotations

import math

import numpy as np
import pytest

from samihs_runtime.intervals import estimate, estimate_share


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


@pytest.mark.parametrize(("clicks", "possible"), [(4, 0.602), (20, 0.168), (1000, 0.0037)])
def test_none_of_a_few_clicks_proves_little(clicks: int, possible: float) -> None:
    """Resampled studies alone would give 0 to 0."""
    none = estimate_share([False] * clicks, [number % 4 for number in range(clicks)])
    assert (none.mean, none.low) == (0, 0)
    assert none.high == pytest.approx(possible, rel=0.01)
    every = estimate_share([True] * clicks, [number % 4 for number in range(clicks)])
    assert (every.low, every.high) == (pytest.approx(1 - possible, rel=0.01), 1)


def test_a_share_is_no_surer_than_its_studies_are() -> None:
    happened = [study % 2 == 0 for study in range(10) for _ in range(100)]
    studies = [study for study in range(10) for _ in range(100)]
    share, mean = estimate_share(happened, studies), estimate([float(e) for e in happened], studies)
    assert (share.low, share.high) == (mean.low, mean.high)
    assert math.isnan(estimate_share(happened[:100], studies[:100]).low)
    assert estimate_share([], []).count == 0


def test_undefined_values_are_counted() -> None:
    result = estimate([1.0, float("nan"), 3.0], [1, 2, 3])
    assert (result.mean, result.count, result.undefined) == (2.0, 2, 1)
    assert estimate([float("nan")], [1]).count == 0
