"""A bundle with graphs written by hand: the whole tensor contract at S = 64, without training.

The "model" answers a click with the bright pixels of a disc around it::

    encoder: windowed pixels in 2 x 2 means, packed 4 x 4 to a token  -> [B, 16, 8, 8]
    decoder: 8 (brightness - 0.5) - (squared distance to the nearest foreground point) / 400
             + has_prior * prior  -> logits; resized to 64 x 64, > 0 -> mask; max sigmoid -> score
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from samihs_runtime.bundle import Bundle, GraphEntry, Manifest, WindowRule, write_bundle

SIZE, GRID, CHANNELS = 64, 8, 16
LOW = 4 * GRID
FAR = 1e4
"""Squared distance of what is no foreground point."""
F32, I32, U8 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT8


def manifest(**changes: object) -> Manifest:
    """The tiny bundle's manifest, with fields replaced."""
    fields: dict[str, object] = {
        "name": "tiny",
        "version": "0",
        "preset": "tiny",
        "intended_use": "the project's tests",
        "training_data": "none",
        "clinical_use": False,
        "slice_size": SIZE,
        "image_size": SIZE,
        "grid": GRID,
        "embedding_channels": CHANNELS,
        "window": WindowRule("fixed", 0.0, 100.0),
        "score_threshold": 0.5,
        "plausible_hu": (30.0, 100.0),
        "graphs": (GraphEntry("onnx", "fp32", "onnx/encoder.onnx", "onnx/decoder.onnx"),),
    }
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


def write_tiny_bundle(scratch: Path, destination: Path, **changes: object) -> Bundle:
    """Write the tiny bundle; ``changes`` replace fields of the manifest."""
    folder = scratch / "files"
    (folder / "onnx").mkdir(parents=True)
    onnx.save(encoder(), folder / "onnx/encoder.onnx")
    onnx.save(decoder(), folder / "onnx/decoder.onnx")
    return write_bundle(folder, manifest(**changes), destination)


