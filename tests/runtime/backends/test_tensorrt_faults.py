"""The TensorRT backend where memory is short, the device fails, or a process forked."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from samihs_runtime.backends.cuda import Device, DeviceBuffer
from samihs_runtime.backends.kernel_cache import KernelCache
from samihs_runtime.backends.onnx_cpu import open_cpu
from samihs_runtime.backends.tensorrt import TensorRTBackend, open_tensorrt
from samihs_runtime.bundle import Bundle
from samihs_runtime.errors import BackendError, DeviceMemoryError, PromptError
from samihs_runtime.timing import Timings
from tests.runtime.planted_gpu import PlantedCuda, PlantedStream
from tests.runtime.planted_tensorrt import PlantedContext, PlantedEngine, PlantedTensorRT
from tests.runtime.tiny_model import LOW

from .gpu_cases import EMBEDDING_BYTES, WINDOW, answer_alike, prompts, slices, windows


def test_an_engine_larger_than_the_free_memory_is_not_called_outdated(
    with_engines: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    cuda.memory = 100
    with pytest.raises(
        DeviceMemoryError, match=r"memory is full: the engine .*encoder\.engine has"
    ):
        open_tensorrt(with_engines, Timings())
    assert (cuda.live, cuda.pinned, cuda.streams) == ({}, {}, {})


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_everything_is_freed_though_the_kernels_cannot_be_saved(
    with_engines: Bundle,
    trt: PlantedTensorRT,
    cuda: PlantedCuda,
    monkeypatch: pytest.MonkeyPatch,
    fault: type[BaseException],
) -> None:
    def broken(cache: KernelCache) -> None:
        raise fault("planted")

    backend = open_tensorrt(with_engines, Timings())
    encoded = backend.encode(slices(1), WINDOW)
    backend.decode(encoded, *prompts(1, 2), None)
    del encoded
    assert cuda.graphs
    monkeypatch.setattr(KernelCache, "save", broken)
    with pytest.raises(fault, match="planted"):
        backend.close()
    assert (cuda.live, cuda.pinned, cuda.streams, cuda.graphs) == ({}, {}, {}, [])
    backend.close()


def test_contexts_that_find_no_memory_are_an_error_in_words(
    with_engines: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    trt.contexts_that_fit = 1
    with pytest.raises(DeviceMemoryError, match=r"gave no execution context: .*memory is full"):
        open_tensorrt(with_engines, Timings())
    assert (cuda.live, cuda.pinned, cuda.streams, cuda.graphs) == ({}, {}, {}, [])


def test_little_memory_means_smaller_batches_then_an_error(
    with_engines: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    cuda.memory = 100_000
    with open_tensorrt(with_engines, Timings()) as backend:
        assert 1 <= backend._programs["encoder"].max_batch < 4
        answer = backend.decode(backend.encode(slices(1), WINDOW), *prompts(1, 2), None)
        assert answer.logits.shape == (1, LOW, LOW)
    assert not cuda.live
    cuda.memory = 20_000
    with pytest.raises(DeviceMemoryError, match="memory is full"):
        open_tensorrt(with_engines, Timings())
    assert not cuda.live
    assert not cuda.pinned


def test_scratch_memory_is_for_the_batches_that_fit(
    with_engines: Bundle,
    trt: PlantedTensorRT,
    cuda: PlantedCuda,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That of the profiles' four slices does not fit; that of one does."""
    monkeypatch.setattr(PlantedEngine, "device_memory_size_v2", 4 << 20)
    cuda.memory = 3 << 20
    with (
        open_tensorrt(with_engines, Timings()) as backend,
        open_cpu(with_engines, Timings()) as cpu,
    ):
        assert backend._programs["encoder"].max_batch == 1
        answer_alike(backend, cpu)
    assert not cuda.live


