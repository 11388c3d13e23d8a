"""Whole grids with ONNX Runtime's own attention: the numbers, names and arithmetic of the file."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from samihs_export.engines.refit import refittable
from samihs_export.float_types import Precision
from samihs_export.graphs.attention import RelativeAttention, form_in
from samihs_export.graphs.calibration import calibrate, calibration_cases
from samihs_export.graphs.encoder_graph import EncoderGraph
from samihs_export.graphs.families import attention_form
from samihs_export.graphs.layer_names import WIDE
from samihs_export.graphs.multiply_count import multiply_accumulates
from samihs_export.graphs.onnx import ORT_OPSET, export_encoder
from samihs_export.graphs.ort_attention import DOMAIN, OPERATOR
from samihs_export.graphs.quantization import quantize_dynamic
from samihs_export.graphs.type_check import PRODUCTS, check_types
from samihs_export.graphs.windows import Windows
from samihs_export.merge import merge
from samihs_runtime.bundle import WindowRule
from samihs_runtime.errors import ExportError
from samihs_training.network.model import SamihsModel
from tests.export.conftest import PR, SLICE, TINY, adapted_model

from .test_onnx import session

ODD = replace(TINY, name="odd", image_size=33 * 16)
"""33 x 33 tokens, the smallest odd grid that is fused: no tile of the kernel divides them."""
TOKENS = ODD.grid**2
ATTENTION = f"blocks.1.attention/{OPERATOR}"


@pytest.fixture(scope="module")
def merged() -> SamihsModel:
    return merge(adapted_model(PR, config=ODD))[0]


@pytest.fixture(scope="module")
def encoder(merged: SamihsModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fused") / "encoder.onnx"
    export_encoder(EncoderGraph(merged, "fused"), SLICE, path, ORT_OPSET)
    return path


def feeds(batch: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(batch)
    hu = random.normal(40, 60, (batch, 1, SLICE, SLICE)).astype(np.float32)
    return {"hu": hu, "window": np.tile(np.float32([-20, 100]), (batch, 1))}


def expected(model: SamihsModel, given: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return model.encode(*(torch.from_numpy(each) for each in given.values())).numpy()


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_the_file_answers_like_the_model(merged: SamihsModel, encoder: Path, batch: int) -> None:
    given = feeds(batch)
    found, theirs = session(encoder).run(None, given)[0], expected(merged, given)
    # ONNX Runtime sums in a different order; the bias form differs from torch by as much, 4e-5.
    np.testing.assert_allclose(found, theirs, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 4])
def test_int8_answers_are_close_to_float(encoder: Path, tmp_path: Path, batch: int) -> None:
    quantize_dynamic(encoder, tmp_path / "int8.onnx")
    check_types(tmp_path / "int8.onnx", "fp32")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node)
    assert kinds[OPERATOR] == 1
    exact, rounded = (
        session(path).run(None, feeds(batch))[0] for path in (encoder, tmp_path / "int8.onnx")
    )
    # Each of 8 layers rounds to 1/254 of its largest value, as in test_quantization.
    assert 0 < np.abs(rounded - exact).max() < 8 / 254 * np.abs(exact).max()


def test_only_the_whole_grid_is_fused_and_its_domain_is_named(encoder: Path) -> None:
    model = onnx.load(encoder)
    assert [n.name for n in model.graph.node if n.domain == DOMAIN] == [ATTENTION]
    assert {each.domain: each.version for each in model.opset_import} == {"": ORT_OPSET, DOMAIN: 1}
    check_types(encoder, "fp32")
    products = {node.name for node in model.graph.node if node.op_type in PRODUCTS}
    assert ATTENTION in products
    half = sum(not name.startswith(WIDE) for name in products)
    with pytest.raises(ExportError, match=f"{half} nodes compute in another type than fp16"):
        check_types(encoder, "fp16")


def test_layers_are_named_as_in_the_other_forms(
    merged: SamihsModel, encoder: Path, tmp_path: Path
) -> None:
    export_encoder(EncoderGraph(merged, "bias"), SLICE, tmp_path / "bias.onnx")
    plain = tmp_path / "bias.onnx"
    assert refittable(onnx.load(encoder).graph) == refittable(onnx.load(plain).graph)
    cases = calibration_cases(1, slice_size=SLICE, window=WindowRule("fixed", -20.0, 100.0))
    ours, theirs = calibrate(encoder, cases), calibrate(plain, cases)
    assert list(ours) == list(theirs)
    for name, span in ours.items():
        np.testing.assert_allclose(
            (span.low, span.high), (theirs[name].low, theirs[name].high), rtol=1e-3, atol=1e-5
        )


def test_arithmetic_after_the_operator_is_counted(encoder: Path) -> None:
    work = multiply_accumulates(encoder, {"batch": 3})
    head = ODD.width // ODD.heads
    each_token = TOKENS * ODD.heads * (head + 2 * ODD.grid + head)
    assert work[ATTENTION] == 3 * TOKENS * each_token
    assert work["blocks.1.attention.proj/MatMul"] == 3 * TOKENS * ODD.width**2
    assert work["blocks.1.mlp.lin2/MatMul"] == 3 * TOKENS * 4 * ODD.width**2


def test_small_grids_and_windows_keep_the_bias() -> None:
    assert form_in(Windows(64, 64), "fused") == form_in(Windows(32, 32), "fused") == "fused"
    assert form_in(Windows(31, 31), "fused") == form_in(Windows(64, 32), "fused") == "bias"
    assert form_in(Windows(64, 64), "bias") == "bias"
    assert form_in(Windows(64, 14), "augmented") == "augmented"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_tensorrt_is_never_given_the_operator(precision: Precision) -> None:
    assert attention_form("trt", precision) == ("bias" if precision == "fp32" else "augmented")


def test_windows_cannot_be_fused(merged: SamihsModel) -> None:
    attention = merged.sam.image_encoder.blocks[0].attn
    with pytest.raises(ExportError, match="whole grid"):
        RelativeAttention(attention, Windows(ODD.grid, ODD.window), "fused")
