"""Q/DQ graphs: exactly the planned layers are in 8 bits, and compute what they should."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from samihs_export.graphs.calibration import FIRST_SEED, calibrate, calibration_cases
from samihs_export.graphs.quantization import (
    FP8,
    INT8,
    Range,
    plan,
    quantize_dynamic,
    quantize_static,
)
from samihs_export.proof.cases import FIRST_SEED as PARITY_SEED
from samihs_export.proof.cases import ParityCase
from samihs_export.proof.layers import inputs_of_onnx
from samihs_runtime.bundle import WindowRule
from samihs_runtime.errors import ExportError
from tests.export.conftest import SLICE, TINY, Exported

from .test_onnx import session

PLANNED = [
    f"blocks.{block}.{layer}"
    for block in range(TINY.depth)
    for layer in ("attention.qkv", "attention.proj", "mlp.lin1", "mlp.lin2")
]


@pytest.fixture(scope="module")
def cases() -> list[ParityCase]:
    return calibration_cases(3, slice_size=SLICE, window=WindowRule("fixed", -20.0, 100.0))


@pytest.fixture(scope="module")
def ranges(exported: Exported, cases: list[ParityCase]) -> dict[str, Range]:
    return calibrate(exported.bundle.graph("onnx", "fp32").encoder, cases)


def feeds(case: ParityCase) -> dict[str, np.ndarray]:
    return {"hu": case.hu[None, None], "window": case.window[None]}


def test_calibration_and_parity_use_different_slices() -> None:
    assert FIRST_SEED + 10_000 < PARITY_SEED


def test_ranges_are_the_extremes_of_the_layers_inputs(
    exported: Exported, ranges: dict[str, Range], cases: list[ParityCase]
) -> None:
    encoder = exported.bundle.graph("onnx", "fp32").encoder
    seen = [inputs_of_onnx(encoder, feeds(case)) for case in cases]
    assert list(ranges) == PLANNED
    for name, span in ranges.items():
        np.testing.assert_allclose(span.low, min(each[name].min() for each in seen), rtol=1e-5)
        np.testing.assert_allclose(span.high, max(each[name].max() for each in seen), rtol=1e-5)


@pytest.mark.parametrize(
    ("precision", "kind"), [("int8", TensorProto.INT8), ("fp8", TensorProto.FLOAT8E4M3FN)]
)
def test_the_graph_for_tensorrt_is_in_8_bits_where_planned_and_nowhere_else(
    exported: Exported, precision: str, kind: int
) -> None:
    model = onnx.load(exported.bundle.graph("trt", precision).encoder)
    weights = {each.name: each for each in model.graph.initializer}
    in_8_bits = [n for n, each in weights.items() if each.data_type == kind and each.dims]
    assert sorted(n for n in in_8_bits if n.endswith(".weight")) == sorted(
        f"{layer}.weight" for layer in PLANNED
    )
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert [node.name.split("/")[0] for node in quantizers] == PLANNED
    for node in quantizers:  # TensorRT: symmetric only
        assert not numpy_helper.to_array(weights[node.input[2]]).astype(np.float32).any()
        assert weights[node.input[1]].data_type == TensorProto.FLOAT16


def test_the_decoder_is_shared_with_the_float_graphs(exported: Exported) -> None:
    bundle = exported.bundle
    assert bundle.graph("trt", "int8").decoder == bundle.graph("trt", "fp16").decoder
    assert bundle.graph("onnx", "int8").decoder == bundle.graph("onnx", "fp32").decoder


def test_int8_weights_are_within_half_a_step_of_each_channel() -> None:
    weight = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    weight *= np.float32([1, 1e-3, 10, 1, 0, 1])  # channels of any magnitude, and one of zeros
    scales, values = INT8.weight(weight)
    error = np.abs(values * scales - weight).max(axis=0)
    assert (error <= scales / 2 * 1.0001).all()
    assert values.dtype == np.int8
    assert values.min() >= -127


def test_fp8_weights_are_within_one_sixteenth_of_each_value() -> None:
    weight = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    scale, values = FP8.weight(weight)
    assert values.dtype == ml_dtypes.float8_e4m3fn
    large = np.abs(weight) > 1e-2 * np.abs(weight).max()  # above the subnormal numbers
    error = np.abs(values.astype(np.float32) * scale - weight)
    assert (error[large] <= np.abs(weight[large]) / 16 * 1.0001).all()


@pytest.mark.parametrize(("low", "high"), [(-3.0, 5.0), (2.0, 5.0), (-5.0, -2.0), (0.0, 0.0)])
def test_int8_activations_hold_zero_and_both_ends(low: float, high: float) -> None:
    scale, zero = INT8.activation(Range(low, high))
    assert zero == 0
    assert zero.dtype == np.int8
    for value in (0.0, low, high):
        step = np.clip(round(value / scale), -128, 127)
        assert abs(step * scale - value) <= scale / 2 * 1.0001


@pytest.mark.parametrize("how", ["static", "dynamic"])
def test_int8_answers_are_close_to_float(
    exported: Exported, ranges: dict[str, Range], cases: list[ParityCase], tmp_path: Path, how: str
) -> None:
    source, out = exported.bundle.graph("onnx", "fp32").encoder, tmp_path / "int8.onnx"
    if how == "dynamic":
        layers = quantize_dynamic(source, out)
    else:
        layers = quantize_static(source, out, ranges, INT8)
    assert layers == PLANNED
    expected = session(source).run(None, feeds(cases[0]))[0]
    error = np.abs(session(out).run(None, feeds(cases[0]))[0] - expected).max()
    # Each of 8 layers rounds to 1/254 of its largest value.
    assert 0 < error < 8 / 254 * np.abs(expected).max()


def test_a_range_ten_times_too_small_is_detected(
    exported: Exported, ranges: dict[str, Range], cases: list[ParityCase], tmp_path: Path
) -> None:
    source, out = exported.bundle.graph("onnx", "fp32").encoder, tmp_path / "int8.onnx"
    name = "blocks.0.mlp.lin1"
    clipped = {**ranges, name: Range(ranges[name].low / 10, ranges[name].high / 10)}
    quantize_static(source, out, clipped, INT8)
    expected = session(source).run(None, feeds(cases[0]))[0]
    error = np.abs(session(out).run(None, feeds(cases[0]))[0] - expected).max()
    assert error > 0.1 * np.abs(expected).max()


def test_the_reason_is_given_if_a_graph_cannot_be_quantized(
    exported: Exported, ranges: dict[str, Range], tmp_path: Path
) -> None:
    files, out = exported.bundle.graph("onnx", "fp32"), tmp_path / "out.onnx"
    with pytest.raises(ExportError, match="no layer to quantize"):
        plan(onnx.load(files.decoder).graph)
    fewer = {name: ranges[name] for name in PLANNED[1:]}
    with pytest.raises(ExportError, match=PLANNED[0]):
        quantize_static(files.encoder, out, fewer, INT8)
    with pytest.raises(ExportError, match="overflows"):
        Range(0.0, np.inf)
    tiny = {**ranges, PLANNED[0]: Range(-1e-6, 1e-6)}
    half = exported.bundle.graph("trt", "fp16").encoder
    with pytest.raises(ExportError, match="does not fit FLOAT16"):
        quantize_static(half, out, tiny, INT8)
    assert not out.exists()
