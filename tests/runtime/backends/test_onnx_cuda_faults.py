"""ONNX Runtime's CUDA backend where memory is short, the device is lost, or a process forked."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_runtime.backends import onnx_cuda
from samihs_runtime.backends.cuda import open_device
from samihs_runtime.backends.onnx_cuda import CudaBackend, open_cuda
from samihs_runtime.bundle import Bundle
from samihs_runtime.errors import BackendError, DeviceMemoryError
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.timing import Timings
from tests.runtime.forked import needs_fork, said_in_child
from tests.runtime.planted_gpu import PlantedCuda
from tests.runtime.planted_onnx_runtime import PlantedOrt
from tests.runtime.tiny_model import LOW

from .gpu_cases import EMBEDDING_BYTES, prompts, slices, windows


def test_little_memory_means_smaller_batches_then_an_error(
    bundle: Bundle, ort: PlantedOrt, cuda: PlantedCuda
) -> None:
    ort.batch_that_fits = 5  # of slices, and of prompts: 8 and 16, 4 and 8 are too many
    with open_cuda(bundle, Timings()) as backend:
        encoded = backend.encode(slices(6), windows(6))  # six at once, then by threes
        assert backend.encode_batch == 3
        assert backend.decode(encoded, *prompts(6, 2), None).logits.shape == (6, LOW, LOW)
        assert backend.graphs["decoder"].shapes == 1  # 3 prompts
    with open_cuda(bundle, Timings()) as backend:
        backend.warm_up()
        assert backend.encode_batch == 4
        assert backend.graphs["encoder"].shapes == 2  # 4 and 1
        assert backend.graphs["decoder"].shapes == 3 + 8  # 4, 3 and 2 prompts; clicks
        encoded = backend.encode(slices(6), windows(6))
        assert backend.decode(encoded, *prompts(6, 2), None).logits.shape == (6, LOW, LOW)
    ort.batch_that_fits = 0
    with pytest.raises(DeviceMemoryError, match="could not encode a slice: Failed to allocate"):
        open_cuda(bundle, Timings())
    assert (cuda.live, cuda.pinned, cuda.streams) == ({}, {}, {})


def test_memory_that_runs_short_later_halves_the_batch(
    bundle: Bundle, ort: PlantedOrt, bright_slice: NDArray[np.float32]
) -> None:
    hu = [bright_slice + each for each in range(8)]
    with Segmenter.from_bundle(bundle.root, "cuda") as segmenter:
        segmenter.warm_up()
        ort.batch_that_fits = 3
        ort.runs.clear()
        assert len(segmenter.encoder.encode(hu, background=False)) == 8
        assert [batch for _, batch, _ in ort.runs] == [2, 2, 2, 2]
        ort.batch_that_fits = 0
        with pytest.raises(DeviceMemoryError, match="could not encode a slice"):
            segmenter.encode(bright_slice - 1)
        ort.batch_that_fits = 99  # and it goes on when there is memory again
        assert segmenter.encode(bright_slice - 1).nbytes == EMBEDDING_BYTES


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("Failed to allocate memory for requested buffer of size 99", DeviceMemoryError),
        ("CUDA failure 2: out of memory ; GPU=0", DeviceMemoryError),
        ("CUBLAS_STATUS_ALLOC_FAILED", DeviceMemoryError),
        ("CUDA failure 719: unspecified launch failure", BackendError),
    ],
)
def test_faults_are_told_apart(
    ort_backend: CudaBackend, ort: PlantedOrt, fault: str, kind: type[BackendError]
) -> None:
    encoded = ort_backend.encode(slices(1), windows(1))
    ort.fault = fault
    with pytest.raises(BackendError, match="could not encode a slice: ") as caught:
        ort_backend.encode(slices(1), windows(1))
    assert type(caught.value) is kind
    with pytest.raises(kind, match="could not answer a prompt: "):
        ort_backend.decode(encoded, *prompts(1, 2), None)


def test_a_device_lost_while_it_is_opened_lets_everything_go(
    bundle: Bundle, ort: PlantedOrt, cuda: PlantedCuda
) -> None:
    ort.fault = "CUDA failure 719: unspecified launch failure"
    cuda.lost = True  # freeing fails, too, and is not what is said
    with pytest.raises(BackendError, match="could not encode a slice: CUDA failure 719"):
        open_cuda(bundle, Timings())
    assert (cuda.live, cuda.pinned, cuda.streams) == ({}, {}, {})


@needs_fork
def test_a_forked_child_gets_an_error_and_frees_nothing(
    ort_backend: CudaBackend, cuda: PlantedCuda
) -> None:
    """The child has none of the threads, and must not wait for them."""
    encoded = ort_backend.encode(slices(1), windows(1))

    def freed() -> int:
        held = len(cuda.live)
        ort_backend.close()
        return held - len(cuda.live)

    *refused, last = said_in_child(
        [
            lambda: ort_backend.encode(slices(1), windows(1)),
            lambda: ort_backend.decode(encoded, *prompts(1, 2), None),
            lambda: encoded[0].numpy(),
            freed,
        ]
    )
    assert len(refused) == 3
    assert all("forked after CUDA was started" in each for each in refused)
    assert last == "gave 0"
    ort_backend.decode(encoded, *prompts(1, 2), None)  # the parent is as it was


def test_without_a_device_layer_the_extra_is_named(
    bundle: Bundle, ort: PlantedOrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pycuda", "pycuda.driver", "cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    for module in ("cuda_pycuda", "cuda_python"):
        monkeypatch.delitem(sys.modules, f"samihs_runtime.backends.{module}", raising=False)
    monkeypatch.setattr(onnx_cuda, "open_device", open_device)
    with pytest.raises(BackendError, match=r"neither pycuda nor cuda-python .*samihs\[gpu\]"):
        open_cuda(bundle, Timings())


def test_a_session_that_does_not_open_again_is_an_error_in_words(
    ort_backend: CudaBackend, ort: PlantedOrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that cannot be captured means another session; here there is no memory for it."""

    def full(*arguments: object, **options: object) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 99")

    ort.capture_fault = "CUDA failure 901"
    monkeypatch.setattr(PlantedOrt, "InferenceSession", full)
    with pytest.raises(DeviceMemoryError, match="no memory for the encoder"):
        ort_backend.encode(slices(1), windows(1))
    with pytest.raises(BackendError, match="could not be opened again: open the segmenter again"):
        ort_backend.encode(slices(1), windows(1))