def test_unused_embeddings_make_room_for_a_run(
    with_engines: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once dropped, they are memory that a context of another shape may have."""
    run, wanted = TensorRTBackend._encode, 0

    def hungry(self: TensorRTBackend, *arguments: Any) -> None:
        block = cuda.allocate(wanted)
        cuda.free(block)
        run(self, *arguments)

    monkeypatch.setattr(TensorRTBackend, "_encode", hungry)
    with open_tensorrt(with_engines, Timings()) as backend:
        backend.encode(slices(8), windows(8))  # nobody keeps them
        gc.collect()
        kept = backend.encode(slices(1), WINDOW)
        before = kept[0].numpy()
        cuda.memory = sum(each.nbytes for each in cuda.live.values())
        wanted = 6 * EMBEDDING_BYTES
        backend.encode(slices(1), WINDOW)
        np.testing.assert_array_equal(kept[0].numpy(), before)
        wanted = 7 * EMBEDDING_BYTES  # more than all that was unused
        with pytest.raises(DeviceMemoryError):
            backend.encode(slices(1), WINDOW)


def test_points_beyond_the_profiles_are_an_error(trt_backend: TensorRTBackend) -> None:
    encoded = trt_backend.encode(slices(1), WINDOW)
    with pytest.raises(PromptError, match=r"^7 points: the decoder engine takes 6 at most"):
        trt_backend.decode(encoded, *prompts(1, 7), None)


def test_faults_while_running_are_errors(
    trt_backend: TensorRTBackend, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    encoded = trt_backend.encode(slices(1), WINDOW)
    trt.refuses = True
    with pytest.raises(BackendError, match="could not run the decoder"):
        trt_backend.decode(encoded * 2, *prompts(2, 3), None)  # a shape that has no graph yet
    trt.refuses = False
    cuda.lost = True
    with pytest.raises(BackendError, match="could not finish its work"):
        trt_backend.decode(encoded, *prompts(1, 2), None)
    cuda.lost = False


def fail_to_begin(cuda: PlantedCuda, patch: pytest.MonkeyPatch) -> None:
    def begin_capture(stream: PlantedStream) -> None:
        raise BackendError("the GPU could not begin a capture: planted")

    patch.setattr(cuda, "begin_capture", begin_capture)


def fail_to_end(cuda: PlantedCuda, patch: pytest.MonkeyPatch) -> None:
    def end_capture(stream: PlantedStream) -> list[Any]:
        stream.capture = None  # as CUDA: a capture that fails is over all the same
        raise DeviceMemoryError("CUDA could not instantiate a graph: planted")

    patch.setattr(cuda, "end_capture", end_capture)


def fail_within(cuda: PlantedCuda, patch: pytest.MonkeyPatch) -> None:
    """TensorRT refuses to run under capture, and the broken capture ends with an error as well."""
    run = PlantedContext.execute_async_v3

    def execute(context: PlantedContext, handle: int) -> bool:
        return cuda.streams[handle].capture is None and run(context, handle)

    patch.setattr(PlantedContext, "execute_async_v3", execute)
    fail_to_end(cuda, patch)


CAPTURE_FAULTS = {
    "begin": (fail_to_begin, "could not begin a capture"),
    "within": (fail_within, "TensorRT could not run the decoder"),
    "end": (fail_to_end, "could not instantiate a graph"),
}


@pytest.mark.parametrize(("fault", "cause"), CAPTURE_FAULTS.values(), ids=CAPTURE_FAULTS.keys())
def test_a_capture_that_fails_costs_no_answer(
    with_engines: Bundle,
    trt: PlantedTensorRT,
    cuda: PlantedCuda,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[PlantedCuda, pytest.MonkeyPatch], None],
    cause: str,
) -> None:
    """Each shape is tried once; whatever comes later runs without a graph, and it is said why."""
    fault(cuda, monkeypatch)
    tries, begin = [], cuda.begin_capture

    def begin_capture(stream: PlantedStream) -> None:
        tries.append(stream.handle)
        begin(stream)

    monkeypatch.setattr(cuda, "begin_capture", begin_capture)
    with (
        open_tensorrt(with_engines, Timings()) as backend,
        open_cpu(with_engines, Timings()) as cpu,
    ):
        answer_alike(backend, cpu)
        assert len(tries) == 2  # one shape of each program
        assert cause in str(backend.graphs["decoder"])
        assert "none (a capture failed: " in str(backend.graphs["decoder"])
    assert cuda.launches == 0
    assert not cuda.graphs


def test_a_batch_that_finds_no_room_keeps_none(
    with_engines: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    """Two of four embeddings fit: the two are given back, and half the batch goes through."""
    with open_tensorrt(with_engines, Timings()) as backend:
        used = sum(each.nbytes for each in cuda.live.values())
        cuda.memory = used + 2 * EMBEDDING_BYTES
        with pytest.raises(DeviceMemoryError):
            backend.encode(slices(4), windows(4))
        gc.collect()
        assert len(backend.encode(slices(2), windows(2))) == 2


def test_a_forked_child_is_refused(
    trt_backend: TensorRTBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = trt_backend.encode(slices(1), WINDOW)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(BackendError, match="forked after CUDA was started"):
            trt_backend.decode(encoded, *prompts(1, 2), None)


def test_buffers_are_freed_once_and_copies_stay_inside(cuda: PlantedCuda) -> None:
    device = Device(cuda)
    one, other = device.allocate(16), device.allocate(8)
    stream = device.stream()
    with pytest.raises(ValueError, match="leaves a buffer"):
        stream.copy(other, one, 16)
    with pytest.raises(ValueError, match="leaves a buffer"):
        stream.copy(one, other, 8, to=12)
    for buffer in (one, other):
        buffer.close()
        buffer.close()
    assert not cuda.live
    assert isinstance(one, DeviceBuffer)
