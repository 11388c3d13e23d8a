"""LoRA is merged as W + (alpha / r) B A, alone and with PR adapters; other modules are named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samihs_export.graphs.encoder_graph import EncoderGraph
from samihs_export.merge import LowRankLinear, merge, relative_error
from samihs_runtime.errors import ExportError
from samihs_training.adapters import PRConfig, insert_pr_adapters, pr_adapters
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import build_sam

from .conftest import SLICE, TINY

WINDOW = torch.tensor([[-20.0, 100.0]])
HU = torch.randn(1, 1, SLICE, SLICE, generator=torch.Generator().manual_seed(1)) * 40 + 40
RANK, ALPHA = 4, 8.0


class Update(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(RANK, inputs) * 0.1)  # A
        self.up = nn.Parameter(torch.randn(outputs, RANK) * 0.1)  # B

    def matrix(self) -> Tensor:
        return self.up.double() @ self.down.double() * (ALPHA / RANK)


class LoRALinear(nn.Module):
    """The slow reference: two small products beside the frozen layer."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.update = Update(linear.in_features, linear.out_features)

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(F.linear(x, self.update.down), self.update.up)
        return self.linear(x) + low * (ALPHA / RANK)


class Bottleneck(nn.Module):
    """Nonlinear, so that it cannot be merged."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, 8), nn.Linear(8, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(F.gelu(self.down(x)))


def lora_model(*, pr: bool = False) -> SamihsModel:
    torch.manual_seed(0)
    sam = build_sam(TINY)
    for block in sam.image_encoder.blocks:
        block.attn.qkv = LoRALinear(block.attn.qkv)
        block.mlp.lin1 = LoRALinear(block.mlp.lin1)
    if pr:
        insert_pr_adapters(sam, PRConfig(rank=8))
        for _, _, adapter in pr_adapters(sam):
            nn.init.normal_(adapter.scale, std=0.5)
            nn.init.normal_(adapter.bias, std=0.3)
    return SamihsModel(sam, TINY).eval()


@torch.no_grad()
def embed(model: SamihsModel) -> Tensor:
    return model.encode(HU, WINDOW)


@pytest.mark.parametrize("pr", [False, True])
def test_the_merged_model_answers_like_the_adapted_one(pr: bool) -> None:
    model = lora_model(pr=pr)
    merged, report = merge(model)
    assert not [m for m in merged.sam.modules() if isinstance(m, LowRankLinear)]
    assert {each.site for each in report.layers} >= {"attn.qkv" if not pr else "mlp.1.lin1"}
    assert len(report.layers) == 2 * TINY.depth * (2 if pr else 1)
    assert report.kept == ()
    # float32 rounds at 6e-8; two blocks and a neck add up a few hundred roundings.
    assert relative_error(embed(merged), embed(model)) < 1e-5
    assert 0 < report.worst_output < 1e-5


def test_lora_in_these_tests_is_not_trivial() -> None:
    model = lora_model()
    before = embed(model)
    for block in model.sam.image_encoder.blocks:
        block.attn.qkv = block.attn.qkv.linear
    assert relative_error(embed(model), before) > 0.01


def test_merging_twice_is_a_no_op() -> None:
    merged, _ = merge(lora_model())
    again, report = merge(merged)
    assert report.layers == ()
    assert torch.equal(embed(again), embed(merged))


@torch.no_grad()
def test_what_cannot_be_merged_is_exported_as_it_is_and_named() -> None:
    torch.manual_seed(0)
    sam = build_sam(TINY)
    for block in sam.image_encoder.blocks:
        block.attn = nn.Sequential(block.attn, Bottleneck(TINY.width))
        block.mlp = nn.Sequential(block.mlp, Bottleneck(TINY.width))
    model = SamihsModel(sam, TINY).eval()
    merged, report = merge(model)
    assert report.kept == tuple(
        f"blocks.{block}.{site}.1" for block in range(TINY.depth) for site in ("attn", "mlp")
    )
    assert report.summary()["kept_modules"] == list(report.kept)
    for form in ("bias", "augmented"):
        assert relative_error(EncoderGraph(merged, form)(HU, WINDOW), embed(model)) < 1e-5


def test_what_the_graphs_do_not_know_is_refused() -> None:
    model = lora_model()
    with pytest.raises(ExportError, match=r"LoRALinear.*merge the model first"):
        EncoderGraph(model)
    merged, _ = merge(model)
    merged.sam.image_encoder.blocks[0].attn = Bottleneck(TINY.width)
    with pytest.raises(ExportError, match="attends with Bottleneck"):
        EncoderGraph(merged)
