"""A graph's types are read from the graph alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from samihs_export import onnx as onnx_module
from samihs_export.graphs import EncoderGraph
from samihs_export.merge import merge
from samihs_export.onnx import OPSET, export_encoder
from samihs_export.precision import to_precision
from samihs_export.type_check import check_types
from samihs_runtime.errors import ExportError

from .conftest import PR, SLICE, adapted_model


@pytest.mark.parametrize(("precision", "other"), [("fp32", "fp16"), ("fp16", "fp32")])
def test_weights_beside_the_graph_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, other: str
) -> None:
    """As those of a ViT-H, which protobuf could not hold."""
    monkeypatch.setattr(onnx_module, "_EMBEDDED_LIMIT", 0)
    form = "bias" if precision == "fp32" else "augmented"
    graph = EncoderGraph(merge(adapted_model(PR))[0], form)
    path = tmp_path / "encoder.onnx"
    export_encoder(to_precision(graph, precision), SLICE, path, OPSET)  # type: ignore[arg-type]
    path.with_name("encoder.onnx.data").unlink()
    check_types(path, precision)
    with pytest.raises(ExportError, match=f"compute in another type than {other}"):
        check_types(path, other)
