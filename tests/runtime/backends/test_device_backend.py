"""What both backends on a GPU do alike, on planted ones: memory, embeddings, the way out."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from samihs_runtime.backends.onnx_cpu import CpuBackend
from samihs_runtime.errors import BackendError
from tests.runtime.planted_gpu import PlantedCuda
from tests.runtime.tiny_model import LOW, SIZE

from .gpu_cases import Planted, prompts, slices, windows

CLICKS = 10_000


def everything_of(cuda: PlantedCuda) -> tuple[object, ...]:
    return cuda.live, cuda.pinned, cuda.streams, cuda.graphs


NOTHING = ({}, {}, {}, [])


def test_clicks_replay_and_allocate_nothing(planted: Planted) -> None:
    with planted.open() as backend:
        encoded = backend.encode(slices(2), windows(2))
        backend.decode(encoded[:1], *prompts(1, 2), None)
        allocations, captures = planted.cuda.allocations, planted.captures()
        replays = planted.replays()
        for turn in range(CLICKS):
            backend.decode(encoded[turn % 2 :][:1], *prompts(1, 2, turn), None)
        assert planted.cuda.allocations == allocations
        assert planted.captures() == captures
        assert planted.replays() == replays + CLICKS


def test_embeddings_never_reach_the_host_and_answers_are_copied_once(planted: Planted) -> None:
    with planted.open() as backend:
        backend.warm_up()
        planted.cuda.downloads.clear()
        encoded = backend.encode(slices(3), windows(3))
        assert planted.cuda.downloads == []
        backend.decode(encoded, *prompts(3, 2), None)
        low, size = LOW * LOW * 4, SIZE * SIZE
        assert planted.cuda.downloads == [3 * low, 3 * size, 3 * 4]


def test_a_lost_device_is_an_error_and_everything_is_let_go(planted: Planted) -> None:
    backend = planted.open()
    encoded = backend.encode(slices(2), windows(2))

    def click() -> None:
        with backend:
            backend.decode(encoded, *prompts(2, 2), None)

    planted.cuda.lost = True
    # What went wrong first is what is said, though freeing the memory fails as well.
    with pytest.raises(BackendError, match="could not finish its work"):
        click()
    assert everything_of(planted.cuda) == NOTHING


def test_closing_frees_all_and_ends_the_threads(planted: Planted) -> None:
    others = set(threading.enumerate())
    backend = planted.open()
    encoded = backend.encode(slices(2), windows(2))
    for _ in range(3):
        backend.decode(encoded, *prompts(2, 2), None)
    backend.close()
    backend.close()
    assert everything_of(planted.cuda) == NOTHING
    assert set(threading.enumerate()) <= others
    with pytest.raises(BackendError, match="closed"):
        backend.decode(encoded, *prompts(2, 2), None)
    with pytest.raises(BackendError, match="closed"):
        backend.warm_up()
    with pytest.raises(BackendError, match="its embeddings are gone"):
        encoded[0].numpy()
    del encoded
    gc.collect()  # handles that die after their backend touch nothing


def test_foreign_embeddings_are_refused(planted: Planted, cpu: CpuBackend) -> None:
    foreign = cpu.encode(slices(1), windows(1))
    with planted.open() as backend, pytest.raises(TypeError, match="another backend"):
        backend.decode(foreign, *prompts(1, 2), None)


def test_an_embedding_comes_back_from_the_host(planted: Planted) -> None:
    with planted.open() as backend:
        encoded = backend.encode(slices(1), windows(1))[0].numpy()
        np.testing.assert_array_equal(backend.restore(encoded).numpy(), encoded)
