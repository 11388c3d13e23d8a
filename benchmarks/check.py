"""Has anything become slower? A comparison with the committed baseline, on any machine.

    python benchmarks/check.py [--rounds 25] [--slack 1.5] [--update]

Ratios are compared: the time of the work over that of a reference measured in the same rounds,
which is a fixed matrix product or a fixed ONNX model (a convolution and a product, defined here).
A machine that is half as fast is half as fast at both. If a ratio exceeds that of the baseline
times the slack, the work is named and the exit code is 1; ``--update`` writes the baseline.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from record import RESULTS
from stopwatch import interleaved

from samihs_runtime.backends.cpu_threads import cpu_threads
from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.study import read_study
from samihs_training.data.phantom import PhantomOptions, generate_study, write_dicom

BASELINE = RESULTS / "baseline.json"
PRODUCT, GRAPH = "reference: matrix product", "reference: ONNX model"
REFERENCE_OF = {"encode": GRAPH, "click": GRAPH, "read a folder": PRODUCT}


def measure(rounds: int) -> dict[str, float]:
    """Work -> median, over the rounds, of its time divided by that of its reference."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        Segmenter.from_bundle(None, "cpu") as segmenter,
    ):
        write_dicom(generate_study(5, PhantomOptions(slices=8)), Path(scratch) / "study")
        hu = np.random.default_rng(0).uniform(-20, 100, (512, 512)).astype(np.float32)
        encoded, prompt = segmenter.encode(hu), Prompt(((250.0, 250.0),), (FOREGROUND,))
        turn = iter(range(1, 10**9))
        works: dict[str, Callable[[], object]] = {
            PRODUCT: _product(),
            GRAPH: _graph(),
            "encode": lambda: segmenter.encode(hu + np.float32(next(turn))),  # results are cached
            "click": lambda: segmenter.predict(encoded, prompt),
            "read a folder": lambda: read_study(Path(scratch) / "study"),
        }
        taken = interleaved(works, rounds, warm_up=2)
    return {
        name: statistics.median(
            own / other for own, other in zip(taken[name], taken[reference], strict=True)
        )
        for name, reference in REFERENCE_OF.items()
    }


def slower(
    measured: dict[str, float], baseline: dict[str, float], slack: float
) -> dict[str, tuple[float, float]]:
    """Work -> (ratio now, ratio then), for work that became slower than the slack allows."""
    return {
        name: (measured[name], then)
        for name, then in baseline.items()
        if name in measured and measured[name] > slack * then
    }


def _product() -> Callable[[], object]:
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((1024, 1024)).astype(np.float32) for _ in range(2))
    return lambda: a @ b


def _graph() -> Callable[[], object]:
    """A convolution and a product, roughly in the proportions of an encoder."""
    random = np.random.default_rng(0)
    weights = {
        "kernel": random.standard_normal((64, 3, 8, 8)).astype(np.float32),
        "matrix": random.standard_normal((64, 512)).astype(np.float32),
        "shape": np.asarray((1, 64, -1), np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["patches"], strides=[8, 8]),
        helper.make_node("Reshape", ["patches", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["tokens", "matrix"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "reference",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 512, 512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4096, 512])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_threads()  # as the encode and the click
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = random.standard_normal((1, 3, 512, 512)).astype(np.float32)
    return lambda: session.run(None, {"x": x})


def main() -> None:
    """Measure, compare, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--slack", type=float, default=1.5, help="times the baseline's ratio")
    parser.add_argument("--update", action="store_true", help="write the baseline")
    options = parser.parse_args()
    measured = measure(options.rounds)
    for name, ratio in measured.items():
        print(f"{name:16} {ratio:8.3f} x {REFERENCE_OF[name]}")
    if options.update:
        BASELINE.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        print(f"written  {BASELINE}")
        return
    found = slower(measured, json.loads(BASELINE.read_text(encoding="utf-8")), options.slack)
    for name, (now, then) in found.items():
        print(f"slower: {name}: {now:.3f}, baseline {then:.3f}", file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
