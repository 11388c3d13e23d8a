"""The multiply-accumulates of a graph, counted from the ONNX file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from samihs_export.graphs import ort_attention
from samihs_export.graphs.onnx import OPSET


def multiply_accumulates(path: Path, sizes: Mapping[str, int]) -> Counter[str]:
    """Multiply-accumulates by node name, for MatMul, Gemm, Conv, ConvTranspose and attention.

    Args:
        path: an ONNX graph.
        sizes: values of its dynamic sizes, such as ``{"batch": 1}``.
    """
    model = onnx.load(path, load_external_data=False)
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    _unsqueeze_sizes(model.graph)
    # Stale shapes of intermediate values would take precedence over the given sizes.
    del model.graph.value_info[:]
    _use_standard_attention(model)
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {each.name: list(each.dims) for each in graph.initializer}
    for each in (*graph.input, *graph.value_info, *graph.output):
        shapes[each.name] = [dim.dim_value for dim in each.type.tensor_type.shape.dim]
    counted: Counter[str] = Counter()
    for node in graph.node:
        out, inputs = shapes.get(node.output[0], []), [shapes.get(n, []) for n in node.input]
        if node.op_type in ("MatMul", "Gemm"):
            counted[node.name] = math.prod(out) * inputs[0][-1]
        elif node.op_type == "Conv":
            counted[node.name] = math.prod(out) * math.prod(inputs[1][1:])
        elif node.op_type == "ConvTranspose":
            counted[node.name] = math.prod(inputs[0]) * math.prod(inputs[1][1:])
        elif node.op_type == "Attention":  # queries times keys, scores times values
            query, key, value = inputs[:3]
            counted[node.name] = math.prod(query) * key[-2] + math.prod(query[:-1]) * math.prod(
                value[-2:]
            )
    return counted


def _unsqueeze_sizes(graph: onnx.GraphProto) -> None:
    """Replace reshapes of a size to a vector by ``Unsqueeze``: onnx propagates values only through
    the latter, and otherwise could not infer the shapes assembled from them."""
    axes, sizes = "axes of a size", set()
    for value in graph.value_info:
        kind = value.type.tensor_type
        if kind.elem_type == onnx.TensorProto.INT64 and not kind.shape.dim:
            sizes.add(value.name)
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[0] in sizes:
            node.op_type, node.input[1] = "Unsqueeze", axes
            del node.attribute[:]
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.int64), axes))


def _use_standard_attention(model: onnx.ModelProto) -> None:
    """Replace ONNX Runtime's operator by ``Attention``: onnx infers no shapes past foreign ones."""
    for each in model.opset_import:
        if not each.domain:
            each.version = max(each.version, OPSET)  # the first opset that has it
    for node in model.graph.node:
        if (node.domain, node.op_type) == (ort_attention.DOMAIN, ort_attention.OPERATOR):
            heads = next(each.i for each in node.attribute if each.name == "num_heads")
            node.domain, node.op_type = "", "Attention"
            del node.attribute[:]
            for name in ("q_num_heads", "kv_num_heads"):
                node.attribute.append(onnx.helper.make_attribute(name, heads))
