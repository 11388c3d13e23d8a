"""The work from which floors are computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import floors
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch_threads import torch_threads

from samihs_runtime.bundle import Bundle, shipped_bundle


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products and a copy of a few kilobytes."""
    monkeypatch.setattr(floors, "SIDE", 16)
    monkeypatch.setattr(floors, "COPIED", 1 << 10)


def test_rates_are_those_of_the_given_threads(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch, which a server's OMP_NUM_THREADS binds, and ONNX Runtime, which ignores it."""
    found: dict[str, list[int]] = {"torch": [], "onnxruntime": []}
    timed, opened = floors.interleaved, onnxruntime.InferenceSession

    def interleaved(*arguments: Any) -> dict[str, tuple[float, ...]]:
        found["torch"].append(torch.get_num_threads())
        return timed(*arguments)

    def session(model: bytes, options: Any = None, **named: Any) -> Any:
        found["onnxruntime"].append(options.intra_op_num_threads if options else 0)
        return opened(model, options, **named)

    monkeypatch.setattr(floors, "interleaved", interleaved)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with torch_threads(1):
        series = floors.rates(2, rounds=1)
        assert torch.get_num_threads() == 1
    assert found == {"torch": [2], "onnxruntime": [2]}
    assert [each.unit for each in series] == ["GFLOP/s"] * 3 + ["GB/s"]


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """x [batch, points, 6], put into rows of 6 by a shape computed from its own, times [6, 4]."""
    weights = {
        "whole": np.asarray([-1], np.int64),
        "sixth": np.asarray([6], np.int64),
        "zeroth": np.asarray([0], np.int64),
        "weight": np.zeros((6, 4), np.float32),
    }
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zeroth"], ["batch"]),
        helper.make_node("Concat", ["batch", "whole", "sixth"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["x", "wanted"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weight"], ["y"], name="product"),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "points", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None, 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "product.onnx")
    return tmp_path / "product.onnx"


@pytest.mark.parametrize(("batch", "points"), [(1, 2), (3, 5)])
def test_a_product_behind_a_computed_shape_counts(product: Path, batch: int, points: int) -> None:
    found = floors.flop_of(product, {"batch": batch, "points": points})
    assert found == 2 * batch * points * 6 * 4


def test_a_bundles_work_is_that_of_its_own_graphs() -> None:
    bundle = Bundle.open(shipped_bundle())
    work, graphs = floors.work_of_bundle(bundle), bundle.graph("onnx")
    assert work["click"]["flop"] == floors.flop_of(graphs.decoder, {"batch": 1, "points": 2})
    assert work["encode"]["flop"] > work["click"]["flop"]
    assert work["encode"]["bytes"] > graphs.encoder.stat().st_size
    assert {each["type"] for each in work.values()} == {"fp32"}
    further = floors.flop_of(graphs.decoder, {"batch": 1, "points": 12})
    assert further > work["click"]["flop"]  # its products depend on the points
