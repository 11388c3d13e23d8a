"""Which parts of a mask are the clicked lesion's, and which of its holes are closed."""

from __future__ import annotations

import numpy as np
import pytest

from samihs_runtime.clicked_parts import SMALL_HOLE, Mask, clicked_parts, filled
from samihs_runtime.segmentation import BACKGROUND, FOREGROUND, Prompt

SIDE = 64
AREA = 40 * 40


def blood(*holes: tuple[slice, slice]) -> Mask:
    """40 x 40 pixels with holes in them."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10:50, 10:50] = True
    for hole in holes:
        mask[hole] = False
    return mask


SMALL = (slice(20, 24), slice(20, 24))
LARGE = (slice(26, 46), slice(26, 46))


def test_a_part_that_no_click_is_near_is_not_the_lesion() -> None:
    mask = blood()
    mask[55:60, 55:60] = True
    assert np.array_equal(clicked_parts(mask, Prompt(((30, 52),), (FOREGROUND,))), blood())
    assert not clicked_parts(mask, Prompt(((30, 3),), (FOREGROUND,))).any()
    box = Prompt(box=(0, 0, 63, 63))
    assert np.array_equal(clicked_parts(mask, box), mask)


def test_small_holes_are_noise_and_large_ones_are_not() -> None:
    assert 16 <= SMALL_HOLE * AREA < 400
    answer = clicked_parts(blood(SMALL, LARGE), Prompt(((12, 12),), (FOREGROUND,)))
    assert np.array_equal(answer, blood(LARGE))
    assert np.array_equal(filled(blood(SMALL)), blood())


def test_an_inlet_is_no_hole() -> None:
    open_to_the_side = blood((slice(20, 24), slice(10, 24)))
    assert np.array_equal(filled(open_to_the_side), open_to_the_side)


@pytest.mark.parametrize("with_foreground", [True, False])
def test_a_hole_that_was_clicked_as_background_stays(with_foreground: bool) -> None:
    other = (slice(40, 43), slice(40, 43))
    points, labels = [(21.4, 22.0)], [BACKGROUND]
    if with_foreground:
        points, labels = [(12.0, 12.0), *points], [FOREGROUND, *labels]
    answer = clicked_parts(blood(SMALL, other), Prompt(tuple(points), tuple(labels)))
    assert np.array_equal(answer, blood(SMALL))


def test_the_given_mask_is_not_changed_and_an_empty_one_is_answered() -> None:
    mask = blood(SMALL)
    filled(mask)
    assert np.array_equal(mask, blood(SMALL))
    assert not filled(np.zeros((SIDE, SIDE), bool)).any()
    outside = filled(mask, [(-5.0, 70.0)])
    assert np.array_equal(outside, blood())
