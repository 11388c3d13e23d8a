"""Profiles by operator: what is read from a trace, and that no part of a run is lost."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import floors
import operator_tables
import operators
import pytest
import traces
from record import Record, Series
from tables import MACHINE

from samihs_runtime.bundle import Bundle, shipped_bundle


def kernel(
    operator: str, us: float, inputs: list[list[int]], outputs: list[list[int]]
) -> dict[str, Any]:
    """A kernel's event, as ONNX Runtime writes it."""
    said = {
        "op_name": operator,
        "input_type_shape": [{"float": each} for each in inputs],
        "output_type_shape": [{"float": each} for each in outputs],
    }
    return {"cat": "Node", "name": f"a {operator}_kernel_time", "dur": us, "args": said}


def trace_of(folder: Path, *runs: list[dict[str, Any]], us: float = 100) -> Path:
    events: list[dict[str, Any]] = [{"cat": "Session", "name": "session_initialization", "dur": 9}]
    for run in runs:
        events += [*run, {"cat": "Session", "name": "model_run", "dur": us, "args": {}}]
    path = folder / "trace.json"
    path.write_text(json.dumps(events))
    return path


def test_kernels_of_a_name_are_one_operator_and_the_first_run_is_left_out(tmp_path: Path) -> None:
    run = [
        kernel("Softmax", 10, [[2, 8]], [[2, 8]]),
        kernel("Softmax", 20, [[2, 8]], [[2, 8]]),
        {"cat": "Node", "name": "/3_fence_before", "dur": 40, "args": {"op_name": "Softmax"}},
    ]
    cold = [kernel("Softmax", 90, [[2, 8]], [[2, 8]])]
    found = traces.onnx_runtime(trace_of(tmp_path, cold, run, run), {})
    assert found.seconds["Softmax"] == pytest.approx([3e-5, 3e-5])
    assert found.seconds[traces.BETWEEN] == pytest.approx([7e-5, 7e-5])
    assert not found.flop


@pytest.mark.parametrize(
    ("operator", "inputs", "weights", "output", "name", "flop"),
    [
        # packed weights are not among the inputs
        ("MatMul", [[4, 5, 8]], [8, 3], [4, 5, 3], f"MatMul {traces.WEIGHTS}", 2 * 4 * 5 * 8 * 3),
        ("MatMulIntegerToFloat", [[4, 8], [3]], [8, 3], [4, 3],
         f"MatMulIntegerToFloat {traces.WEIGHTS}", 2 * 4 * 8 * 3),
        # either operand may be transposed
        ("FusedMatMul", [[2, 5, 8], [2, 7, 8]], None, [2, 5, 7],
         f"FusedMatMul {traces.ACTIVATIONS}", 2 * 2 * 5 * 8 * 7),
        ("FusedMatMul", [[2, 8, 5], [2, 8, 7]], None, [2, 5, 7],
         f"FusedMatMul {traces.ACTIVATIONS}", 2 * 2 * 5 * 8 * 7),
        ("MultiHeadAttention", [[1, 5, 12], [1, 7, 12], [1, 7, 6]], None, [1, 5, 6],
         "MultiHeadAttention", 2 * 5 * 7 * (12 + 6)),
        ("FusedConv", [[1, 6, 9, 9], [4, 6, 3, 3]], [4, 6, 3, 3], [1, 4, 9, 9], "FusedConv",
         2 * 4 * 81 * 6 * 9),
        ("ConvTranspose", [[1, 6, 9, 9], [4]], [6, 4, 2, 2], [1, 4, 18, 18], "ConvTranspose",
         2 * 6 * 81 * 4 * 4),
    ],
)  # fmt: skip
def test_operations_of_a_product(
    tmp_path: Path,
    operator: str,
    inputs: list[list[int]],
    weights: list[int] | None,
    output: list[int],
    name: str,
    flop: float,
) -> None:
    run = [kernel(operator, 10, inputs, [output])]
    known = {f"a {operator}": weights} if weights else {}
    assert traces.onnx_runtime(trace_of(tmp_path, run, run), known).flop == {name: flop}


def test_in_torch_only_products_have_operations() -> None:
    rows = [
        SimpleNamespace(key="aten::mm", self_cpu_time_total=2e6, flops=64),
        SimpleNamespace(key="aten::add", self_cpu_time_total=1e6, flops=8),
    ]
    seconds, flop = traces.torch_table(rows, 3.5)
    assert seconds == {"aten::mm": 2.0, "aten::add": 1.0, traces.BETWEEN: 0.5}
    profile = traces.Profile()
    profile.add(seconds, flop)
    assert profile.flop == {"aten::mm": 64.0}


def test_what_ran_multiplies_as_much_as_the_file_does(tmp_path: Path) -> None:
    """Except for the channels that pad convolutions."""
    subject = operators.OnnxRuntime(shipped_bundle(), tmp_path)
    for turn in range(2):
        subject.run(turn)
    found = subject.profiles()
    graphs = Bundle.open(shipped_bundle()).graph("onnx")
    sizes = {"batch": 1, "points": floors.POINTS}
    for part, graph in zip(operators.PARTS, (graphs.encoder, graphs.decoder), strict=True):
        counted = floors.flop_of(graph, sizes)
        assert counted * 0.9999 <= sum(found[part].flop.values()) <= counted * 1.15
        assert all(len(each) == 1 for each in found[part].seconds.values())


def test_a_table_says_what_share_of_the_machine_a_product_reaches() -> None:
    series = (
        Series("ours int8, encode", "MatMul with weights", "s", (0.5, 0.5)),
        Series("ours int8, encode", "MatMulInteger with weights", "s", (0.4, 0.4)),
        Series("ours int8, encode", "Cast", "s", (0.095, 0.095)),
        Series("ours int8, encode", "Add", "s", (0.005, 0.005)),
        Series(MACHINE, "matrix rate, fp32", "GFLOP/s", (200.0,)),
        Series(MACHINE, "matrix rate, int8", "GFLOP/s", (800.0,)),
    )
    flop = {"MatMul with weights": 50e9, "MatMulInteger with weights": 160e9}
    record = Record("operators-x", series, {"flop": {"ours int8, encode": flop}})
    assert operator_tables.operators(record)[2:-1] == [
        "| MatMul with weights | 500 | 50.0% | 100 | 50% (fp32) |",
        "| MatMulInteger with weights | 400 | 40.0% | 400 | 50% (int8) |",
        "| Cast | 95 | 9.5% |  |  |",
        "| all others | 5 | 0.5% |  |  |",
        "| all | 1000 | 100.0% |  |  |",
    ]
