"""Profiler output as seconds by operator: ONNX Runtime's trace and torch's table.

Products have their floating-point operations, counted from the shapes that were run, including the
channels that ONNX Runtime adds to a convolution to fill the CPU's registers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

BETWEEN = "between operators"
"""Time of a run that is in no operator."""
WEIGHTS, ACTIVATIONS = "with weights", "of activations"
"""Two kinds of product: those of layers, and those within attention."""
TORCH_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")
"""Operators whose operations are taken from torch: it also counts additions, and attributes the
operations of a convolution to another operator than its time."""
ENDED = "_kernel_time"
"""Suffix of the node's name in ONNX Runtime's event for a kernel."""


@dataclass
class Profile:
    """The time each operator took, run by run, and what it computed per run."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Operator -> seconds of each run."""
    flop: dict[str, float] = field(default_factory=dict)
    """Operator -> floating-point operations per run, for products and convolutions only."""

    def add(self, seconds: Mapping[str, float], flop: Mapping[str, float]) -> None:
        """Add one run."""
        for operator, taken in seconds.items():
            self.seconds.setdefault(operator, []).append(taken)
        self.flop |= {operator: each for operator, each in flop.items() if each}


def onnx_runtime(trace: Path, weights: Mapping[str, list[int]], warm_up: int = 1) -> Profile:
    """The profile in the file named by ``InferenceSession.end_profiling``, without its first runs.

    Args:
        trace: that file.
        weights: node -> shape of its weights (:func:`weights_of`): the trace lacks those that were
            packed for the CPU.
        warm_up: number of runs to leave out.
    """
    profile = Profile()
    for run in _runs(json.loads(trace.read_text(encoding="utf-8")))[warm_up:]:
        *kernels, whole = run
        seconds: dict[str, float] = {}
        flop: dict[str, float] = {}
        for kernel in kernels:
            name, work = _kernel(kernel["args"], weights.get(kernel["name"].removesuffix(ENDED)))
            seconds[name] = seconds.get(name, 0.0) + kernel["dur"] / 1e6
            flop[name] = flop.get(name, 0.0) + work
        seconds[BETWEEN] = whole["dur"] / 1e6 - sum(seconds.values())
        profile.add(seconds, flop)
    return profile


def weights_of(graph: Path) -> dict[str, list[int]]:
    """Node -> shape of the weights it multiplies by, in a graph as ONNX Runtime runs it."""
    model = onnx.load(graph, load_external_data=False).graph
    shapes = {each.name: list(each.dims) for each in model.initializer}
    return {
        node.name: shapes[node.input[1]]
        for node in model.node
        if len(node.input) > 1 and node.input[1] in shapes
    }


def _runs(events: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Kernels of each run, in the order in which they ended, followed by the run itself."""
    runs: list[list[Mapping[str, Any]]] = []
    kernels: list[Mapping[str, Any]] = []
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(ENDED):
            kernels.append(event)
        elif event["name"] == "model_run":
            runs.append([*kernels, event])
            kernels = []
    return runs


def _kernel(said: Mapping[str, Any], weights: Sequence[int] | None) -> tuple[str, float]:
    """Operator name and floating-point operations of a kernel in a trace."""
    operator = said["op_name"]
    inputs, out = _shapes(said["input_type_shape"]), _shapes(said["output_type_shape"])[0]
    if "Conv" in operator and weights:
        side = inputs[0] if "Transpose" in operator else out
        return operator, 2.0 * math.prod(side) * math.prod(weights[1:])
    if "MatMul" in operator or "Gemm" in operator:
        if weights:
            return f"{operator} {WEIGHTS}", 2.0 * math.prod(out) * inputs[0][-1]
        shared = math.prod(inputs[0]) * out[-1] / math.prod(out)  # either side may be transposed
        return f"{operator} {ACTIVATIONS}", 2.0 * math.prod(out) * shared
    if "Attention" in operator:  # queries times keys, scores times values
        query, key, value = inputs[:3]
        return operator, 2.0 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return operator, 0.0


def _shapes(given: Sequence[Mapping[str, list[int]]]) -> list[list[int]]:
    """``[{"float": [1, 2]}]`` as ``[[1, 2]]``."""
    return [next(iter(each.values()), []) for each in given]


def torch_table(averages: Sequence[Any], whole: float) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds and floating-point operations by operator, for one run.

    Args:
        averages: result of ``profile.key_averages()``, recorded ``with_flops``.
        whole: wall seconds of the run.
    """
    seconds = {each.key: each.self_cpu_time_total / 1e6 for each in averages}
    flop = {each.key: float(each.flops) for each in averages if each.key in TORCH_PRODUCTS}
    return {**seconds, BETWEEN: whole - sum(seconds.values())}, flop
