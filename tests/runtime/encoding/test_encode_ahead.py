"""A series encoded ahead: its order, batches, short memory, the disk, and the thread of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_runtime.backends.base import Embedding
from samihs_runtime.backends.fake import FakeBackend
from samihs_runtime.bundle import Bundle
from samihs_runtime.encoding.embedding_store import EmbeddingStore
from samihs_runtime.encoding.encode_ahead import outward
from samihs_runtime.errors import DeviceMemoryError, PromptError, StudyError
from samihs_runtime.segmentation import Prompt
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.series import CTSeries, SlicePlane
from tests.runtime.tiny_model import GRID, SIZE

EMBEDDING_BYTES = SIZE * SIZE * 4  # the fake keeps the slice itself
CLICK = Prompt(points=((9, 9),), labels=(1,))


def series_of(hu: NDArray[np.float32]) -> CTSeries:
    planes = tuple(
        SlicePlane((0, 0, 5.0 * z), (1, 0, 0), (0, 1, 0), (0.5, 0.5), 5.0) for z in range(len(hu))
    )
    return CTSeries(hu, planes, np.full(len(hu), 5.0), (), "1.2.3", "test")


def test_outward_order() -> None:
    assert outward(6, 2) == [2, 1, 3, 0, 4, 5]


def test_a_series_is_encoded_ahead_outward(tiny_bundle: Path) -> None:
    seen: list[float] = []

    class Watched(FakeBackend):
        def encode(
            self, hu: NDArray[np.float32], window: NDArray[np.float32]
        ) -> Sequence[Embedding]:
            seen.append(float(hu[0, 0, 0, 0]))
            return super().encode(hu, window)

    hu = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((1, SIZE, SIZE), np.float32)
    backend = Watched(SIZE, GRID)
    with (
        Segmenter(Bundle.open(tiny_bundle), backend) as segmenter,
        segmenter.open(series_of(hu), start=3) as session,
    ):
        assert session.wait(10)
        assert seen == [3, 2, 4, 1, 0]
        session.encoded(4)
        assert backend.encodes == 5
        with pytest.raises(PromptError, match="slice 5 is out of range: this series has 0 to 4"):
            session.encoded(5)


def test_a_series_of_oblong_pixels_is_encoded_ahead_in_true_proportions(
    tiny_bundle: Path,
) -> None:
    series = series_of(ramp(3))
    oblong = replace(series.planes[1], spacing=(0.5, 0.8))
    series = replace(series, planes=(series.planes[0], oblong, oblong))
    with (
        Segmenter(Bundle.open(tiny_bundle), FakeBackend(SIZE, GRID)) as segmenter,
        segmenter.open(series) as session,
    ):
        assert session.wait(10)
        assert [session.encoded(index).frame.aspect for index in range(3)] == [1.0, 0.625, 0.625]
        assert session.encoded(2) is segmenter.encode(series.hu[2], oblong.spacing)


class Batched(FakeBackend):
    """Notes the size of each batch; its memory may hold only so many slices at once."""

    def __init__(self, encode_batch: int, room: int = 99) -> None:
        super().__init__(SIZE, GRID, encode_batch=encode_batch)
        self.room = room
        self.sizes: list[int] = []

    def encode(self, hu: NDArray[np.float32], window: NDArray[np.float32]) -> Sequence[Embedding]:
        self.sizes.append(len(hu))
        if len(hu) > self.room:
            raise DeviceMemoryError("the GPU's memory is full")
        return super().encode(hu, window)


def ramp(count: int) -> NDArray[np.float32]:
    return np.arange(count, dtype=np.float32)[:, None, None] * np.ones((1, SIZE, SIZE), np.float32)


def test_a_series_is_encoded_in_batches_the_first_slice_alone(tiny_bundle: Path) -> None:
    backend = Batched(4)
    with (
        Segmenter(Bundle.open(tiny_bundle), backend) as segmenter,
        segmenter.open(series_of(ramp(10)), start=3) as session,
    ):
        assert session.wait(10)
        assert backend.sizes == [1, 4, 4, 1]
        for index in range(10):
            encoded = session.encoded(index)
            assert encoded.embedding.numpy()[0, 0, 0] == index
        assert backend.encodes == 10


def test_short_memory_halves_the_batch_then_is_a_clear_error(tiny_bundle: Path) -> None:
    backend = Batched(4, room=1)
    with Segmenter(Bundle.open(tiny_bundle), backend) as segmenter:
        with segmenter.open(series_of(ramp(5)), start=0) as session:
            assert session.wait(10)
        assert backend.sizes == [1, 4, 4, 2, 2, 1, 1, 2, 2, 1, 1]
        backend.room = 0
        with pytest.raises(DeviceMemoryError, match="memory is full"):
            segmenter.encode(ramp(9)[8])


def test_equal_slices_are_encoded_once_within_a_batch(tiny_bundle: Path) -> None:
    backend = Batched(8)
    with (
        Segmenter(Bundle.open(tiny_bundle), backend) as segmenter,
        segmenter.open(series_of(np.zeros((6, SIZE, SIZE), np.float32))) as session,
    ):
        assert session.wait(10)
        assert backend.encodes == 1


def test_embeddings_outlive_the_process_on_disk(tiny_bundle: Path, tmp_path: Path) -> None:
    """The second segmenter encodes nothing, and answers alike; memory holds three of five."""
    bundle, store = Bundle.open(tiny_bundle), tmp_path / "store"
    hu = np.where(np.arange(5)[:, None, None] >= 0, ramp(5) + 60, 0).astype(np.float32)
    answers = []
    for expected in (5, 0):
        backend = Batched(2)
        kept = EmbeddingStore(store, backend.name, "fp32")
        with (
            Segmenter(
                bundle, backend, cache_mb=3 * EMBEDDING_BYTES / 2**20, store=kept
            ) as segmenter,
            segmenter.open(series_of(hu), start=0) as session,
        ):
            assert session.wait(10)
            assert segmenter.encoder.cache.nbytes == 3 * EMBEDDING_BYTES
            answers.append([segmenter.predict(session.encoded(z), CLICK) for z in range(5)])
            assert backend.encodes == expected
    for one, other in zip(*answers, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)


def test_encoding_ahead_stops_where_the_cache_is_full(tiny_bundle: Path) -> None:
    hu = np.arange(9, dtype=np.float32)[:, None, None] * np.ones((1, SIZE, SIZE), np.float32)
    backend = FakeBackend(SIZE, 4 * GRID)
    with (
        Segmenter(
            Bundle.open(tiny_bundle), backend, cache_mb=3 * EMBEDDING_BYTES / 2**20
        ) as segmenter,
        segmenter.open(series_of(hu), start=0) as session,
    ):
        assert session.wait(10)
        assert backend.encodes == 3
        session.encoded(0)
        assert backend.encodes == 3


class Slow(FakeBackend):
    """Encodes when it is let, one slice at a time, and notes the order."""

    def __init__(self) -> None:
        super().__init__(SIZE, GRID)
        self.go = threading.Semaphore(0)
        self.started = threading.Semaphore(0)
        self.order: list[float] = []

    def encode(self, hu: NDArray[np.float32], window: NDArray[np.float32]) -> Sequence[Embedding]:
        self.order.append(float(hu[0, 0, 0, 0]))
        self.started.release()
        assert self.go.acquire(timeout=10)
        return super().encode(hu, window)


def test_a_slice_that_is_asked_for_goes_before_the_background(tiny_bundle: Path) -> None:
    hu = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((1, SIZE, SIZE), np.float32)
    backend = Slow()
    with Segmenter(Bundle.open(tiny_bundle), backend) as segmenter:
        session = segmenter.open(series_of(hu), start=0)
        assert backend.started.acquire(timeout=10)  # the background holds slice 0
        asked = threading.Thread(target=session.encoded, args=(5,))
        asked.start()
        deadline = time.monotonic() + 10
        while not segmenter.encoder.turns._foreground_waiting and time.monotonic() < deadline:
            time.sleep(0.001)
        backend.go.release(99)
        asked.join(10)
        assert session.wait(10)
        assert backend.order == [0, 5, 1, 2, 3, 4]


def test_leaving_the_session_stops_the_background(tiny_bundle: Path) -> None:
    hu = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((1, SIZE, SIZE), np.float32)
    backend = Slow()
    with Segmenter(Bundle.open(tiny_bundle), backend) as segmenter:
        with segmenter.open(series_of(hu), start=0) as session:
            assert backend.started.acquire(timeout=10)
            session._cancelled.set()
            backend.go.release(99)
        assert not session._thread.is_alive()
        assert backend.order == [0]


def test_a_fault_in_the_background_is_not_lost(tiny_bundle: Path) -> None:
    hu = np.zeros((2, SIZE, SIZE), np.float32)
    hu[1] = np.inf
    with (
        Segmenter(Bundle.open(tiny_bundle), FakeBackend(SIZE, 4 * GRID)) as segmenter,
        segmenter.open(series_of(hu), start=0) as session,
        pytest.raises(StudyError, match="not finite"),
    ):
        session.wait(10)
