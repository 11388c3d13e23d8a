"""A transposed convolution of 2 x 2 and stride 2 is a product and a rearrangement, exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from samihs_export.graphs.decoder_graph import DecoderGraph
from samihs_export.graphs.encoder_graph import EncoderGraph
from samihs_export.graphs.families import graph_pair
from samihs_export.graphs.onnx import export_decoder, export_encoder
from samihs_export.graphs.precision import to_precision
from samihs_export.graphs.type_check import check_types
from samihs_export.graphs.upscaling import BlockUpscaling, UpscalingForm, set_upscaling
from samihs_export.merge import merge, relative_error
from samihs_export.proof.gates import GATES
from samihs_export.proof.layers import inputs_of_onnx
from samihs_training.network.model import SamihsModel
from tests.export.conftest import PR, SLICE, TINY_PYRAMID, adapted_model


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_the_product_is_the_transposed_convolution(bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.ConvTranspose2d(24, 10, 2, stride=2, bias=bias)
    x = torch.randn(3, 24, 5, 7)
    # Sums of 24 products in float32, in a different order: a few units in the last place.
    torch.testing.assert_close(BlockUpscaling(conv)(x), conv(x), atol=2e-6, rtol=0)
    torch.testing.assert_close(
        BlockUpscaling(conv.double())(x.double()), conv(x.double()), atol=1e-14, rtol=0
    )


def test_other_transposed_convolutions_stay() -> None:
    layers = nn.Sequential(
        nn.ConvTranspose2d(4, 4, 3, stride=2),
        nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2),
        nn.ConvTranspose2d(4, 4, 2, stride=2, padding=1),
        nn.ConvTranspose2d(4, 4, 2, stride=2),
    )
    set_upscaling(layers, "product")
    assert [type(each).__name__ for each in layers] == 3 * ["ConvTranspose2d"] + ["BlockUpscaling"]


@pytest.fixture(scope="module")
def with_pyramid() -> SamihsModel:
    return merge(adapted_model(PR, config=TINY_PYRAMID))[0]


@pytest.fixture(scope="module")
def written(
    with_pyramid: SamihsModel, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[UpscalingForm, str], Path]:
    def write(form: UpscalingForm, precision: str) -> Path:
        path = tmp_path_factory.mktemp(f"{form}-{precision}") / "decoder.onnx"
        graph = DecoderGraph(with_pyramid, SLICE, form)
        graph = to_precision(graph, precision)  # type: ignore[arg-type]
        export_decoder(graph, TINY_PYRAMID, path)
        return path

    return write


def prompt() -> dict[str, Any]:
    random = np.random.default_rng(0)
    side, channels, grid = (
        TINY_PYRAMID.mask_size,
        TINY_PYRAMID.embedding_channels,
        TINY_PYRAMID.grid,
    )
    return {
        "embedding": random.standard_normal((1, channels, grid, grid)).astype(np.float32),
        "points": np.float32([[[30, 40], [0, 0]]]),
        "labels": np.int32([[1, -1]]),
        "prior": np.zeros((1, 1, side, side), np.float32),
        "has_prior": np.zeros(1, np.float32),
    }


def test_decoders_of_both_forms_answer_alike(
    written: Callable[[UpscalingForm, str], Path],
) -> None:
    answers = []
    for form in ("transposed", "product"):
        path = written(form, "fp32")
        kinds = [node.op_type for node in onnx.load(path).graph.node]
        found = (kinds.count("ConvTranspose"), kinds.count("DepthToSpace"))
        # The pyramid's own detail takes two more rearrangements.
        assert found == ((2, 2) if form == "transposed" else (0, 4))
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        answers.append(session.run(["logits"], prompt())[0])
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-5 * np.abs(answers[0]).max())
    width, grid = TINY_PYRAMID.prompt_width, TINY_PYRAMID.grid
    # Faults are located by a layer's input, which is not its weight.
    assert inputs_of_onnx(path, prompt())["cells.upscaling.0"].size == width * grid**2


@torch.no_grad()
def test_a_pyramids_decoder_too(with_pyramid: SamihsModel) -> None:
    side, channels = TINY_PYRAMID.mask_size, TINY_PYRAMID.embedding_channels
    given = (
        torch.randn(2, channels, TINY_PYRAMID.grid, TINY_PYRAMID.grid),
        torch.tensor([[[30.0, 40.0], [0.0, 0.0]]]).expand(2, -1, -1),
        torch.tensor([[1, -1]], dtype=torch.int32).expand(2, -1),
        torch.zeros(2, 1, side, side),
        torch.zeros(2),
    )
    ours, theirs = (
        DecoderGraph(with_pyramid, SLICE, form).eval()(*given)[0]
        for form in ("product", "transposed")
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=0)


def one_slice() -> dict[str, Any]:
    hu = np.random.default_rng(0).normal(40, 60, (1, 1, SLICE, SLICE)).astype(np.float32)
    return {"hu": hu, "window": np.array([[-20, 100]], np.float32)}


@torch.no_grad()
def test_a_pyramids_encoder_answers_as_the_model_does(
    with_pyramid: SamihsModel, tmp_path: Path
) -> None:
    given = one_slice()
    tensors = [torch.from_numpy(each) for each in given.values()]
    graph, path = EncoderGraph(with_pyramid, upscaling="product"), tmp_path / "encoder.onnx"
    export_encoder(graph, SLICE, path)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert (kinds.count("ConvTranspose"), kinds.count("DepthToSpace")) == (0, 3)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answer = torch.from_numpy(session.run(["embedding"], given)[0])
    expected = with_pyramid.encode(*tensors)  # still with transposed convolutions
    assert relative_error(answer, expected) < 1e-5
    narrow = graph_pair(with_pyramid, "trt", "bf16", SLICE)[0].eval()
    assert relative_error(narrow(*tensors), expected) < GATES["bf16"].embedding_relative
    assert {*inputs_of_onnx(path, given)} >= {
        f"patch_embed.{level}.raised" for level in ("eighth", "quarter", "halves")
    }


def test_tensorrt_rtx_builds_bf16_decoders(
    written: Callable[[UpscalingForm, str], Path],
) -> None:
    """It rejects transposed convolutions in bfloat16, in a tiny decoder on SM80 as in ViT-B."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13 (samihs[export])")
    path = written("product", "bf16")
    check_types(path, "bf16")
    assert built(trt, path, prompt())
    assert not built(trt, written("transposed", "bf16"), prompt())


def test_tensorrt_rtx_builds_a_pyramids_bf16_encoder(
    with_pyramid: SamihsModel, tmp_path: Path
) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13 (samihs[export])")
    paths = {form: tmp_path / form / "encoder.onnx" for form in ("product", "transposed")}
    export_encoder(graph_pair(with_pyramid, "trt", "bf16", SLICE)[0], SLICE, paths["product"])
    check_types(paths["product"], "bf16")
    assert built(trt, paths["product"], one_slice())
    refused = to_precision(EncoderGraph(with_pyramid, "augmented"), "bf16")
    export_encoder(refused, SLICE, paths["transposed"])
    assert not built(trt, paths["transposed"], one_slice())


def built(trt: Any, path: Path, given: Mapping[str, Any]) -> bool:
    log = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse_from_file(str(path))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM80, 0)
    profile = builder.create_optimization_profile()
    for name, array in given.items():
        profile.set_shape(name, array.shape, array.shape, array.shape)
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config) is not None
