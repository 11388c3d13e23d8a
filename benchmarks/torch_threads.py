"""How many threads torch runs on, set where it matters and restored afterwards.

By default torch takes the number in OMP_NUM_THREADS, which ONNX Runtime ignores: times of the two,
or a time and a rate, could then not be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch on ``count`` threads, whatever OMP_NUM_THREADS says."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
