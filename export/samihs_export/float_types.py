"""The precisions of graphs as a type, and the float type of each; no torch, as engines need none.

``samihs_runtime.precisions`` lists the precisions; ``graphs.precision`` defines which parts of a
graph compute in the float type, and which stay in float32.
"""

from __future__ import annotations

from typing import Literal, cast

from samihs_runtime.errors import UsageError
from samihs_runtime.precisions import PRECISIONS

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
"""One of ``PRECISIONS``: a type checker needs the names written out."""
_BESIDE_8_BITS: dict[str, Precision] = {"int8": "fp16", "fp8": "fp16"}
"""8-bit precision -> the type of everything that is not quantized, in graphs for TensorRT."""
FLOATS = tuple(cast(Precision, each) for each in PRECISIONS if each not in _BESIDE_8_BITS)
"""Precisions in which nothing is quantized: each is its own float type."""
FLOAT_OF: dict[str, Precision] = {**{each: each for each in FLOATS}, **_BESIDE_8_BITS}
"""Precision -> float type, in graphs for TensorRT."""


def read_precisions(given: str) -> tuple[Precision, ...]:
    """``fp16, INT8`` as precisions; raises :class:`UsageError` for an unknown one."""
    chosen = [each.strip().lower() for each in given.split(",")]
    for each in chosen:
        if each not in PRECISIONS:
            raise UsageError(f"unknown precision {each!r}: there are {', '.join(PRECISIONS)}")
    return tuple(cast("list[Precision]", chosen))
