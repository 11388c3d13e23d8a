"""What a step asks of the model: at which size masks are judged, and which of them are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from samihs_training.data.slices import Batch
from samihs_training.losses import mask_iou, score_loss
from samihs_training.network.model import SamihsModel, ScoreInput, mask_at_slice_size
from samihs_training.network.sam import build_sam
from samihs_training.stages.objective import Objective, low_resolution

from .tiny import PYRAMID, TINY
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
    """The model answers so, whatever it is asked."""
    return patched(model, lambda points: logits, score)


def patched(
    model: SamihsModel, answer: Callable[[Tensor], Tensor], score: Tensor
) -> AbstractContextManager[object]:
    """The model answers with the logits that ``answer`` gives of the points."""
    return patch.multiple(
        model,
        answer=lambda _, points, *__, **___: (answer(points), None),
        score=lambda known: score,
    )


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

    def answer(points: Tensor) -> Tensor:
        given.append(points)
        return logits.clone()

    objective = Objective(model, RECIPE, replace(STAGE, at_slice_size=True))
    with patched(model, answer, torch.zeros(2)):
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

    def answer(points: Tensor) -> Tensor:
        return answers[points.shape[1] - 2].clone()

    objective = Objective(model, RECIPE, STAGE)
    with patched(model, answer, torch.zeros(2)):
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


@pytest.mark.parametrize("correct", [False, True])
def test_what_the_score_hears_is_what_it_is_predicted_from(masks: Tensor, correct: bool) -> None:
    """Of first and corrective clicks, with the IoU of each mask, and no gradient."""
    torch.manual_seed(0)
    model = SamihsModel(build_sam(PYRAMID), PYRAMID).eval()
    evidence = model.sam.mask_decoder.evidence
    for weight in (evidence.out.weight, evidence.slice_hidden.weight):
        torch.nn.init.normal_(weight)
    masks[0] = 0
    batch = batch_of(masks)
    objective = Objective(model, replace(RECIPE, amp=False), STAGE).eval()
    seen: list[tuple[Tensor, Tensor]] = []
    decode = model.answer

    def noted(*given: Any, **more: Any) -> Any:
        logits, known = decode(*given, **more)
        seen.append((mask_iou(logits, low_resolution(masks, PYRAMID.mask_size)), known.token))
        return logits, known

    torch.manual_seed(1)
    with patch.object(model, "answer", noted):
        heard = objective.heard(batch, correct)
    assert len(seen) == 1 + correct
    assert torch.equal(heard.iou[:, 0], torch.cat([iou for iou, _ in seen]))
    assert heard.on_mask.tolist() == [False, True] + [False, False] * correct
    assert torch.equal(heard.token, torch.cat([token for _, token in seen]))
    assert not any(each.requires_grad for each in (heard.token, heard.evidence, heard.iou))
    _, score = model.decode(
        model.encode(batch.hu, batch.window), batch.points, batch.labels, slice_size=SLICE
    )
    told = model.score(ScoreInput(heard.token, heard.evidence))
    assert torch.allclose(told[:2], score, atol=1e-5)
