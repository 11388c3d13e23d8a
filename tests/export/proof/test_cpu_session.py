"""The sessions in which an export is proved: their threads, and graphs that they do not take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from samihs_export.proof.layers import inputs_of_onnx
from samihs_export.proof.parity import answers_of_onnx
from samihs_runtime.errors import ExportError
from tests.runtime.tiny_model import decoder, encoder


@pytest.mark.parametrize("newer", ["opset", "file format"])
def test_a_graph_that_is_newer_than_onnxruntime_is_called_so(newer: str) -> None:
    model = encoder()
    if newer == "opset":
        model.opset_import[0].version = 99
    else:
        model.ir_version = 99
    given = model.SerializeToString(), decoder().SerializeToString()
    with pytest.raises(ExportError, match=r"cannot run these graphs: .*: install a newer one$"):
        answers_of_onnx(*given, [], 1)


def test_a_graph_that_is_broken_is_not_called_newer(tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match=f"cannot run {tmp_path.name}'s graphs") as raised:
        answers_of_onnx(tmp_path / "encoder.onnx", decoder().SerializeToString(), [], 1)
    assert "newer" not in str(raised.value)


def test_the_search_for_a_fault_takes_no_more_threads_than_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    make = onnxruntime.InferenceSession

    def counted(graph: object, options: onnxruntime.SessionOptions, **given: object) -> object:
        counts.append(options.intra_op_num_threads)
        return make(graph, options, **given)

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xz"]
    nodes = [
        helper.make_node("Neg", ["x"], ["y"]),
        helper.make_node("MatMul", ["y", "lin1.weight"], ["z"], name="lin1/MatMul"),
    ]
    weight = numpy_helper.from_array(np.eye(2, dtype=np.float32), "lin1.weight")
    graph = helper.make_graph(nodes, "one layer", values[:1], values[1:], [weight])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "one.onnx")
    monkeypatch.setattr(onnxruntime, "InferenceSession", counted)
    seen = inputs_of_onnx(tmp_path / "one.onnx", {"x": np.ones((1, 2), np.float32)})
    np.testing.assert_array_equal(seen["lin1"], -np.ones((1, 2)))
    assert counts == [2]
