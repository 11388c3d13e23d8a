"""Projections moved to the tokens' side, and masks enlarged token by token, change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from samihs_export.graphs.cells import TokenUpscaling, in_rows
from samihs_export.graphs.decoder_graph import DecoderGraph
from samihs_export.graphs.multiply_count import multiply_accumulates
from samihs_export.graphs.onnx import export_decoder
from samihs_export.graphs.two_way import (
    ImageToToken,
    TokenAttention,
    TokenToImage,
    make_attention_exportable,
)
from samihs_export.merge import merge
from samihs_training.network.sam import segment_anything_modeling
from tests.export.conftest import PR, SLICE, TINY, adapted_model

WIDTH, HEADS, GRID = 32, 4, 6
IMAGE, TOKENS = GRID**2, 7
SOFTMAX = 1e-6
"""Sums are in float64 here, but every softmax is in float32."""


def attention() -> Any:
    """segment-anything's attention with random biases: with zeros, lost ones would go unnoticed."""
    torch.manual_seed(1)
    theirs: Any = segment_anything_modeling().transformer.Attention
    layer = theirs(WIDTH, HEADS, downsample_rate=2).double()
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return layer


def drawn(count: int) -> torch.Tensor:
    return torch.randn(3, count, WIDTH, dtype=torch.float64)


@pytest.mark.parametrize("tokens", [1, TOKENS, 40])
@torch.no_grad()
def test_tokens_attend_to_the_image_as_before(tokens: int) -> None:
    theirs = attention()
    q, k, v = drawn(tokens), drawn(IMAGE), drawn(IMAGE)
    torch.testing.assert_close(TokenToImage(theirs)(q, k, v), theirs(q, k, v), atol=SOFTMAX, rtol=0)


@pytest.mark.parametrize("tokens", [1, TOKENS, 40])
@torch.no_grad()
def test_the_image_attends_to_the_tokens_as_before(tokens: int) -> None:
    theirs = attention()
    q, k, v = drawn(IMAGE), drawn(tokens), drawn(tokens)
    torch.testing.assert_close(ImageToToken(theirs)(q, k, v), theirs(q, k, v), atol=SOFTMAX, rtol=0)


@torch.no_grad()
def test_attention_among_tokens_is_as_it_was() -> None:
    theirs = attention()
    q, v = drawn(TOKENS), drawn(TOKENS)
    torch.testing.assert_close(
        TokenAttention(theirs)(q, q, v), theirs(q, q, v), atol=SOFTMAX, rtol=0
    )


def test_every_attention_of_sams_transformer_gets_the_form_of_its_place() -> None:
    decoder = adapted_model(PR).sam.mask_decoder
    depth = range(len(decoder.transformer.layers))
    make_attention_exportable(decoder)
    forms = {
        name: type(each).__name__
        for name, each in decoder.named_modules()
        if isinstance(each, TokenToImage | ImageToToken | TokenAttention)
    }
    layer = {
        "self_attn": "TokenAttention",
        "cross_attn_token_to_image": "TokenToImage",
        "cross_attn_image_to_token": "ImageToToken",
    }
    expected = {
        f"transformer.layers.{i}.{name}": form for i in depth for name, form in layer.items()
    }
    assert forms == expected | {"transformer.final_attn_token_to_image": "TokenToImage"}


@torch.no_grad()
def test_token_by_token_up_sampling_equals_that_of_an_image() -> None:
    torch.manual_seed(2)
    upscaling = adapted_model(PR).sam.mask_decoder.output_upscaling.double()
    for parameter in upscaling.parameters():
        nn.init.normal_(parameter)
    tokens = torch.randn(2, IMAGE, upscaling[0].in_channels, dtype=torch.float64)
    weights = torch.randn(2, upscaling[3].out_channels, 1, dtype=torch.float64)
    picture = upscaling(tokens.mT.reshape(2, -1, GRID, GRID))
    expected = torch.einsum("bcl,bchw->bhw", weights, picture)
    ours = in_rows(TokenUpscaling(upscaling)(tokens) @ weights, GRID)
    assert ours.shape == (2, 1, 4 * GRID, 4 * GRID)
    torch.testing.assert_close(ours[:, 0], expected, atol=1e-10, rtol=0)


def test_a_click_projects_no_image_token(tmp_path: Path) -> None:
    path = tmp_path / "decoder.onnx"
    export_decoder(DecoderGraph(merge(adapted_model(PR))[0], SLICE), TINY, path)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert not kinds & {"ConvTranspose", "DepthToSpace"}
    one, ten = (multiply_accumulates(path, {"batch": 1, "points": n}) for n in (2, 11))
    layer = "transformer.layers.0.cross_attn_token_to_image"
    heads, width, side = TINY.decoder_heads, TINY.prompt_width, TINY.grid
    # SAM's own five tokens, and one per point: only with these do products over the image grow.
    for counted, tokens in ((one, 7), (ten, 16)):
        over_image = [n for name, n in counted.items() if name.startswith(f"{layer}/MatMul")]
        assert over_image == 2 * [side**2 * heads * tokens * width]
