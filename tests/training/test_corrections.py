"""Corrective clicks: one rule for a training step's tensors and for an evaluation's masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from samihs_runtime.segmentation import BACKGROUND, BOX_MAX, BOX_MIN, FOREGROUND, Prompt
from samihs_training.stages.corrections import corrected, corrections, next_click

PAD = -1


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets [4, 1, 8, 8]: missed, spilled, rightly nothing, rightly something."""
    target = torch.zeros(4, 1, 8, 8)
    target[0, 0, 2:4, 2:4] = 1
    target[3, 0, 5:, 5:] = 1
    logits = torch.full((4, 1, 8, 8), -1.0)
    logits[1, 0, 6, 6] = 1.0
    logits[3, 0, 5:, 5:] = 1.0
    return logits, target


def test_a_click_falls_on_an_error_with_its_label() -> None:
    logits, target = maps()
    points = torch.tensor([[[20.0, 20.0], [0.0, 0.0]]]).repeat(4, 1, 1)
    labels = torch.tensor([[FOREGROUND, PAD]]).repeat(4, 1)
    prompt, kinds = corrected(points, labels, logits, target, slice_size=64)
    assert prompt.shape == (4, 3, 2)
    assert kinds.dtype == torch.int64
    assert kinds[:, 2].tolist() == [PAD] * 4
    assert torch.equal(prompt[:, 0], points[:, 0])
    assert kinds[:2, 1].tolist() == [FOREGROUND, BACKGROUND]
    assert (prompt[0, 1] >= 16).all()
    assert (prompt[0, 1] < 32).all()
    assert prompt[1, 1].tolist() == [51.5, 51.5]
    # Nothing is wrong: the same click again, as background where nothing bleeds.
    assert prompt[2:, 1].tolist() == [[20.0, 20.0]] * 2
    assert kinds[2:, 1].tolist() == [BACKGROUND, FOREGROUND]


def test_a_box_that_was_answered_rightly_is_confirmed_by_a_click() -> None:
    """Its first point is a corner, which says nothing of what is there."""
    logits, target = maps()
    points = torch.tensor([[[8.0, 8.0], [40.0, 40.0]]]).repeat(4, 1, 1)
    labels = torch.tensor([[BOX_MIN, BOX_MAX]]).repeat(4, 1)
    prompt, kinds = corrected(points, labels, logits, target, slice_size=64)
    assert kinds[:, 0].tolist() == [BOX_MIN] * 4
    assert kinds[:, 2].tolist() == [BOX_MAX] * 4
    assert kinds[:, 1].tolist() == [FOREGROUND, BACKGROUND, BACKGROUND, FOREGROUND]
    assert (prompt[3, 1] >= 40).all()  # in the mask


def test_every_wrong_pixel_is_as_likely() -> None:
    truth = torch.zeros(1, 4, 4, dtype=torch.bool)
    truth[0, 0, :2] = True
    answer = torch.zeros_like(truth)
    answer[0, 3, 2:] = True
    torch.manual_seed(0)
    drawn = [corrections(answer, truth).cells[0].tolist() for _ in range(800)]
    counts = {tuple(cell): drawn.count(cell) for cell in drawn}
    assert counts.keys() == {(0, 0), (1, 0), (2, 3), (3, 3)}
    assert all(count == pytest.approx(200, abs=50) for count in counts.values())  # 4 sigma


def square(rows: slice, columns: slice) -> NDArray[np.bool_]:
    mask = np.zeros((40, 50), bool)
    mask[rows, columns] = True
    return mask


def test_the_next_click_falls_in_the_largest_error() -> None:
    truth = square(slice(5, 15), slice(5, 15))
    missed = square(slice(5, 15), slice(5, 12))  # 10 x 3 are missing
    spilled = missed | square(slice(25, 35), slice(30, 40))  # and 10 x 10 are too much
    first = Prompt(((8.0, 8.0),), (FOREGROUND,))
    second = next_click(first, spilled, truth)
    assert second.labels == (FOREGROUND, BACKGROUND)
    x, y = second.points[1]
    assert 28 < y < 32
    assert 33 < x < 37
    third = next_click(second, missed, truth)
    assert third.labels[2] == FOREGROUND
    assert third.points[2][0] == 13.0  # the middle one of the three missed columns
    assert next_click(third, truth, truth) == third
    boxed = next_click(Prompt(box=(1.0, 2.0, 30.0, 31.0)), missed, truth)
    assert (boxed.box, len(boxed.points)) == ((1.0, 2.0, 30.0, 31.0), 1)


def test_missed_and_spilled_areas_that_touch_are_two_errors() -> None:
    """Together the first two are larger than the third, and their middle lies on the seam."""
    truth = square(slice(0, 6), slice(0, 6)) | square(slice(20, 27), slice(20, 29))
    answer = square(slice(0, 6), slice(6, 12))  # what was missed ends where it spilled
    corrected = next_click(Prompt(((2.0, 2.0),), (FOREGROUND,)), answer, truth)
    assert corrected.labels[1] == FOREGROUND
    x, y = corrected.points[1]
    assert 20 <= x < 29
    assert y == 23.0  # of seven rows the middle one


@pytest.mark.parametrize("seed", range(5))
def test_the_next_click_is_on_an_error_with_its_label(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answer, truth = rng.random((2, 9, 7)) < 0.5
    corrected = next_click(Prompt(((0.0, 0.0),), (FOREGROUND,)), answer, truth)
    x, y = (int(each) for each in corrected.points[1])
    assert answer[y, x] != truth[y, x]
    assert corrected.labels[1] == (FOREGROUND if truth[y, x] else BACKGROUND)