def encoder() -> onnx.ModelProto:
    """The encoder graph."""
    nodes = [
        helper.make_node("Split", ["window"], ["low2", "high2"], axis=1, num_outputs=2),
        helper.make_node("Reshape", ["low2", "column"], ["low"]),
        helper.make_node("Reshape", ["high2", "column"], ["high"]),
        helper.make_node("Sub", ["hu", "low"], ["above"]),
        helper.make_node("Sub", ["high", "low"], ["width"]),
        helper.make_node("Div", ["above", "width"], ["relative"]),
        helper.make_node("Clip", ["relative", "zero", "one"], ["bright"]),
        helper.make_node("AveragePool", ["bright"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("SpaceToDepth", ["half"], ["embedding"], blocksize=4),
    ]
    constants = {
        "column": np.array([-1, 1, 1, 1], np.int64),
        "zero": np.float32(0),
        "one": np.float32(1),
    }
    inputs = {"hu": (F32, ["B", 1, SIZE, SIZE]), "window": (F32, ["B", 2])}
    return _model(nodes, inputs, {"embedding": (F32, ["B", CHANNELS, GRID, GRID])}, constants)


def decoder() -> onnx.ModelProto:
    """The decoder graph."""
    nodes = [
        helper.make_node("DepthToSpace", ["embedding"], ["bright"], blocksize=4, mode="DCR"),
        helper.make_node("Sub", ["bright", "half"], ["centred"]),
        helper.make_node("Mul", ["centred", "eight"], ["appearance"]),
        helper.make_node("Split", ["points"], ["px", "py"], axis=2, num_outputs=2),
        helper.make_node("Unsqueeze", ["px", "last"], ["px4"]),  # [B, N, 1, 1]
        helper.make_node("Unsqueeze", ["py", "last"], ["py4"]),
        helper.make_node("Sub", ["columns", "px4"], ["dx"]),
        helper.make_node("Sub", ["rows", "py4"], ["dy"]),
        helper.make_node("Mul", ["dx", "dx"], ["dx2"]),
        helper.make_node("Mul", ["dy", "dy"], ["dy2"]),
        helper.make_node("Add", ["dx2", "dy2"], ["d2"]),  # [B, N, LOW, LOW]
        helper.make_node("Equal", ["labels", "foreground"], ["wanted"]),
        helper.make_node("Unsqueeze", ["wanted", "last_two"], ["wanted4"]),
        helper.make_node("Where", ["wanted4", "d2", "far"], ["kept"]),
        helper.make_node("ReduceMin", ["kept", "first"], ["nearest"], keepdims=1),
        helper.make_node("Div", ["nearest", "spread"], ["penalty"]),
        helper.make_node("Reshape", ["has_prior", "column"], ["weight"]),
        helper.make_node("Mul", ["prior", "weight"], ["bias"]),
        helper.make_node("Sub", ["appearance", "penalty"], ["fresh"]),
        helper.make_node("Add", ["fresh", "bias"], ["logits"]),
        helper.make_node("Resize", ["logits", "", "scales"], ["large"], mode="linear"),
        helper.make_node("Greater", ["large", "nought"], ["inside"]),
        helper.make_node("Squeeze", ["inside", "first"], ["inside3"]),
        helper.make_node("Cast", ["inside3"], ["mask"], to=U8),  # TensorRT: uint8 at the end only
        helper.make_node("Sigmoid", ["logits"], ["probability"]),
        helper.make_node("ReduceMax", ["probability", "image"], ["score"], keepdims=0),
    ]
    centres = (np.arange(LOW, dtype=np.float32) + 0.5) * (SIZE / LOW) - 0.5
    constants = {
        "half": np.float32(0.5),
        "eight": np.float32(8),
        "last": np.array([3], np.int64),
        "last_two": np.array([2, 3], np.int64),
        "first": np.array([1], np.int64),
        "image": np.array([1, 2, 3], np.int64),
        "columns": centres.reshape(1, 1, 1, LOW),
        "rows": centres.reshape(1, 1, LOW, 1),
        "foreground": np.int32(1),
        "far": np.float32(FAR),
        "spread": np.float32(400),
        "column": np.array([-1, 1, 1, 1], np.int64),
        "scales": np.array([1, 1, SIZE / LOW, SIZE / LOW], np.float32),
        "nought": np.float32(0),
    }
    inputs = {
        "embedding": (F32, ["B", CHANNELS, GRID, GRID]),
        "points": (F32, ["B", "N", 2]),
        "labels": (I32, ["B", "N"]),
        "prior": (F32, ["B", 1, LOW, LOW]),
        "has_prior": (F32, ["B"]),
    }
    outputs = {
        "logits": (F32, ["B", 1, LOW, LOW]),
        "mask": (U8, ["B", SIZE, SIZE]),
        "score": (F32, ["B"]),
    }
    return _model(nodes, inputs, outputs, constants)


def reference_embedding(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the encoder gives for one slice [64, 64] under the window 0 to 100, in numpy."""
    half = np.clip(hu / 100, 0, 1).reshape(LOW, 2, LOW, 2).mean(axis=(1, 3))
    cells = half.reshape(GRID, 4, GRID, 4)  # token row, row within, token column, column within
    return cells.transpose(1, 3, 0, 2).reshape(CHANNELS, GRID, GRID).astype(np.float32)


def reference_logits(
    hu: NDArray[np.float32],
    points: NDArray[np.float32],
    labels: NDArray[np.int32],
    prior: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """What the decoder gives for one prompt [N, 2] on one slice [64, 64], in numpy."""
    half = np.clip(hu / 100, 0, 1).reshape(LOW, 2, LOW, 2).mean(axis=(1, 3))
    centres = (np.arange(LOW) + 0.5) * (SIZE / LOW) - 0.5
    d2 = np.full((LOW, LOW), FAR)
    for (x, y), label in zip(points, labels, strict=True):
        if label == 1:
            d2 = np.minimum(d2, (centres - x) ** 2 + (centres[:, None] - y) ** 2)
    logits = 8 * (half - 0.5) - d2 / 400
    return np.asarray(logits if prior is None else logits + prior, dtype=np.float32)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[object]]],
    outputs: dict[str, tuple[int, list[object]]],
    constants: dict[str, object],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, *each) for name, each in inputs.items()],
        [helper.make_tensor_value_info(name, *each) for name, each in outputs.items()],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model
