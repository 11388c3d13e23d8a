"""Batches shrink where a larger one than ever finds no memory, and only there."""

from __future__ import annotations

import pytest

from samihs_runtime.backends.batch_limit import BatchLimit
from samihs_runtime.errors import DeviceMemoryError


class Memory:
    """Runs batches up to what fits."""

    def __init__(self, fits: int) -> None:
        self.fits = fits
        self.tried: list[int] = []

    def run(self, part: slice) -> range:
        self.tried.append(part.stop - part.start)
        if self.tried[-1] > self.fits:
            raise DeviceMemoryError("full")
        return range(part.start, part.stop)


def test_all_are_run_in_order() -> None:
    memory = Memory(99)
    parts = BatchLimit(4).split(10, memory.run)
    assert [each for part in parts for each in part] == list(range(10))
    assert memory.tried == [4, 4, 2]
    assert BatchLimit(4).split(0, memory.run) == []


def test_a_batch_that_finds_no_memory_is_halved_and_remembered() -> None:
    memory, limit = Memory(3), BatchLimit(16)
    assert len(limit.split(16, memory.run)) == 8
    assert memory.tried == [16, 8, 4, *[2] * 8]
    assert limit.most == 2


def test_no_smaller_than_what_has_run() -> None:
    memory, limit = Memory(5), BatchLimit(8)
    limit.split(5, memory.run)
    limit.split(8, memory.run)
    assert limit.most == 5


def test_what_has_run_before_is_the_callers_to_make_room_for() -> None:
    memory, limit = Memory(8), BatchLimit(8)
    limit.split(8, memory.run)
    memory.fits = 3
    with pytest.raises(DeviceMemoryError):
        limit.split(8, memory.run)
    assert limit.most == 8


def test_not_even_one() -> None:
    memory = Memory(0)
    with pytest.raises(DeviceMemoryError):
        BatchLimit(4).split(4, memory.run)
    assert memory.tried == [4, 2, 1]
