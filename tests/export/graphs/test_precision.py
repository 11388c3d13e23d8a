"""What stays float32 in a half-precision graph."""

from __future__ import annotations

import pytest
import torch

from samihs_export.float_types import Precision
from samihs_export.graphs.decoder_graph import DecoderGraph
from samihs_export.graphs.encoder_graph import EncoderGraph
from samihs_export.graphs.precision import COMPUTE_TYPES, InFloat32, to_precision
from samihs_export.merge import merge, relative_error
from samihs_training.adapters import PRConfig
from samihs_training.network.model import SamihsModel
from tests.export.conftest import SLICE, TINY, TINY_PYRAMID, adapted_model, set_threshold


@pytest.fixture(scope="module")
def merged() -> SamihsModel:
    return merge(adapted_model(PRConfig(rank=8)))[0]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@torch.no_grad()
def test_half_precision_keeps_norms_and_prompt_points_exact(
    merged: SamihsModel, precision: Precision
) -> None:
    exact = DecoderGraph(merged, SLICE)
    graph = to_precision(DecoderGraph(merged, SLICE), precision)
    assert torch.equal(graph.points.frequencies, exact.points.frequencies)
    assert torch.equal(graph.points.kinds, exact.points.kinds)
    norms = [module for module in graph.modules() if isinstance(module, InFloat32)]
    assert norms
    for norm in norms:
        assert all(each.dtype == torch.float32 for each in norm.parameters())
    assert graph.tokens.dtype == COMPUTE_TYPES[precision]
    assert graph.score_head.layers[0].weight.dtype == COMPUTE_TYPES[precision]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_keeps_what_is_near_the_masks_threshold(precision: Precision) -> None:
    model = merge(adapted_model(PRConfig(rank=8), config=TINY_PYRAMID))[0]
    set_threshold(model.sam, 0.1)  # no half precision holds it
    cells = to_precision(DecoderGraph(model, SLICE), precision).cells
    assert torch.equal(cells.get_parameter("mask_threshold.logit"), torch.tensor([0.1]))


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 1e-2), ("bf16", 8e-2)])
@torch.no_grad()
def test_half_precision_encoder_is_near(
    merged: SamihsModel, precision: Precision, limit: float
) -> None:
    """Limits: eight to ten units in the last place of the mantissa, 2^-11 and 2^-8."""
    hu = torch.randn(1, 1, SLICE, SLICE, generator=torch.Generator().manual_seed(0)) * 40 + 40
    window = torch.tensor([[-20.0, 100.0]])
    embedding = to_precision(EncoderGraph(merged, "augmented"), precision)(hu, window)
    assert embedding.dtype == torch.float32
    assert 0 < relative_error(embedding, merged.encode(hu, window)) < limit


@torch.no_grad()
def test_outliers_that_overflow_a_half_precision_variance_pass_the_norms(
    merged: SamihsModel,
) -> None:
    """A channel of 400 has a square above float16's 65504; SAM's encoders have such channels."""
    norm = InFloat32(EncoderGraph(merged).blocks[0].norm2)
    tokens = torch.zeros(1, 1, 1, TINY.width)
    tokens[..., 0] = 400.0
    assert torch.isfinite(norm(tokens.half())).all()
    assert torch.isinf(tokens.half().square()).any()
