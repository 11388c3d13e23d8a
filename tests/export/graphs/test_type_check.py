"""The types of a graph are read without its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper, save

from samihs_export.graphs import onnx as onnx_module
from samihs_export.graphs.encoder_graph import EncoderGraph
from samihs_export.graphs.families import float_precision
from samihs_export.graphs.onnx import OPSET, export_encoder
from samihs_export.graphs.precision import to_precision
from samihs_export.graphs.type_check import check_types
from samihs_export.merge import merge
from samihs_runtime.bundle import Bundle, shipped_bundle
from samihs_runtime.errors import ExportError
from tests.export.conftest import PR, SLICE, adapted_model


@pytest.mark.parametrize(("precision", "other"), [("fp32", "fp16"), ("fp16", "fp32")])
def test_weights_beside_the_graph_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, other: str
) -> None:
    """Like those of a ViT-H, which exceed protobuf's limit."""
    monkeypatch.setattr(onnx_module, "_EMBEDDED_LIMIT", 0)
    form = "bias" if precision == "fp32" else "augmented"
    graph = EncoderGraph(merge(adapted_model(PR))[0], form)
    path = tmp_path / "encoder.onnx"
    export_encoder(to_precision(graph, precision), SLICE, path, OPSET)  # type: ignore[arg-type]
    path.with_name("encoder.onnx.data").unlink()
    check_types(path, precision)
    with pytest.raises(ExportError, match=f"compute in another type than {other}"):
        check_types(path, other)


def one_product(path: Path, operator: str, node: str, element: int) -> Path:
    """A graph of one product of two 4D inputs, all of the same type."""
    values = [helper.make_tensor_value_info(n, element, (1, 2, 2, 2)) for n in "abc"]
    equation = {"equation": "bcij,bcjk->bcik"} if operator == "Einsum" else {}
    product = helper.make_node(operator, ["a", "b"], ["c"], name=f"{node}/{operator}", **equation)
    graph = helper.make_graph([product], "encoder", values[:2], values[2:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)]), path)
    return path


@pytest.mark.parametrize("operator", ["MatMul", "Einsum", "Conv", "ConvTranspose"])
def test_a_layer_that_multiplies_in_float32_is_refused_in_half_precision(
    tmp_path: Path, operator: str
) -> None:
    layer = "blocks.0.mlp.lin1"
    path = one_product(tmp_path / "encoder.onnx", operator, layer, TensorProto.FLOAT)
    check_types(path, "fp32")
    for precision in ("fp16", "bf16"):
        with pytest.raises(ExportError, match=rf"another type than {precision}.*{layer}/"):
            check_types(path, precision)


def test_products_that_stay_in_float32_must_be_so(tmp_path: Path) -> None:
    path = one_product(tmp_path / "decoder.onnx", "MatMul", "points", TensorProto.FLOAT)
    check_types(path, "fp16")
    path = one_product(tmp_path / "decoder.onnx", "MatMul", "points", TensorProto.FLOAT16)
    with pytest.raises(ExportError, match=r"another type than float32.*points/MatMul"):
        check_types(path, "fp16")


def test_the_shipped_graphs_are_of_their_types() -> None:
    bundle = Bundle.open(shipped_bundle())
    for entry in bundle.manifest.graphs:
        precision = float_precision(entry.family, entry.precision)  # type: ignore[arg-type]
        for name in (entry.encoder, entry.decoder):
            check_types(bundle.root / name, precision)
