"""Files of tests share a process, in an order that depends on how many processes there are."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def torch_as_it_was() -> Iterator[None]:
    """A peer switches gradients off, and training flushes denormal numbers, for all of a process.

    torch is looked up: tests of the runtime are not to import it.
    """
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_grad_enabled(True)
        torch.set_flush_denormal(False)
