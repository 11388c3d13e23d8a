"""What no program can go below on this machine: work over the rates that are measured here.

A floor is the larger of two times: floating-point operations over the rate of a large matrix
product in the same type, and bytes that must move (weights once, input, output) over the rate of a
large copy. The operations are torch's own count of products and convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from record import Series
from stopwatch import interleaved
from tables import MACHINE
from torch.utils.flop_counter import FlopCounterMode

from samihs_training.model import SamihsModel
from samihs_training.sam import SamConfig, build_sam

RATE, BANDWIDTH = "matrix rate, {}", "memory bandwidth"
SIDE = 2048
"""Of the products: 17 GFLOP each, far more than a cache holds."""
COPIED = 1 << 28
"""Bytes of the copy's source, beyond any cache."""
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
"""Of a weight."""


def rates(rounds: int = 5) -> list[Series]:
    """GFLOP/s of a product in each type and GB/s of a copy, on as many threads as torch takes."""
    source = np.ones(COPIED // 4, np.float32)
    target = np.zeros_like(source)
    works: dict[str, Callable[[], object]] = {kind: _product(kind) for kind in BYTES}
    works[BANDWIDTH] = lambda: np.copyto(target, source)
    taken = interleaved(works, rounds)
    found = [
        Series(MACHINE, RATE.format(kind), "GFLOP/s", _per_second(2 * SIDE**3, taken[kind]))
        for kind in BYTES
    ]
    # read and written
    return [*found, Series(MACHINE, BANDWIDTH, "GB/s", _per_second(2 * COPIED, taken[BANDWIDTH]))]


def _per_second(amount: float, seconds: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(amount / each / 1e9 for each in seconds)


def _product(kind: str) -> Callable[[], object]:
    random = np.random.default_rng(0)
    if kind == "int8":
        return _integers(random)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    a, b = (torch.from_numpy(random.standard_normal((SIDE, SIDE))).to(dtype) for _ in range(2))
    return lambda: a @ b


def _integers(random: np.random.Generator) -> Callable[[], object]:
    """ONNX Runtime's product of 8-bit integers, which is what the int8 bundle runs on."""
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
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"a": a})


def work_of(config: SamConfig, slice_size: int, precision: str = "fp32") -> dict[str, Any]:
    """What one encode and one click must do: operations and bytes, and the type they are in.

    Counted on tensors without storage: nothing is computed.
    """
    with torch.device("meta"), torch.inference_mode():
        model = SamihsModel(build_sam(config), config).eval()
        with FlopCounterMode(display=False) as encoding:
            embedding = model.encode(torch.zeros(1, 1, slice_size, slice_size), torch.zeros(1, 2))
        with FlopCounterMode(display=False) as decoding:
            labels = torch.ones(1, 2, dtype=torch.int32)
            model.decode(embedding, torch.zeros(1, 2, 2), labels, slice_size=slice_size)
    in_encoder = sum(each.numel() for each in model.sam.image_encoder.parameters())
    in_decoder = sum(each.numel() for each in model.sam.parameters()) - in_encoder
    held, pixels = 4 * embedding.numel(), slice_size**2  # float32; a mask is a byte a pixel
    weight = BYTES[precision]
    return {
        "encode": {
            "flop": encoding.get_total_flops(),
            "bytes": weight * in_encoder + 4 * pixels + held,
            "type": precision,
        },
        "click": {
            "flop": decoding.get_total_flops(),
            "bytes": weight * in_decoder + held + pixels,
            "type": precision,
        },
    }


def floor_seconds(work: Mapping[str, Any], rate: float, bandwidth: float) -> tuple[float, float]:
    """Seconds of the operations at ``rate`` GFLOP/s, and of the bytes at ``bandwidth`` GB/s."""
    return work["flop"] / rate / 1e9, work["bytes"] / bandwidth / 1e9
