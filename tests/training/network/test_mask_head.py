"""The context of clicked tokens, the fine answer's gate, and what a mask says of its worth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from samihs_training.network.mask_head import Context, Evidence, Likeness, gated
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import build_sam, segment_anything_modeling
from samihs_training.network.second_look import MARGIN
from tests.training.tiny import PYRAMID


def context(width: int = 8) -> Context:
    torch.manual_seed(0)
    return Context(width, 2, 16, segment_anything_modeling()).eval()


def test_what_begins_fresh_changes_nothing() -> None:
    source, cells = torch.randn(2, 8, 4, 4), torch.randn(2, 3, 8, 8)
    assert torch.equal(context()(source, torch.randn(1, 8, 4, 4)), source)
    assert not Likeness(3)(cells, torch.full((2, 8, 8), 1 / 64)).any()
    where = torch.zeros(2, 8, 8)
    features = cells, torch.randn(2, 3, 8, 8), torch.randn(2, 2, 16, 16)
    assert not Evidence(3, 2)(torch.randn(2, 1, 16, 16), *features, where).any()
    coarse, fine = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 16, 16)
    answered = gated(torch.cat([coarse, torch.zeros_like(coarse)], dim=1), fine)
    enlarged = nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    assert torch.allclose(answered, enlarged + fine)


@torch.no_grad()
def test_a_token_hears_of_all_others_in_context() -> None:
    layer = context()
    nn.init.normal_(layer.attention.out_proj.weight)
    source, position = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 8, 8)
    moved = source.clone()
    moved[:, 0, 0, 0] += 3.0
    difference = (layer(moved, position) - layer(source, position)).abs().amax(1)[0]
    assert (difference > 1e-4).all()
    # At half the grid: four tokens hear the same.
    blocks = difference.unflatten(0, (4, 2)).unflatten(2, (4, 2)).permute(0, 2, 1, 3).flatten(2)
    far = blocks.flatten(0, 1)[1:]
    assert torch.allclose(far, far[:, :1].expand_as(far), rtol=1e-2)


@torch.no_grad()
def test_cells_like_the_clicked_one_are_answered_alike() -> None:
    torch.manual_seed(0)
    likeness = Likeness(3)
    nn.init.normal_(likeness.out.weight)
    detail = torch.randn(1, 3, 1, 1).expand(1, 3, 8, 8).clone()
    detail[..., 5:] += 1.0  # another tissue on the right
    for column, same in ((2, slice(0, 5)), (6, slice(5, 8))):
        where = torch.zeros(1, 8, 8)
        where[0, 3, column] = 1.0
        answer = likeness(detail, where)
        nothing = likeness(torch.zeros(1, 3, 8, 8), where)  # no difference at all
        assert torch.allclose(answer[..., same], nothing[..., same], atol=1e-5)
        other = torch.ones(8, dtype=torch.bool)
        other[same] = False
        assert (answer[..., other] - nothing[..., other]).abs().amax() > 0.05
    assert not likeness(detail, torch.zeros(1, 8, 8)).any()  # a box: nothing was clicked


@torch.no_grad()
def test_the_gate_says_where_the_fine_answer_counts() -> None:
    coarse = torch.zeros(1, 2, 4, 4)
    coarse[0, 1, :, :2] = -1.0  # closed on the left
    fine = torch.ones(1, 1, 8, 8)
    answered = gated(coarse, fine)[0, 0]
    assert torch.equal(answered[:, :3], torch.zeros(8, 3))
    assert torch.equal(answered[:, 5:], torch.ones(8, 3))


@pytest.mark.parametrize("heard", ["cells", "detail", "fine"])
def test_evidence_is_what_the_mask_holds_what_lies_around_it_and_what_was_clicked(
    heard: str,
) -> None:
    torch.manual_seed(0)
    evidence = Evidence(3, 2)
    nn.init.normal_(evidence.out.weight)
    nn.init.normal_(evidence.slice_hidden.weight)
    shapes = {"cells": (1, 3, 16, 16), "detail": (1, 3, 16, 16), "fine": (1, 2, 32, 32)}
    features = {name: torch.randn(shape, requires_grad=True) for name, shape in shapes.items()}
    logits = torch.full((1, 1, 32, 32), -20.0)
    logits[..., 4:8, 4:8] = 20.0
    logits.requires_grad_()
    where = torch.zeros(1, 16, 16)
    where[0, 12, 13] = 1.0
    evidence(logits, *features.values(), where).sum().backward()
    assert logits.grad is None  # the score must not improve by changing the mask
    gradient = features[heard].grad
    assert gradient is not None
    near = torch.zeros(16, 16, dtype=torch.bool)
    near[: 4 + MARGIN, : 4 + MARGIN] = True
    near[12, 13] = True
    reached = nn.functional.adaptive_max_pool2d(gradient.abs().amax(1), 16)[0]
    assert reached[near].min() > 1e4 * reached[~near].max()


@torch.no_grad()
def test_of_two_masks_the_model_scores_the_one_that_it_drew() -> None:
    """The model's score hears of its own logits and cells, for every prompt of a batch."""
    torch.manual_seed(0)
    sam: Any = build_sam(PYRAMID)
    model = SamihsModel(sam, PYRAMID).eval()
    embedding = torch.randn(1, PYRAMID.embedding_channels, PYRAMID.grid, PYRAMID.grid)
    points, labels = torch.tensor([[[9.0, 9.0]], [[40.0, 50.0]]]), torch.ones(2, 1)
    _, before = model.decode(embedding, points, labels, slice_size=64)
    evidence = sam.mask_decoder.evidence
    nn.init.constant_(evidence.out.bias, 0.25)
    _, raised = model.decode(embedding, points, labels, slice_size=64)
    assert torch.allclose(raised, before + 0.25)
    for weight in (evidence.out.weight, evidence.slice_hidden.weight):
        nn.init.normal_(weight)
    _, together = model.decode(embedding, points, labels, slice_size=64)
    alone = [
        model.decode(embedding, points[i : i + 1], labels[i : i + 1], slice_size=64)[1]
        for i in range(2)
    ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    assert (together[0] - together[1]).abs() > 1e-2


def test_squares_are_taken_in_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = SamihsModel(build_sam(PYRAMID), PYRAMID).eval()
    decoder: Any = model.sam.mask_decoder
    given: list[torch.dtype] = []

    def noting(computed: Any) -> Any:
        def note(*inputs: torch.Tensor) -> Any:
            assert not torch.is_autocast_enabled("cpu")
            given.append(inputs[0].dtype)
            return computed(*inputs)

        return note

    for module, name in ((decoder.review, "forward"), (decoder.evidence, "means"),
                         (decoder.evidence, "worth")):  # fmt: skip
        monkeypatch.setattr(module, name, noting(getattr(module, name)))
    embedding = torch.randn(1, PYRAMID.embedding_channels, PYRAMID.grid, PYRAMID.grid)
    with torch.autocast("cpu", torch.bfloat16):
        model.decode(
            embedding, torch.tensor([[[9.0, 9.0], [0, 0]]]), torch.tensor([[1, -1]]), slice_size=64
        )
    assert given == [torch.float32] * 3
