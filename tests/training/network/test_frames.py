"""A base in another frame: what moves, what stays, and that the model then answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from samihs_runtime.errors import UsageError
from samihs_training.checkpoints.checkpoint import (
    load_adapters,
    load_base,
    save_adapters,
    save_base,
)
from samihs_training.methods import METHODS, apply_method, make_method
from samihs_training.network.frames import Frame, in_frame
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import build_sam, preset
from tests.training.tiny import TINY

BIG = replace(TINY, image_size=128, patch_size=16)


def stirred() -> Any:
    torch.manual_seed(0)
    sam: Any = build_sam(BIG)
    nn.init.normal_(sam.image_encoder.pos_embed)
    for block in sam.image_encoder.blocks:
        nn.init.normal_(block.attn.rel_pos_h)
        nn.init.normal_(block.attn.rel_pos_w)
    return sam


@pytest.mark.parametrize(
    ("size", "grid", "tokens", "patch"),
    [(512, "reduced", 32, 16), (256, "reduced", 16, 16), (512, "kept", 64, 8), (256, "kept", 64, 4),
     (1024, "kept", 64, 16), (None, "reduced", 64, 16)],
)  # fmt: skip
def test_the_sizes_of_vit_b(size: int | None, grid: Any, tokens: int, patch: int) -> None:
    config = Frame(size, grid).of(preset("vit_b"))
    assert (config.grid, config.patch_size) == (tokens, patch)
    with torch.device("meta"):
        old, new = build_sam(preset("vit_b")).state_dict(), build_sam(config).state_dict()
    if grid == "kept" and size != 1024:
        changed = {"image_encoder.patch_embed.proj.weight"}
    else:
        tables = {f"image_encoder.blocks.{b}.attn.rel_pos_{a}" for b in (2, 5, 8, 11) for a in "hw"}
        changed = {"image_encoder.pos_embed"} | tables if tokens != 64 else set()
    assert {name for name in old if old[name].shape != new[name].shape} == changed


def test_a_reduced_grid_interpolates_positions_and_global_tables_only() -> None:
    state = stirred().state_dict()
    new = Frame(64, "reduced").of(BIG)
    moved = in_frame(state, BIG, new)
    changed = {name for name in state if not torch.equal(state[name], moved[name])} if (
        state.keys() == moved.keys()
    ) else None  # fmt: skip
    assert changed == {
        "image_encoder.pos_embed",
        "image_encoder.blocks.1.attn.rel_pos_h",
        "image_encoder.blocks.1.attn.rel_pos_w",
    }
    # Halving bilinearly with half-pixel centres is the mean of each 2 x 2 cell.
    positions = state["image_encoder.pos_embed"].permute(0, 3, 1, 2)
    mean = F.avg_pool2d(positions, 2).permute(0, 2, 3, 1)
    torch.testing.assert_close(moved["image_encoder.pos_embed"], mean)
    # 15 -> 7 entries: entry i lies at (i + 0.5) 15/7 - 0.5 of the old table.
    table = state["image_encoder.blocks.1.attn.rel_pos_h"]
    at = 1.5 * 15 / 7 - 0.5
    expected = table[int(at)] * (1 - at % 1) + table[int(at) + 1] * (at % 1)
    torch.testing.assert_close(moved["image_encoder.blocks.1.attn.rel_pos_h"][1], expected)


def test_a_kept_grid_answers_as_to_the_enlarged_patches() -> None:
    sam = stirred()
    new = Frame(64, "kept").of(BIG)
    small = build_sam(new)
    small.load_state_dict(in_frame(sam.state_dict(), BIG, new))
    image = torch.randn(1, 3, 64, 64)
    tokens = small.image_encoder.patch_embed(image)  # type: ignore[operator, union-attr]
    for row, column in ((0, 0), (3, 5), (7, 7)):
        patch = image[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        large = F.interpolate(patch, size=(16, 16), mode="bilinear", align_corners=False)
        expected = sam.image_encoder.patch_embed(large)[0, 0, 0]
        torch.testing.assert_close(tokens[0, row, column], expected, rtol=1e-4, atol=1e-5)


def test_sizes_that_do_not_go_are_refused() -> None:
    with pytest.raises(UsageError, match="take a size that divides it"):
        Frame(1000, "kept").of(preset("vit_b"))
    with pytest.raises(UsageError, match="multiple of the patch"):
        Frame(1000).of(preset("vit_b"))
    with pytest.raises(UsageError, match="expected reduced or kept"):
        Frame(512, "halved")  # type: ignore[arg-type]


@pytest.mark.parametrize("grid", ["reduced", "kept"])
@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_of_every_method_comes_back_in_its_frame(
    tmp_path: Path, name: str, grid: Any
) -> None:
    base, adapters = tmp_path / "base.safetensors", tmp_path / "adapters.safetensors"
    save_base(base, stirred(), BIG, {})
    frame, method = Frame(64, grid), make_method(name)
    sam, config, _ = load_base(base, frame)
    trained = apply_method(method, sam)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    save_adapters(adapters, sam, method, base, {"window": [-20, 100]}, frame)
    loaded = load_adapters(adapters, base)
    assert (loaded.method, loaded.model.config) == (method, config)
    assert (loaded.pr is not None) == (name == "pr")
    hu, window = torch.randn(1, 1, 64, 64) * 50, torch.tensor([[-20.0, 100.0]])
    with torch.no_grad():
        embedding = SamihsModel(sam, config).encode(hu, window)
        assert embedding.shape == (1, 16, config.grid, config.grid)
        assert torch.equal(loaded.model.encode(hu, window), embedding)
    counts = loaded.description["trained_parameters"]
    assert sum(counts.values()) == sum(parameter.numel() for parameter in trained.values())
