"""Slices and prompts for the GPU backends, and both backends opened on planted hardware."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.base import Backend, Decoded
from samihs_runtime.backends.device_backend import DeviceBackend
from tests.runtime.planted_gpu import PlantedCuda
from tests.runtime.tiny_model import CHANNELS, GRID, SIZE

EMBEDDING_BYTES = CHANNELS * GRID * GRID * 4
WINDOW = np.asarray([(0, 100)], np.float32)
SHAPES = [(1, clicks + 1) for clicks in range(1, 9)] + [(count, 2) for count in range(2, 17)]
"""Prompts and points of every common shape: 1 to 8 clicks of one prompt, 2 to 16 of one click."""


@dataclass(frozen=True)
class Planted:
    """A backend that can be opened on a planted GPU, and what the GPU has seen of it."""

    open: Callable[[], DeviceBackend]
    cuda: PlantedCuda
    captures: Callable[[], int]
    """CUDA graphs captured by now."""
    replays: Callable[[], int]
    """Runs that replayed one."""


def slices(count: int) -> NDArray[np.float32]:
    """[count, 1, 64, 64]: discs of blood at other places in each."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    discs = [(columns - 20 - 2 * i) ** 2 + (rows - 30) ** 2 <= 64 for i in range(count)]
    return np.where(np.stack(discs), 70, 30).astype(np.float32)[:, None]


def windows(count: int) -> NDArray[np.float32]:
    """[count, 2]: 0 to 100 HU each."""
    return np.tile(WINDOW, (count, 1))


def prompts(
    count: int, points: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Points [count, points, 2] and labels, of which the last is "not a point"."""
    spots = np.random.default_rng(seed).uniform(5, 59, (count, points, 2)).astype(np.float32)
    labels = np.ones((count, points), np.int32)
    labels[:, -1] = -1
    return spots, labels


def same(one: Decoded, other: Decoded) -> None:
    """Both are the same answer."""
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)
    np.testing.assert_array_equal(one.masks, other.masks)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
    assert one.masks.dtype == bool


def answer_alike(backend: Backend, other: Backend) -> None:
    """Three clicks on a slice that is encoded anew for each, by both."""
    for turn in range(3):
        ours, theirs = backend.encode(slices(1), WINDOW), other.encode(slices(1), WINDOW)
        where = prompts(1, 2, turn)
        same(backend.decode(ours, *where, None), other.decode(theirs, *where, None))
