"""Each exact change of the export graphs, against segment-anything's own forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from samihs_export.graphs.attention import AttentionForm, RelativeAttention
from samihs_export.graphs.decoder_graph import DecoderGraph
from samihs_export.graphs.encoder_graph import EncoderGraph, one_channel_patches
from samihs_export.graphs.windows import Windows
from samihs_export.merge import merge, relative_error
from samihs_training.adapters import PRConfig
from samihs_training.network.model import SamihsModel, mask_at_slice_size
from tests.export.conftest import PR, SLICE, TINY, TINY_PYRAMID, adapted_model, set_threshold

FORMS: tuple[AttentionForm, ...] = ("bias", "augmented", "fused")
PROMPTS = {
    "click": ([(40.0, 50.0), (0.0, 0.0)], [1, -1]),
    "two clicks": ([(40.0, 50.0), (10.5, 80.0), (0.0, 0.0)], [1, 0, -1]),
    "box": ([(20.0, 30.0), (60.0, 70.0)], [2, 3]),
    "click in a box": ([(40.0, 50.0), (20.0, 30.0), (60.0, 70.0)], [1, 2, 3]),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def merged() -> SamihsModel:
    return merge(adapted_model(PRConfig(rank=8)))[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [0, 1])
@torch.no_grad()
def test_attention_equals_segment_anythings(
    merged: SamihsModel, block: int, form: AttentionForm
) -> None:
    theirs: Any = merged.sam.image_encoder.blocks[block].attn
    side = (TINY.window, TINY.grid)[block]
    tokens = random(3, side, side, TINY.width)
    ours = RelativeAttention(theirs, Windows(side, side), form)
    assert relative_error(ours(tokens), theirs(tokens)) < 1e-5


@torch.no_grad()
def test_one_channel_is_three_equal_normalised_channels() -> None:
    conv = nn.Conv2d(3, 8, 4, stride=4)
    image = random(2, 1, 16, 16).sigmoid()
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    three = (image.expand(-1, 3, -1, -1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    folded = one_channel_patches(conv, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert relative_error(folded(image), conv(three)) < 1e-5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pad_before_norm", [False, True])
@torch.no_grad()
def test_encoder_equals_the_models(form: AttentionForm, pad_before_norm: bool) -> None:
    model = adapted_model(PRConfig(rank=8, pad_before_norm=pad_before_norm))
    hu, window = random(2, 1, SLICE, SLICE) * 60 + 40, torch.tensor([[-20.0, 100], [0, 80]])
    expected = model.encode(hu, window)
    assert relative_error(EncoderGraph(merge(model)[0], form)(hu, window), expected) < 1e-5
    # Adapters that are not merged are exported as they are.
    assert relative_error(EncoderGraph(model, form)(hu, window), expected) < 1e-5


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("with_prior", [False, True])
@torch.no_grad()
def test_decoder_equals_segment_anythings(
    merged: SamihsModel, prompt: str, with_prior: bool
) -> None:
    points, labels = torch.tensor([PROMPTS[prompt][0]]), torch.tensor([PROMPTS[prompt][1]])
    embedding = random(1, TINY.prompt_width, TINY.grid, TINY.grid)
    prior = 4 * random(1, 1, TINY.mask_size, TINY.mask_size, seed=1)
    sam = merged.sam
    # segment-anything's own prompt encoder adds the half pixel, and takes boxes separately.
    clicks, corners = labels[0] < 2, labels[0] >= 2
    clicks &= labels[0] >= 0
    frame = points * (TINY.image_size / SLICE)
    given = (frame[:, clicks], labels[:, clicks]) if clicks.any() else None
    box = frame[:, corners].reshape(1, 4) if corners.any() else None
    sparse, dense = sam.prompt_encoder(given, box, prior if with_prior else None)
    expected, score = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    graph = DecoderGraph(merged, SLICE)
    logits, mask, ours = graph(
        embedding, points, labels.int(), prior, torch.tensor([float(with_prior)])
    )
    assert relative_error(logits, expected) < 1e-5
    assert relative_error(ours, score[:, 0]) < 1e-5
    assert mask.dtype == torch.uint8
    assert torch.equal(mask, mask_at_slice_size(logits, SLICE)[:, 0].to(torch.uint8))


@torch.no_grad()
def test_each_row_of_a_batch_has_its_own_embedding_and_prior(merged: SamihsModel) -> None:
    embedding = random(3, TINY.prompt_width, TINY.grid, TINY.grid)
    points = torch.tensor([[[40.0, 50.0], [0, 0]], [[8.0, 9.0], [0, 0]], [[70.0, 3.0], [0, 0]]])
    labels = torch.tensor([[1, -1]] * 3, dtype=torch.int32)
    prior = random(3, 1, TINY.mask_size, TINY.mask_size)
    prior[2] = torch.nan  # must not be used
    has_prior = torch.tensor([0.0, 1.0, 0.0])
    graph = DecoderGraph(merged, SLICE)
    together = graph(embedding, points, labels, prior, has_prior)
    for row in range(3):
        one = slice(row, row + 1)
        alone = merged.decode(
            embedding[one],
            points[one],
            labels[one],
            prior[one] if has_prior[row] else None,
            slice_size=SLICE,
        )
        assert relative_error(together[0][one], alone[0]) < 1e-5
        assert relative_error(together[2][one], alone[1]) < 1e-5


@torch.no_grad()
def test_a_pyramid_and_its_detail_equal_the_models() -> None:
    model = adapted_model(PR, config=TINY_PYRAMID)
    hu, window = random(2, 1, SLICE, SLICE) * 60 + 40, torch.tensor([[-20.0, 100], [0, 80]])
    embedding = model.encode(hu, window)
    assert embedding.shape[1] == model.config.embedding_channels
    merged, _ = merge(model)
    assert relative_error(EncoderGraph(merged, "bias")(hu, window), embedding) < 1e-5
    points = torch.tensor([[[40.0, 50.0], [0, 0]], [[8.0, 9.0], [0, 0]]])
    labels = torch.tensor([[1, -1]] * 2, dtype=torch.int32)
    prior = torch.zeros(2, 1, model.config.mask_size, model.config.mask_size)
    logits, _, score = DecoderGraph(merged, SLICE)(embedding, points, labels, prior, torch.zeros(2))
    expected, their_score = model.decode(embedding, points, labels, slice_size=SLICE)
    assert relative_error(logits, expected) < 1e-5
    assert relative_error(score, their_score) < 1e-5


@torch.no_grad()
def test_the_threshold_moves_the_logits_of_model_and_graph_and_nothing_else() -> None:
    """Nor does a correction, whose prior is an earlier answer, come out otherwise."""
    model = adapted_model(PR, config=TINY_PYRAMID)
    embedding = random(1, model.config.embedding_channels, TINY.grid, TINY.grid)
    points, labels = torch.tensor([[[40.0, 50.0], [0, 0]]]), torch.tensor([[1, -1]]).int()
    nothing = torch.zeros(1, 1, model.config.mask_size, model.config.mask_size)

    def answers(threshold: float) -> list[tuple[Tensor, Tensor]]:
        """Of model and graph: to a first click, and to one with that answer as its prior."""
        set_threshold(model.sam, threshold)
        graph = DecoderGraph(merge(model)[0], SLICE)
        first = model.decode(embedding, points, labels, slice_size=SLICE)
        second = model.decode(embedding, points + 9, labels, first[0], slice_size=SLICE)
        drawn = graph(embedding, points, labels, nothing, torch.zeros(1))
        corrected = graph(embedding, points + 9, labels, drawn[0], torch.ones(1))
        return [first, second, *((each[0], each[2]) for each in (drawn, corrected))]

    before, after = answers(0.0), answers(-0.75)
    for (logits, score), (moved, same) in zip(before, after, strict=True):
        assert relative_error(moved, logits + 0.75) < 1e-5
        assert relative_error(same, score) < 1e-5
    assert relative_error(before[1][0], before[0][0]) > 1e-2  # the prior is used
    assert relative_error(before[3][0], before[1][0]) < 1e-5
