"""A larger model begun with a smaller one's weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from samihs_runtime.errors import CheckpointError
from samihs_training.checkpoints.base import start_from
from samihs_training.checkpoints.checkpoint import save_base
from samihs_training.network.growth import grown
from samihs_training.network.initialisation import initialised
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import SamConfig, build_sam
from tests.training.tiny import PYRAMID as NARROW
from tests.training.tiny import TINY

BIG = replace(TINY, image_size=128, patch_size=16)
WIDE = replace(NARROW, pyramid_width=7)


def stirred(config: SamConfig, seed: int = 0) -> Any:
    """No parameter as it begins: none is zero."""
    torch.manual_seed(seed)
    sam: Any = initialised(build_sam(config))
    for parameter in sam.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return sam


def answer(model: SamihsModel) -> tuple[Tensor, Tensor]:
    hu = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1)) * 40
    embedding = model.encode(hu, torch.tensor([[-20.0, 100.0]]).expand(2, 2))
    points = torch.tensor([[[9.0, 40.0], [0, 0]], [[30.0, 21.0], [0, 0]]])
    return model.decode(embedding, points, torch.tensor([[1, -1]] * 2), slice_size=64)


def test_a_wider_pyramid_answers_as_the_narrow_one_and_can_learn_more(tmp_path: Path) -> None:
    narrow, wide = stirred(NARROW), stirred(WIDE, seed=1)
    save_base(tmp_path / "base.safetensors", narrow, NARROW, {})
    assert start_from(wide, tmp_path / "base.safetensors") == []
    model = SamihsModel(wide, WIDE)
    (logits, scores), (before, scored) = answer(model), answer(SamihsModel(narrow, NARROW))
    assert before.std() > 0.01
    assert torch.allclose(logits, before, atol=1e-4 * before.abs().max().item())
    assert torch.allclose(scores, scored, atol=1e-4)
    logits.square().sum().backward()
    pyramid = wide.image_encoder.patch_embed
    heard = pyramid.fine.weight.grad[:, NARROW.pyramid_width :]  # by what went on as it was
    assert heard.abs().sum((0, 2, 3)).min() > 0
    assert not pyramid.fine.weight[:, NARROW.pyramid_width :].any()


def test_a_deeper_encoder_answers_as_the_shallow_one_and_can_learn_more(tmp_path: Path) -> None:
    deeper = replace(NARROW, depth=NARROW.depth + 2)
    shallow, deep = stirred(NARROW), stirred(deeper, seed=1)
    save_base(tmp_path / "base.safetensors", shallow, NARROW, {})
    fresh = start_from(deep, tmp_path / "base.safetensors")
    assert {name.split(".")[2] for name in fresh} == {str(NARROW.depth), str(NARROW.depth + 1)}
    model = SamihsModel(deep, deeper)
    (logits, scores), (before, scored) = answer(model), answer(SamihsModel(shallow, NARROW))
    assert torch.equal(logits, before)
    assert torch.equal(scores, scored)
    logits.square().sum().backward()
    for block in deep.image_encoder.blocks[NARROW.depth :]:
        assert block.attn.proj.weight.grad.any()
        assert block.mlp.lin2.weight.grad.any()


def test_a_narrower_pyramid_cannot_begin_with_a_wide_ones() -> None:
    fitting = grown(stirred(WIDE).state_dict(), stirred(NARROW))
    assert not any(name.startswith("image_encoder.patch_embed.proj") for name in fitting)


def test_a_larger_model_begins_with_what_fits_it() -> None:
    small = stirred(BIG)
    wider = replace(BIG, global_blocks=(0, 1), decoder_mlp=2 * BIG.decoder_mlp)
    large: Any = build_sam(wider)
    fitting = grown(small.state_dict(), large)
    missing = large.state_dict().keys() - fitting.keys()
    assert missing == {
        f"mask_decoder.transformer.layers.{layer}.mlp.{name}"
        for layer in range(BIG.decoder_depth)
        for name in ("lin1.weight", "lin1.bias", "lin2.weight")
    }
    theirs = small.image_encoder.blocks[0].attn.rel_pos_h
    ours = fitting["image_encoder.blocks.0.attn.rel_pos_h"]
    more = (len(ours) - len(theirs)) // 2  # what a window knew keeps its offsets
    assert torch.equal(ours[more : more + len(theirs)], theirs)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[-1], theirs[-1])


def test_another_familys_base_is_no_start(tmp_path: Path) -> None:
    save_base(tmp_path / "base.safetensors", stirred(BIG), BIG, {})
    other = build_sam(replace(BIG, width=32, prompt_width=24))
    with pytest.raises(CheckpointError, match="does not suit this preset"):
        start_from(other, tmp_path / "base.safetensors")
    same = build_sam(BIG)
    assert start_from(same, tmp_path / "base.safetensors") == []
