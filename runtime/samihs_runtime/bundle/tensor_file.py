"""Read safetensors files without torch: a length, a JSON header, the bytes of each tensor.

The format (huggingface/safetensors): 8 bytes of little-endian header length, the header
``{name: {"dtype", "shape", "data_offsets": [from, to]}}``, then the data, from whose start the
offsets count.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samihs_runtime.errors import BundleError

SIZES = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes of the types that adapter sets hold."""
_MAX_HEADER_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class RawTensor:
    """A tensor as stored in a file; kept as bytes, since numpy has no bfloat16."""

    dtype: str
    """One of :data:`SIZES`."""
    shape: tuple[int, ...]
    data: bytes
    """Little-endian, in C order."""


def read_tensors(path: Path) -> dict[str, RawTensor]:
    """Every tensor of a safetensors file, by name.

    Raises:
        BundleError: unreadable, not a safetensors file, or a tensor of a type that no graph has.
    """
    try:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        if not 2 <= length <= min(_MAX_HEADER_BYTES, len(content) - 8):
            raise ValueError(f"its header has {length} bytes")
        header = json.loads(content[8 : 8 + length])
        body = memoryview(content)[8 + length :]
        header.pop("__metadata__", None)
        return {name: _tensor(name, entry, body) for name, entry in header.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(
            f"{path}: no tensors can be read from it ({error}); add the adapters again"
        ) from error


def _tensor(name: str, entry: dict[str, Any], body: memoryview) -> RawTensor:
    dtype, shape = str(entry["dtype"]), tuple(int(size) for size in entry["shape"])
    if dtype not in SIZES:
        raise ValueError(f"{name} is {dtype}, expected one of {', '.join(SIZES)}")
    start, stop = (int(each) for each in entry["data_offsets"])
    if not 0 <= start <= stop <= len(body) or stop - start != SIZES[dtype] * math.prod(shape):
        raise ValueError(f"{name} has offsets {start} to {stop}, which do not fit its shape")
    return RawTensor(dtype, shape, bytes(body[start:stop]))
