"""10,000 clicks leave memory flat: no handle, buffer or array is kept by an answer."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_runtime.segmentation import Prompt
from samihs_runtime.segmenter import Segmenter

CLICKS, WARM_UP = 10_000, 500
ALLOWED_KIB = 2048
"""One answer of the tiny model is 8 KiB: a leak of one answer in thirty would show."""


def resident_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    pytest.skip("the system does not say how much memory is resident")


@pytest.fixture(params=["fake", "cpu"])
def segmenter(request: pytest.FixtureRequest, tiny_bundle: Path) -> Iterator[Segmenter]:
    with Segmenter.from_bundle(tiny_bundle, request.param) as opened:
        yield opened


def test_ten_thousand_clicks_leave_memory_flat(
    segmenter: Segmenter, bright_slice: NDArray[np.float32]
) -> None:
    encoded = segmenter.encode(bright_slice)

    def click(turn: int) -> None:
        prompt = Prompt(points=((20 + turn % 40, 24),), labels=(1,))
        assert np.isfinite(segmenter.predict(encoded, prompt).score)

    for turn in range(WARM_UP):
        click(turn)
    gc.collect()
    before = resident_kib()
    for turn in range(CLICKS):
        click(turn)
    gc.collect()
    assert resident_kib() - before < ALLOWED_KIB
