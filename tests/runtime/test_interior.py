"""The deepest interior points of a region."""

from __future__ import annotations

import numpy as np

from samihs_runtime.interior import deepest_point


def test_the_deepest_point_of_a_rectangle_is_its_middle() -> None:
    region = np.zeros((20, 30), bool)
    region[5:12, 3:24] = True
    x, y = deepest_point(region)
    assert y == 8
    assert 6 <= x <= 20


def test_the_deepest_point_is_deepest_in_mm() -> None:
    """Which of two rectangles is the deeper one depends on the shape of the pixels."""
    region = np.zeros((40, 60), bool)
    region[2:38, 4:13] = True  # 36 x 9 pixels
    region[12:32, 20:56] = True  # 20 x 36 pixels
    assert 20 <= deepest_point(region)[0] < 56
    assert 4 <= deepest_point(region, aspect=0.4)[0] < 13  # 14.4 x 9, and 8 x 36
