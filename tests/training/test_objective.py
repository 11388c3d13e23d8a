"""What a step asks of the model: at which size masks are judged, and which of them are."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from samihs_training.data.slices import Batch
from samihs_training.losses import mask_iou, score_loss
from samihs_training.network.model import SamihsModel, mask_at_slice_size
from samihs_training.network.sam import build_sam
from samihs_training.objective import Objective, low_resolution

from .tiny import TINY
from .tiny_run import RECIPE, STAGE

SLICE = 64


def batch_of(masks: Tensor) -> Batch:
    """One click on each of the masks [B, 1, S, S], of a slice each."""
    count = len(masks)
    return Batch(
        hu=torch.zeros(count, 1, SLICE, SLICE),
        window=torch.tensor([[-20.0, 100.0]]).expand(count, 2),
        points=torch.tensor([[[20.0, 20.0], [0.0, 0.0]]]).expand(count, 2, 2),
        labels=torch.tensor([[1, -1]]).expand(count, 2),
        masks=masks.to(torch.uint8),
        bleeds=masks.to(torch.uint8),
    )


def answering(model: SamihsModel, logits: Tensor, score: Tensor) -> AbstractContextManager[object]:
    """The model decodes to these, whatever it is asked."""
    return patch.object(model, "decode", lambda *_, **__: (logits, score))


@pytest.fixture
def model() -> SamihsModel:
    return SamihsModel(build_sam(TINY), TINY)


@pytest.fixture
def masks() -> Tensor:
    masks = torch.zeros(2, 1, SLICE, SLICE)
    masks[0, 0, 18:23, 19:22] = 1  # of no whole number of cells
    masks[1, 0, 8:41, 13:50] = 1
    return masks


@pytest.mark.parametrize("at_slice_size", [False, True])
def test_masks_are_judged_at_the_size_that_the_stage_names(
    model: SamihsModel, masks: Tensor, at_slice_size: bool
) -> None:
    torch.manual_seed(0)
    side = TINY.mask_size
    logits, score = torch.randn(2, 1, side, side), torch.tensor([0.2, 0.7])
    objective = Objective(model, RECIPE, replace(STAGE, at_slice_size=at_slice_size))
    logits.requires_grad_()
    if at_slice_size:
        judged = torch.nn.functional.interpolate(logits, size=(SLICE, SLICE), mode="bilinear")
        assert torch.equal(judged > 0, mask_at_slice_size(logits, SLICE))
        target = masks
    else:
        judged, target = logits, low_resolution(masks, side)
    with answering(model, logits, score):
        answered = objective(batch_of(masks))
    wanted = objective.loss(judged, target) + score_loss(score, judged, target)
    assert answered.loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert answered.iou == pytest.approx(mask_iou(judged, target).mean().item(), rel=1e-6)


def test_at_the_slices_size_a_part_of_a_cell_counts(model: SamihsModel) -> None:
    """Two lesions that fill the same cells by half and more are one at the decoder's size."""
    side = TINY.mask_size
    cell = SLICE // side
    masks = torch.zeros(2, 1, SLICE, SLICE)
    masks[:, :, : 4 * cell, : 4 * cell] = 1
    masks[1, :, 4 * cell - cell // 2 : 4 * cell, : 4 * cell] = 0
    logits = torch.where(low_resolution(masks, side) > 0, 6.0, -6.0)
    assert torch.equal(logits[0], logits[1])
    logits.requires_grad_()
    losses = {}
    for at_slice_size in (False, True):
        stage = replace(STAGE, at_slice_size=at_slice_size, score_weight=0.0)
        with answering(model, logits, torch.zeros(2)):
            objective = Objective(model, RECIPE, stage)
            losses[at_slice_size] = objective(batch_of(masks)).loss.item()
    assert losses[True] > 2 * losses[False]


def test_a_corrective_click_is_on_a_pixel_of_the_slice(model: SamihsModel, masks: Tensor) -> None:
    """Only pixels that a whole cell would hide are wrong; the second click finds one of them."""
    side = TINY.mask_size
    logits = torch.where(low_resolution(masks, side) > 0, 6.0, -6.0)
    wrong = (mask_at_slice_size(logits, SLICE) != masks.bool())[:, 0]
    assert wrong.flatten(1).any(1).all()
    given: list[Tensor] = []

    def decode(_: Tensor, points: Tensor, *__: object, **___: object) -> tuple[Tensor, Tensor]:
        given.append(points)
        return logits.clone(), torch.zeros(2)

    objective = Objective(model, RECIPE, replace(STAGE, at_slice_size=True))
    with patch.object(model, "decode", decode):
        objective(batch_of(masks), correct=True)
    assert [each.shape[1] for each in given] == [2, 3]
    for sample, (column, row) in enumerate(given[1][:, 1].long().tolist()):
        assert wrong[sample, row, column]


def test_figures_are_of_the_first_answer_whether_it_is_corrected_or_not(
    model: SamihsModel, masks: Tensor
) -> None:
    """A log that mixed second answers in would rise with the share of corrected steps."""
    side = TINY.mask_size
    right = torch.where(low_resolution(masks, side) > 0, 6.0, -6.0)
    answers = [torch.roll(right, 3, -1), right]

    def decode(_: Tensor, points: Tensor, *__: object, **___: object) -> tuple[Tensor, Tensor]:
        return answers[points.shape[1] - 2].clone(), torch.zeros(2)

    objective = Objective(model, RECIPE, STAGE)
    with patch.object(model, "decode", decode):
        plain, corrected = (objective(batch_of(masks), correct) for correct in (False, True))
    assert (corrected.iou, corrected.dice) == (plain.iou, plain.dice)
    assert 0 < plain.dice < 1
    assert corrected.loss != plain.loss


def test_it_is_said_how_many_prompts_the_figures_are_of(model: SamihsModel, masks: Tensor) -> None:
    masks[0] = 0
    answered = Objective(model, RECIPE, STAGE)(batch_of(masks))
    assert (answered.prompts, answered.with_mask) == (2, 1)


def test_where_nothing_bleeds_the_score_alone_may_learn(model: SamihsModel) -> None:
    target = torch.zeros(2, 1, 8, 8)
    target[0, 0, 2:5, 2:5] = 1
    torch.manual_seed(0)
    given = torch.randn(2, 1, 8, 8)

    def pull(empty_masks: bool, asked: torch.Tensor) -> torch.Tensor:
        objective = Objective(model, RECIPE, replace(STAGE, empty_masks=empty_masks))
        logits = given.clone().requires_grad_()
        objective._mask_loss(logits, asked).backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        return logits.grad.abs().sum((1, 2, 3))

    assert (pull(True, target) > 0).all()
    with_mask, without = pull(False, target)
    assert with_mask > 0
    assert without == 0
    assert not pull(False, torch.zeros_like(target)).any()


def test_a_stage_that_trains_the_score_alone_has_its_error_alone_for_a_loss(
    model: SamihsModel, masks: Tensor
) -> None:
    torch.manual_seed(0)
    fixed, score = torch.randn(2, 1, TINY.mask_size, TINY.mask_size), torch.rand(2)
    score.requires_grad_()
    objective = Objective(model, RECIPE, STAGE)
    target = low_resolution(masks, TINY.mask_size)
    with answering(model, fixed, score):
        trained = objective(batch_of(masks)).loss
        with torch.no_grad():  # as in validation, which reports the masks' loss too
            validated = objective(batch_of(masks)).loss
    assert trained.item() == pytest.approx(score_loss(score, fixed, target).item())
    assert validated.item() == pytest.approx(
        trained.item() + objective.loss(fixed, target).item(), rel=1e-6
    )
