"""The precisions that graphs have, and the float type of each. No torch: engines are built without.

What of a graph computes in that type, and what stays in float32, stands in ``precision``.
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
"""The type of what is not quantized, in graphs for TensorRT."""
FLOATS = tuple(precision for precision, kind in FLOAT_OF.items() if precision == kind)
"""Precisions in which nothing is quantized."""
