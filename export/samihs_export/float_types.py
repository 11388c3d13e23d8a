"""The precisions of graphs, and the float type of each. No torch: engines are built without it.

``precision`` defines which parts of a graph compute in that type, and which stay in float32.
"""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
FLOAT_OF: dict[str, Precision] = {
    "fp32": "fp32",
    "fp16": "fp16",
    "bf16": "bf16",
    "int8": "fp16",
    "fp8": "fp16",
}
"""The type of everything that is not quantized, in graphs for TensorRT."""
FLOATS = tuple(precision for precision, kind in FLOAT_OF.items() if precision == kind)
"""Precisions in which nothing is quantized."""
