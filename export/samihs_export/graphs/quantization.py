"""8-bit encoders: which layers are quantized, how, and what is left unchanged.

::

    in 8 bits                   why
    blocks.N.attention.qkv      the linear layers of the blocks hold nearly all weights and three
    blocks.N.attention.proj     quarters of the arithmetic (ViT-B at 1024); each output channel of
    blocks.N.mlp.lin1           a weight has a scale of its own, an activation has one scale
    blocks.N.mlp.lin2

    unchanged                   why
    patch_embed                 its input is the slice: what is lost here is lost everywhere
    attention products, softmax their operands have different outliers in every slice
    norms, residual sums        they carry the outlier channels of SAM encoders
    neck                        only two layers, whose output every later click reads
    the mask decoder            a hundredth of the arithmetic, and its logits' sign is the mask

    scheme          weights       activations                        serves
    int8, onnx      int8          per call (dynamic)                 ONNX Runtime on the CPU
    int8, trt       int8          int8, symmetric, calibrated        TensorRT; RTX builds it
    fp8, trt        float8 e4m3   float8 e4m3, calibrated            TensorRT, TensorRT-RTX

In TensorRT's graphs every quantization is an explicit QuantizeLinear and DequantizeLinear pair.
TensorRT requires symmetric ones; a float8 weight has a single scale, as its parser requires.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from samihs_export.graphs.layer_names import QUANTIZED, is_one_of
from samihs_runtime.errors import ExportError

_FP8_MOST = 448.0
"""Largest finite float8 e4m3fn (ONNX, float8 types)."""


@dataclass(frozen=True)
class Range:
    """The range of a layer's input over the calibration slices."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not np.isfinite([self.low, self.high]).all() or self.low > self.high:
            raise ExportError(
                f"a calibrated range is {self.low} to {self.high}, expected finite numbers: "
                "the float graph overflows on the calibration slices"
            )

    @property
    def most(self) -> float:
        """Largest absolute value; 1 if all were zero."""
        return max(abs(self.low), abs(self.high)) or 1.0


