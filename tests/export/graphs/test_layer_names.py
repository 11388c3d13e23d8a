"""One table of names and types: all its users select the same layers."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from samihs_export.engines.readback import Layer, check_layers
from samihs_export.engines.refit import refittable
from samihs_export.float_types import FLOAT_OF, FLOATS
from samihs_export.graphs.layer_names import MERGED, QUANTIZED, block_of, is_one_of
from samihs_export.graphs.precision import COMPUTE_TYPES
from samihs_export.graphs.quantization import plan
from samihs_runtime.errors import ExportError

BLOCK = "blocks.11"
OTHERS = (f"{BLOCK}.norm1", f"{BLOCK}.attention", "neck.0", "transformer.layers.0.mlp.lin1")


def encoder() -> onnx.GraphProto:
    """A graph of products, one for each layer, with the names that the export gives them."""
    layers = [*(f"{BLOCK}.{name}" for name in QUANTIZED), *OTHERS]
    nodes = [
        helper.make_node("MatMul", ["hu", f"{layer}.weight"], [layer], name=f"{layer}/MatMul")
        for layer in layers
    ]
    weights = [
        helper.make_tensor(f"{layer}.{part}", TensorProto.FLOAT, (1, 1), [1.0])
        for layer in layers
        for part in ("weight", "bias")
    ]
    hu = helper.make_tensor_value_info("hu", TensorProto.FLOAT, (1, 1))
    return helper.make_graph(nodes, "encoder", [hu], [], weights)


def test_a_layers_block() -> None:
    assert [block_of(name) for name in (f"{BLOCK}.mlp", "neck.0", "x.blocks.1.mlp")] == [
        11,
        None,
        None,
    ]


def test_only_whole_names_count() -> None:
    assert is_one_of(f"{BLOCK}.mlp.lin1", MERGED)
    for name in (*OTHERS, "mlp.lin1", f"{BLOCK}.mlp.lin1.weight", f"x.{BLOCK}.mlp.lin1"):
        assert not is_one_of(name, QUANTIZED)


def test_quantized_and_merged_layers_follow_the_tables() -> None:
    assert [layer.name for layer in plan(encoder())] == [f"{BLOCK}.{name}" for name in QUANTIZED]
    assert refittable(encoder()) == [
        f"{BLOCK}.{name}.{part}" for name in MERGED for part in ("weight", "bias")
    ]


@pytest.mark.parametrize("missing", QUANTIZED)
def test_a_planned_layer_that_is_not_quantized_is_named(missing: str) -> None:
    names = [name for name in QUANTIZED if name != missing]
    layers = [Layer(f"{BLOCK}.{name}/QuantizeLinear_input", "QUANTIZE", "INT8") for name in names]
    with pytest.raises(ExportError, match=rf"not quantized: {BLOCK}.{missing}: "):
        check_layers(layers, "int8", "encoder.onnx")


def test_each_precision_has_one_float_type() -> None:
    assert set(FLOAT_OF.values()) == set(FLOATS) == set(COMPUTE_TYPES)
    for precision, kind in (("fp32", "FLOAT"), ("bf16", "BF16"), ("int8", "HALF"), ("fp8", "HALF")):
        product = Layer("score_head.layers.0/MatMul", "MATRIX_MULTIPLY", kind)
        check_layers([product], precision, "decoder.onnx")
        with pytest.raises(ExportError, match="of another type"):
            check_layers([Layer(product.name, product.kind, "INT32")], precision, "decoder.onnx")
