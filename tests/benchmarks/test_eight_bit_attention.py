"""What the report says about ONNX Runtime's 8-bit attention, checked with the version it names."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime
import pytest
import targets
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.skipif(
    not onnxruntime.__version__.startswith(f"{targets.ATTENTION_OF}."),
    reason=f"the report is about ONNX Runtime {targets.ATTENTION_OF}",
)
HEADS, WIDTH, TOKENS = 4, 16, 32
HIDDEN = HEADS * WIDTH
STEP = np.float32(0.03)
"""Of the stored keys and values."""
ON_REQUEST = "ORT_MLAS_QKGEMM_S8_APPROX_VNNI"
Array = NDArray[Any]


def test_two_operators_of_the_cpu_take_8_bit_tensors() -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    found = {
        kernel.op_name
        for kernel in get_all_opkernel_def()
        if kernel.provider == "CPUExecutionProvider" and kernel.op_name.endswith("Attention")
        for types in kernel.type_constraints.values()
        if {"tensor(int8)", "tensor(uint8)"} & set(types)
    }
    assert found == {"QAttention", "GroupQueryAttention"}
    assert all(name in targets.EIGHT_BIT_ATTENTION for name in found)


def test_qattention_has_no_input_for_relative_positions() -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    (schema,) = (each for each in get_all_operator_schema() if each.name == "QAttention")
    assert [each.name for each in schema.inputs] == [
        "input", "weight", "bias", "input_scale", "weight_scale", "mask_index",
        "input_zero_point", "weight_zero_point", "past",
    ]  # fmt: skip


def test_qattention_quantizes_only_the_projections() -> None:
    """With exact projections, its answer is that of attention in float."""
    random = np.random.default_rng(0)
    x = random.integers(0, 255, (1, TOKENS, HIDDEN), np.uint8)
    # 7 bits: without VNNI, sums of two products of 8 bits saturate.
    weight = random.integers(-63, 63, (HIDDEN, 3 * HIDDEN), np.int8)
    step = np.float32(0.007)  # projections of about 1
    held = {
        "weight": weight, "bias": np.zeros(3 * HIDDEN, np.float32), "step": step,
        "middle": np.uint8(128), "zero": np.int8(0),
    }  # fmt: skip
    inputs = ["x", "weight", "bias", "step", "step", "", "middle", "zero"]
    (answer,) = _run("QAttention", {"x": x}, held, inputs, 1, num_heads=HEADS)
    projected = float(step) ** 2 * ((x.astype(np.float64) - 128) @ weight)
    q, k, v = (_heads_first(each) for each in np.split(projected, 3, axis=-1))
    assert np.abs(answer - _attention(q, k, v)).max() < 1e-5 * np.abs(answer).max()


@pytest.mark.skipif(ON_REQUEST in os.environ, reason=f"{ON_REQUEST} asks for other products")
def test_group_query_attention_only_stores_in_8_bits() -> None:
    """Its answer is that of attention in float with the stored keys and values."""
    random = np.random.default_rng(0)
    shape = (1, TOKENS, HIDDEN)
    given = {each: random.standard_normal(shape).astype(np.float32) for each in "qkv"}
    none = np.zeros((1, HEADS, 0, WIDTH), np.int8)
    feeds = {**given, "past_k": none, "past_v": none}
    held = {
        "last": np.int32([TOKENS - 1]), "count": np.int32(TOKENS), "step": STEP[None],
    }  # fmt: skip
    inputs = ["q", "k", "v", "past_k", "past_v", "last", "count", *[""] * 5, "step", "step"]
    answer, k, v = _run(
        "GroupQueryAttention", feeds, held, inputs, 3,
        num_heads=HEADS, kv_num_heads=HEADS, causal=0, kv_cache_bit_width=8,
        k_quant_type="PER_TENSOR", v_quant_type="PER_TENSOR",
    )  # fmt: skip
    assert k.dtype == v.dtype == np.int8
    expected = _attention(_heads_first(given["q"]), *(STEP * each.astype(float) for each in (k, v)))
    assert np.abs(answer - expected).max() < 1e-5 * np.abs(expected).max()


def _run(
    operator: str,
    feeds: dict[str, Array],
    held: dict[str, Any],
    inputs: list[str],
    outputs: int,
    **attributes: Any,
) -> list[Array]:
    """The outputs of one operator; ``held``: its constant inputs."""
    names = [f"output{number}" for number in range(outputs)]
    node = helper.make_node(operator, inputs, names, domain="com.microsoft", **attributes)
    kinds = [TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT8]
    graph = helper.make_graph(
        [node],
        operator,
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in feeds.items()
        ],
        [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in zip(names, kinds, strict=False)
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=providers)
    return session.run(None, feeds)


def _heads_first(values: Array) -> Array:
    """[1, tokens, heads x width] -> [1, heads, tokens, width]."""
    return values.reshape(1, TOKENS, HEADS, WIDTH).transpose(0, 2, 1, 3).astype(np.float64)


def _attention(q: Array, k: Array, v: Array) -> Array:
    """softmax(q k^T / sqrt(width)) v in float64, [1, tokens, heads x width]."""
    scores = q @ k.swapaxes(2, 3) / np.sqrt(WIDTH)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return (shares @ v).transpose(0, 2, 1, 3).reshape(1, TOKENS, HIDDEN)
