"""The convolutional stem and the detail that goes past the encoder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from samihs_runtime.errors import UsageError
from samihs_training.initialisation import initialised
from samihs_training.model import SamihsModel
from samihs_training.sam import build_sam, preset
from samihs_training.stem import ConvStem, pack, unpack, upscaled

from .tiny import TINY

STEMMED = replace(TINY, stem_width=4, detail=True)


def test_tokens_have_the_shape_of_sams_patch_embedding() -> None:
    tokens = ConvStem(width=16, fine_width=4, detail=2)(torch.zeros(2, 3, 64, 32))
    assert tokens.shape == (2, 8, 4, 16)


def test_packing_is_undone_exactly_and_keeps_each_cell_at_its_token() -> None:
    embedding, detail = torch.randn(2, 5, 3, 3), torch.randn(2, 2, 12, 12)
    packed = pack(embedding, detail)
    assert packed.shape == (2, 5 + 16 * 2, 3, 3)
    first, second = unpack(packed, 5)
    assert second is not None
    assert torch.equal(first, embedding)
    assert torch.equal(second, detail)
    token = packed[0, 5:, 1, 2].reshape(2, 4, 4)  # what lies beside token (1, 2)
    assert torch.equal(token, detail[0, :, 4:8, 8:12])


def test_without_detail_the_decoder_is_sams() -> None:
    upscaling = nn.Sequential(nn.ConvTranspose2d(8, 2, 2, stride=2), nn.GELU())
    source = torch.randn(1, 8, 3, 3)
    assert torch.equal(upscaled(upscaling, source, None), upscaling(source))
    zeros = torch.zeros(1, 2, 6, 6)
    assert torch.equal(upscaled(upscaling, source, zeros), upscaling(source))
    assert unpack(source, 8)[1] is None


def test_detail_changes_the_mask_only_at_its_own_cell() -> None:
    torch.manual_seed(0)
    model = SamihsModel(build_sam(STEMMED), STEMMED).eval()
    embedding = torch.randn(1, STEMMED.embedding_channels, STEMMED.grid, STEMMED.grid)
    points, labels = torch.tensor([[[9.0, 9.0], [0, 0]]]), torch.tensor([[1, -1]])
    moved = embedding.clone()
    moved[0, STEMMED.prompt_width, 2, 3] += 5.0  # the first cell of token (2, 3)
    with torch.no_grad():
        one, _ = model.decode(embedding, points, labels, slice_size=64)
        other, _ = model.decode(moved, points, labels, slice_size=64)
    assert (one != other).nonzero().tolist() == [[0, 0, 8, 12]]


def test_a_fresh_model_answers_background_everywhere() -> None:
    model = SamihsModel(initialised(build_sam(STEMMED)), STEMMED).eval()
    points, labels = torch.tensor([[[9.0, 9.0], [0, 0]]]), torch.tensor([[1, -1]])
    with torch.no_grad():
        embedding = model.encode(torch.full((1, 1, 64, 64), 40.0), torch.tensor([[-20.0, 100.0]]))
        logits, _ = model.decode(embedding, points, labels, slice_size=64)
    assert (logits < 0).float().mean() > 0.9


def test_what_a_stem_cannot_be_is_said() -> None:
    with pytest.raises(UsageError, match="patch size 16"):
        replace(preset("vit_b"), stem_width=24)
    with pytest.raises(UsageError, match="give stem_width"):
        replace(TINY, detail=True)
