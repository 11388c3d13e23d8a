"""A CUDA graph is captured when its shape first comes, or by ``warm_up``; opening captures none."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_runtime.backends.capture_lock import CaptureLock
from samihs_runtime.backends.contract import DECODER, ENCODER
from samihs_runtime.backends.onnx_cpu import CpuBackend
from samihs_runtime.backends.onnx_cuda import CudaBackend, open_cuda
from samihs_runtime.backends.warm_up import common_sizes
from samihs_runtime.bundle import Bundle
from samihs_runtime.errors import BackendError
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.timing import Timings
from tests.runtime.planted_onnx_runtime import PlantedOrt
from tests.runtime.tiny_model import LOW

from .gpu_cases import SHAPES, Planted, prompts, same, slices, windows

ENCODER_SHAPES, DECODER_SHAPES = 3, 23
"""Batches of 8, 4 and 1; 2 to 16 prompts of one click, and 1 to 8 clicks of one prompt."""


def test_opening_captures_nothing(planted: Planted) -> None:
    with planted.open() as backend:
        assert planted.captures() == planted.replays() == 0
        assert {str(use) for use in backend.graphs.values()} == {"none yet"}


def test_one_encode_and_one_click_capture_two_graphs(planted: Planted) -> None:
    with planted.open() as backend:
        backend.decode(backend.encode(slices(1), windows(1)), *prompts(1, 2), None)
        assert planted.captures() == 2
        assert backend.description.endswith("CUDA graphs: encoder 1 shape, decoder 1 shape")


def test_every_batch_is_captured_at_its_first_use_and_right_from_then_on(
    planted: Planted, cpu: CpuBackend
) -> None:
    with planted.open() as backend:
        for done, count in enumerate((1, 8, 4), start=1):
            for turn in range(3):
                replays = planted.replays()
                hu = slices(count) + turn
                ours, theirs = backend.encode(hu, windows(count)), cpu.encode(hu, windows(count))
                for mine, yours in zip(ours, theirs, strict=True):
                    np.testing.assert_allclose(mine.numpy(), yours.numpy(), atol=1e-6)
                assert planted.captures() == done
                assert turn == 0 or planted.replays() == replays + 1


def test_every_click_is_captured_at_its_first_use_and_right_from_then_on(
    planted: Planted, cpu: CpuBackend
) -> None:
    """With and without a prior; what proves a graph leaves no trace in the first answer."""
    with planted.open() as backend:
        ours, theirs = backend.encode(slices(16), windows(16)), cpu.encode(slices(16), windows(16))
        before = planted.captures()
        for done, (count, points) in enumerate(SHAPES, start=1):
            for turn in range(3):
                replays, where = planted.replays(), prompts(count, points, turn)
                prior = np.random.default_rng(turn).normal(size=(count, LOW, LOW))
                given = None if turn == 1 else prior.astype(np.float32)
                same(
                    backend.decode(ours[:count], *where, given),
                    cpu.decode(theirs[:count], *where, given),
                )
                assert planted.captures() == before + done
                assert turn == 0 or planted.replays() == replays + 1


def test_warming_up_captures_all_at_once(planted: Planted) -> None:
    with planted.open() as backend:
        backend.encode(slices(4), windows(4))  # what was captured before is not captured again
        backend.warm_up()
        backend.warm_up()
        assert planted.captures() == ENCODER_SHAPES + DECODER_SHAPES
        assert backend.description.endswith("CUDA graphs: encoder 3 shapes, decoder 23 shapes")
        encoded = backend.encode(slices(8), windows(8)) * 2
        allocations, replays = planted.cuda.allocations, planted.replays()
        for count, points in SHAPES:
            backend.decode(encoded[:count], *prompts(count, points), None)
        assert planted.captures() == ENCODER_SHAPES + DECODER_SHAPES
        assert planted.replays() == replays + len(SHAPES)
        assert planted.cuda.allocations == allocations


def test_a_first_click_waits_until_nothing_else_is_on_the_gpu(
    ort_backend: CudaBackend, cpu: CpuBackend, ort: PlantedOrt
) -> None:
    """CUDA forbids allocations of every thread while ONNX Runtime captures."""
    ort.capture_takes = 0.002
    encoded = ort_backend.encode(slices(16), windows(16))
    theirs = cpu.encode(slices(16), windows(16))
    kept, stop = [], threading.Event()

    def encode() -> None:
        while not stop.is_set():
            kept.extend(ort_backend.encode(slices(3), windows(3)))  # new slots each time
            kept[-1].numpy()

    background = threading.Thread(target=encode)
    background.start()
    try:
        for count, points in SHAPES:
            where = prompts(count, points)
            same(
                ort_backend.decode(encoded[:count], *where, None),
                cpu.decode(theirs[:count], *where, None),
            )
    finally:
        stop.set()
        background.join()
    assert kept
    assert ort_backend.graphs["decoder"].shapes == DECODER_SHAPES


def test_the_time_it_takes_is_noted(bundle: Bundle, ort: PlantedOrt) -> None:
    timings = Timings()
    with open_cuda(bundle, timings) as backend:
        assert timings["load encoder"].count == timings["load decoder"].count == 1
        assert timings["warm up encoder"].count == 0
        for _ in range(2):
            backend.encode(slices(1), windows(1))
        assert timings["warm up encoder"].count == 1


def test_a_segmenter_warms_its_backend_up(
    bundle: Bundle, ort: PlantedOrt, bright_slice: NDArray[np.float32]
) -> None:
    with Segmenter.from_bundle(bundle.root, "cuda") as segmenter:
        segmenter.warm_up()
        captures = len(ort.captures)
        segmenter.encode(bright_slice)
    assert captures == len(ort.captures) == ENCODER_SHAPES + DECODER_SHAPES


def test_the_cpu_loads_both_graphs_and_the_fake_nothing(tiny_bundle: Path) -> None:
    with Segmenter.from_bundle(tiny_bundle, "cpu") as segmenter:
        segmenter.warm_up()
        assert {"load encoder", "load decoder"} <= set(segmenter.timings.stages())
    with Segmenter.from_bundle(tiny_bundle, "fake") as segmenter:
        segmenter.warm_up()
    with pytest.raises(BackendError, match="closed"):
        segmenter.warm_up()


def test_common_shapes_are_those_of_clicks() -> None:
    assert common_sizes(ENCODER, 8) == [(8, 1), (4, 1), (1, 1)]
    assert common_sizes(ENCODER, 2) == [(2, 1), (1, 1)]
    decoder = common_sizes(DECODER, 16)
    assert sorted(decoder) == sorted(SHAPES)
    assert decoder[0] == (16, 2)  # what takes most memory first


def test_a_capture_goes_before_new_work() -> None:
    lock, order = CaptureLock(), list[str]()
    began = threading.Event()

    def capture() -> None:
        began.set()
        with lock.exclusive():
            order.append("capture")

    def work() -> None:
        with lock.shared():
            order.append("work")

    with lock.shared():
        waiting = threading.Thread(target=capture)
        waiting.start()
        began.wait()
        while not lock._exclusive_wanted:
            pass
        later = threading.Thread(target=work)
        later.start()
        assert order == []
    waiting.join()
    later.join()
    assert order == ["capture", "work"]