@dataclass(frozen=True)
class Scheme:
    """How weights and activations are stored in 8 bits: symmetric, as TensorRT requires."""

    kind: str
    """``int8`` or ``fp8``."""

    def activation(self, seen: Range) -> tuple[float, NDArray[Any]]:
        """(scale, zero point: 0 in the 8-bit type)."""
        if self.kind == "fp8":
            return seen.most / _FP8_MOST, np.zeros((), ml_dtypes.float8_e4m3fn)
        return seen.most / 127, np.zeros((), np.int8)

    def weight(self, weight: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """(scale: [out] for int8, a scalar for fp8; the 8-bit weight [in, out])."""
        if self.kind == "fp8":
            scale = np.float32(np.abs(weight).max() / _FP8_MOST or 1.0)
            return np.asarray(scale), (weight / scale).astype(ml_dtypes.float8_e4m3fn)
        scales = np.abs(weight).max(axis=0) / np.float32(127)
        scales = np.where(scales > 0, scales, np.float32(1))
        return scales, np.clip(np.rint(weight / scales), -127, 127).astype(np.int8)


INT8 = Scheme("int8")
FP8 = Scheme("fp8")


@dataclass(frozen=True)
class QuantizedLayer:
    """One layer of a plan."""

    name: str
    node: str
    activation: str
    """The value that the layer multiplies."""
    weight: str


def plan(graph: onnx.GraphProto) -> list[QuantizedLayer]:
    """The layers of an encoder graph that are quantized, in the graph's order.

    Raises:
        ExportError: there are none: the graph was not written by this package.
    """
    weights = {each.name for each in graph.initializer}
    layers = []
    for node in graph.node:
        layer, _, kind = node.name.partition("/")
        named = f"{layer}.weight"
        if kind == "MatMul" and is_one_of(layer, QUANTIZED) and named in weights:
            layers.append(QuantizedLayer(layer, node.name, node.input[0], named))
    if not layers:
        raise ExportError(
            f"graph {graph.name} has no layer to quantize (blocks.N.attention.qkv, ...): export it "
            "with this version of samihs"
        )
    return layers


def quantize_static(
    source: Path, out: Path, ranges: Mapping[str, Range], scheme: Scheme
) -> list[str]:
    """Write ``source`` with its planned layers in Q/DQ; returns the names of the layers.

    Args:
        source: a float32, float16 or bfloat16 encoder; everything else keeps its type.
        out: the file to write.
        ranges: of each planned layer's input, by layer name (``calibration.calibrate``).
        scheme: :data:`INT8` or :data:`FP8`.

    Raises:
        ExportError: a layer without a range, or nothing to quantize.
    """
    model = onnx.load(source)
    layers = plan(model.graph)
    missing = [layer.name for layer in layers if layer.name not in ranges]
    if missing:
        raise ExportError(f"{source.name}: no calibrated range for {', '.join(missing)}")
    before: dict[str, list[onnx.NodeProto]] = {}
    for layer in layers:
        before[layer.node] = _quantize(model.graph, layer, ranges[layer.name], scheme)
    nodes = [new for node in model.graph.node for new in (*before.get(node.name, ()), node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _forget_types(model.graph, {layer.weight for layer in layers})
    _save(model, out)
    return [layer.name for layer in layers]


def quantize_dynamic(source: Path, out: Path) -> list[str]:
    """Write ``source`` (float32) with its planned layers quantized, the activations at each call.

    By ONNX Runtime's own tool: DynamicQuantizeLinear and MatMulInteger, which it runs as one
    kernel. Returns the names of the layers.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    model = onnx.load(source)
    layers = plan(model.graph)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _quiet():
        quantize(
            model,
            out,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=[layer.node for layer in layers],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    return [layer.name for layer in layers]


def _quantize(
    graph: onnx.GraphProto, layer: QuantizedLayer, seen: Range, scheme: Scheme
) -> list[onnx.NodeProto]:
    """Rewire one layer; returns the nodes to insert before it."""
    node = next(each for each in graph.node if each.name == layer.node)
    weight = next(each for each in graph.initializer if each.name == layer.weight)
    scales, values = scheme.weight(numpy_helper.to_array(weight).astype(np.float32))
    scale, zero = scheme.activation(seen)
    constants = {
        "weight_scale": _typed(scales, weight.data_type),
        "weight_zero_point": np.zeros(scales.shape, values.dtype),
        "input_scale": _typed(np.asarray(scale, np.float32), weight.data_type),
        "input_zero_point": zero,
    }
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(value, f"{layer.name}.{name}"))
    weight.CopyFrom(numpy_helper.from_array(values, layer.weight))
    of_input = [f"{layer.name}.input_{each}" for each in ("scale", "zero_point")]
    of_weight = [f"{layer.name}.weight_{each}" for each in ("scale", "zero_point")]
    names = {part: f"{layer.name}.{part}" for part in ("quantized", "input", "multiplied")}
    node.input[:] = [names["input"], names["multiplied"]]
    axis = {"axis": 1} if scales.ndim else {}
    return [
        _node("QuantizeLinear", layer, "input", [layer.activation, *of_input], names["quantized"]),
        _node("DequantizeLinear", layer, "input", [names["quantized"], *of_input], names["input"]),
        _node(
            "DequantizeLinear",
            layer,
            "weight",
            [layer.weight, *of_weight],
            names["multiplied"],
            **axis,
        ),
    ]


def _forget_types(graph: onnx.GraphProto, names: set[str]) -> None:
    """Remove the recorded types of weights that are no longer floats."""
    kept = [each for each in graph.value_info if each.name not in names]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _node(
    kind: str, layer: QuantizedLayer, part: str, inputs: Sequence[str], output: str, **fields: int
) -> onnx.NodeProto:
    name = f"{layer.name}/{kind}_{part}"
    return helper.make_node(kind, list(inputs), [output], name=name, **fields)


def _typed(value: NDArray[np.float32], data_type: int) -> NDArray[Any]:
    """A scale in the graph's own type, as Q/DQ require; refused if it rounds to 0 or overflows."""
    typed: NDArray[Any] = value.astype(helper.tensor_dtype_to_np_dtype(data_type))
    if not (np.isfinite(typed).all() and (typed > 0).all()):
        name = onnx.TensorProto.DataType.Name(data_type)
        raise ExportError(
            f"a quantization scale of {float(np.min(value)):.2g} to {float(np.max(value)):.2g} "
            f"does not fit {name}: quantize the float32 or bfloat16 graph"
        )
    return typed


def _save(model: onnx.ModelProto, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, out)
    onnx.checker.check_model(str(out), full_check=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Mute the root logger, where onnxruntime's tool advises pre-processing: ours needs none."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
