"""The merged model answers like the adapted one, in both pad orders."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from samihs_export.merge import merge, relative_error
from samihs_training.adapters import PRConfig, Site, pr_adapters
from samihs_training.network.model import SamihsModel

from .conftest import SLICE, TINY, adapted_model

WINDOW = torch.tensor([[-20.0, 100.0]])


@pytest.fixture(scope="module")
def hu() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 1, SLICE, SLICE, generator=generator) * 40 + 40


@torch.no_grad()
def embed(model: SamihsModel, hu: Tensor) -> Tensor:
    return model.encode(hu, WINDOW)


@pytest.mark.parametrize("pad_before_norm", [False, True])
@pytest.mark.parametrize("sites", [("attn", "mlp"), ("attn",), ("mlp",)])
def test_the_merged_model_answers_like_the_adapted_one(
    hu: Tensor, pad_before_norm: bool, sites: tuple[Site, ...]
) -> None:
    model = adapted_model(PRConfig(rank=8, sites=sites, pad_before_norm=pad_before_norm))
    merged, report = merge(model)
    assert list(pr_adapters(merged.sam)) == []
    assert [(each.block, each.site) for each in report.layers] == [
        (block, site) for block in range(TINY.depth) for site in sites
    ]
    # float32 rounds at 6e-8; two blocks and a neck add up a few hundred roundings.
    assert relative_error(embed(merged, hu), embed(model, hu)) < 1e-5
    assert 0 < report.worst_output < 1e-5


def test_adapters_in_these_tests_are_not_trivial(hu: Tensor) -> None:
    model = adapted_model(PRConfig(rank=8))
    before = embed(model, hu)
    for _, _, adapter in pr_adapters(model.sam):
        nn.init.zeros_(adapter.scale)
        nn.init.zeros_(adapter.bias)
    assert relative_error(embed(model, hu), before) > 0.05


def test_pad_order_changes_the_answer_and_is_kept(hu: Tensor) -> None:
    """The same weights in SAM's order: the result if the merge had moved ``norm1``."""
    model = adapted_model(PRConfig(rank=8, pad_before_norm=True))
    merged, _ = merge(model)
    kept = embed(merged, hu)
    for block in merged.sam.image_encoder.blocks:
        block.norm1, block.attn = block.attn
    assert relative_error(embed(merged, hu), kept) > 1e-3


def test_the_given_model_is_not_changed(hu: Tensor) -> None:
    model = adapted_model(PRConfig(rank=8))
    before = embed(model, hu)
    merge(model)
    assert len(list(pr_adapters(model.sam))) == 2 * TINY.depth
    assert torch.equal(embed(model, hu), before)


def test_merging_twice_is_a_no_op(hu: Tensor) -> None:
    merged, _ = merge(adapted_model(PRConfig(rank=8, pad_before_norm=True)))
    again, report = merge(merged)
    assert report.layers == ()
    assert report.worst_output == 0
    assert torch.equal(embed(again, hu), embed(merged, hu))
