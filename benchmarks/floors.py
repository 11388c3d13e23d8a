"""The shortest time any program could take on this machine: work divided by measured rates.

A floor is the larger of two times: floating-point operations divided by the rate of a large matrix
product of the same type, and bytes that must move (weights once, input, output) divided by the rate
of a large copy (``tables.floors``). The operations are those of products and convolutions. Rates
are measured on a given number of threads: that of the program, which records state.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from record import Series
from stopwatch import interleaved
from tables import MACHINE
from torch.utils.flop_counter import FlopCounterMode
from torch_threads import torch_threads

from samihs_export.graphs.multiply_count import multiply_accumulates
from samihs_runtime.bundle import Bundle
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import SamConfig, build_sam

RATE, BANDWIDTH = "matrix rate, {}", "memory bandwidth"
SIDE = 2048
"""Side of the matrices: 17 GFLOP per product, far larger than a cache."""
COPIED = 1 << 28
"""Bytes of the copy's source, larger than any cache."""
TYPES = ("fp32", "bf16", "int8")
POINTS = 2
"""Points of a click: itself, and the padding point that stands for "no box"."""


def rates(threads: int, rounds: int = 5) -> list[Series]:
    """GFLOP/s of a product in each type and GB/s of a copy, each on ``threads`` threads."""
    source = torch.ones(COPIED // 4)
    target = torch.zeros_like(source)
    works: dict[str, Callable[[], object]] = {kind: _product(kind, threads) for kind in TYPES}
    works[BANDWIDTH] = lambda: target.copy_(source)
    with torch_threads(threads):
        taken = interleaved(works, rounds)
    found = [
        Series(MACHINE, RATE.format(kind), "GFLOP/s", _per_second(2 * SIDE**3, taken[kind]))
        for kind in TYPES
    ]
    # each byte is read and written
    return [*found, Series(MACHINE, BANDWIDTH, "GB/s", _per_second(2 * COPIED, taken[BANDWIDTH]))]


def _per_second(amount: float, seconds: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(amount / each / 1e9 for each in seconds)


def _product(kind: str, threads: int) -> Callable[[], object]:
    random = np.random.default_rng(0)
    if kind == "int8":
        return _integers(random, threads)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    a, b = (torch.from_numpy(random.standard_normal((SIDE, SIDE))).to(dtype) for _ in range(2))
    return lambda: a @ b


def _integers(random: np.random.Generator, threads: int) -> Callable[[], object]:
    """ONNX Runtime's product of 8-bit integers, on which the int8 bundle runs."""
    import onnxruntime
    from onnx import TensorProto, helper

    a: NDArray[np.uint8] = random.integers(0, 255, (SIDE, SIDE), np.uint8)
    b: NDArray[np.int8] = random.integers(-127, 127, (SIDE, SIDE), np.int8)
    shape = [SIDE, SIDE]
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "integers",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, shape)],
        [helper.make_tensor("b", TensorProto.INT8, shape, b.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin after their product would take cores away from the next work of the round.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"a": a})


def work_of(config: SamConfig, slice_size: int) -> dict[str, Any]:
    """The minimum work of one encode and one click in fp32: operations, bytes, and the type.

    Counted by torch on tensors without storage, so nothing is computed.
    """
    with torch.device("meta"), torch.inference_mode():
        model = SamihsModel(build_sam(config), config).eval()
        with FlopCounterMode(display=False) as encoding:
            embedding = model.encode(torch.zeros(1, 1, slice_size, slice_size), torch.zeros(1, 2))
        with FlopCounterMode(display=False) as decoding:
            labels = torch.ones(1, POINTS, dtype=torch.int32)
            model.decode(embedding, torch.zeros(1, POINTS, 2), labels, slice_size=slice_size)
    in_encoder = sum(each.numel() for each in model.sam.image_encoder.parameters())
    in_decoder = sum(each.numel() for each in model.sam.parameters()) - in_encoder
    encode = encoding.get_total_flops(), 4 * in_encoder
    click = decoding.get_total_flops(), 4 * in_decoder
    return _work(encode, click, 4 * embedding.numel(), slice_size)


def work_of_bundle(bundle: Bundle) -> dict[str, Any]:
    """The same for a bundle, counted in its graphs for ONNX Runtime.

    Only the click if the encoder is 8-bit, since its products are of two types. The decoder is
    float32 in any case (``samihs_export.graphs.families``).
    """
    graphs, manifest = bundle.graph("onnx"), bundle.manifest
    encode = flop_of(graphs.encoder, {"batch": 1}), _size(graphs.encoder)
    click = flop_of(graphs.decoder, {"batch": 1, "points": POINTS}), _size(graphs.decoder)
    held = 4 * manifest.embedding_channels * manifest.grid**2
    work = _work(encode, click, held, manifest.slice_size)
    return work if graphs.precision == "fp32" else {"click": work["click"]}


def flop_of(graph: Path, sizes: Mapping[str, int]) -> int:
    """Floating-point operations of an ONNX graph at the given values of its dynamic sizes.

    ONNX Runtime inserts the values and computes the shapes that depend on them. onnx's own
    inference leaves these shapes open, and a product of an open shape would not be counted.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    # The weights, which are not read, go into a separate file: protobuf's limit is 2 GB.
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", "weights"
    )
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    with tempfile.TemporaryDirectory() as scratch:
        options.optimized_model_filepath = f"{scratch}/{graph.name}"
        onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        counted = multiply_accumulates(Path(options.optimized_model_filepath), {})
    return 2 * sum(counted.values())


def _size(graph: Path) -> int:
    """Bytes of a graph, nearly all of them weights; very large weights are in a separate file."""
    return sum(each.stat().st_size for each in graph.parent.glob(f"{graph.name}*"))


def _work(
    encode: tuple[int, int], click: tuple[int, int], held: int, slice_size: int
) -> dict[str, Any]:
    """From (operations, bytes of weights) of each; ``held``: bytes of the embedding in between."""
    pixels = slice_size**2  # of a slice in float32, and of a mask of bytes
    return {
        "encode": {"flop": encode[0], "bytes": encode[1] + 4 * pixels + held, "type": "fp32"},
        "click": {"flop": click[0], "bytes": click[1] + held + pixels, "type": "fp32"},
    }
