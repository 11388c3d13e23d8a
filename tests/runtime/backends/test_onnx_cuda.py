"""ONNX Runtime's CUDA backend on a planted GPU: answers, streams, threads.

The numbers come from ONNX Runtime's CPU provider on the same graphs (``planted_onnx_runtime.py``).
"""

from __future__ import annotations

import inspect
import threading

import numpy as np
import onnxruntime as real
import pytest

from samihs_runtime.backends.base import Decoded
from samihs_runtime.backends.onnx_cpu import CpuBackend
from samihs_runtime.backends.onnx_cuda import MAX_POINTS, CudaBackend
from samihs_runtime.errors import PromptError
from tests.runtime.planted_gpu import PlantedCuda
from tests.runtime.planted_onnx_runtime import PLAIN_RUNS, PlantedOrt
from tests.runtime.tiny_model import LOW

from .gpu_cases import SHAPES, prompts, same, slices, windows


@pytest.mark.parametrize("count", [1, 3, 4, 8, 11])
def test_encodes_as_the_cpu_does(ort_backend: CudaBackend, cpu: CpuBackend, count: int) -> None:
    for turn in range(2):
        hu = slices(count) + turn
        ours, theirs = ort_backend.encode(hu, windows(count)), cpu.encode(hu, windows(count))
        for mine, yours in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine.numpy(), yours.numpy(), atol=1e-6)


def test_decodes_every_common_shape_as_the_cpu_does(
    ort_backend: CudaBackend, cpu: CpuBackend, ort: PlantedOrt
) -> None:
    """In turn, so that each replay follows one of another shape; on other inputs each time."""
    ours = ort_backend.encode(slices(16), windows(16))
    theirs = cpu.encode(slices(16), windows(16))
    ort_backend.warm_up()
    ort.runs.clear()
    for turn in range(2):
        for count, points in SHAPES:
            where = prompts(count, points, turn)
            start = turn * (16 - count)
            prior = np.random.default_rng(turn).normal(size=(count, LOW, LOW)).astype(np.float32)
            given = prior if turn else None
            part = slice(start, start + count)
            same(
                ort_backend.decode(ours[part], *where, given),
                cpu.decode(theirs[part], *where, given),
            )
    assert ort.kinds == ["replay"] * 2 * len(SHAPES)


@pytest.mark.parametrize(("count", "points"), [(1, 12), (2, 3), (16, 4), (19, 2), (1, MAX_POINTS)])
def test_other_shapes_run_without_a_graph_and_are_right(
    ort_backend: CudaBackend, cpu: CpuBackend, ort: PlantedOrt, count: int, points: int
) -> None:
    ort_backend.warm_up()
    captures = list(ort.captures)
    ours = ort_backend.encode(slices(count), windows(count))
    theirs = cpu.encode(slices(count), windows(count))
    for turn in range(3):
        where = prompts(count, points, turn)
        same(ort_backend.decode(ours, *where, None), cpu.decode(theirs, *where, None))
    assert ort.captures == captures


def test_an_answer_is_not_written_over_by_the_next(ort_backend: CudaBackend) -> None:
    encoded = ort_backend.encode(slices(1), windows(1))
    first = ort_backend.decode(encoded, *prompts(1, 2, 1), None)
    logits, masks, scores = first.logits.copy(), first.masks.copy(), first.scores.copy()
    ort_backend.decode(encoded, *prompts(1, 2, 2), None)
    np.testing.assert_array_equal(first.logits, logits)
    np.testing.assert_array_equal(first.masks, masks)
    np.testing.assert_array_equal(first.scores, scores)


def test_encoding_and_clicks_have_streams_of_their_own(
    ort_backend: CudaBackend, ort: PlantedOrt, cuda: PlantedCuda
) -> None:
    encoder, decoder = (cuda.streams[each.stream] for each in ort.sessions)
    assert (encoder.urgent, decoder.urgent) == (False, True)
    ort_backend.warm_up()
    ort.runs.clear()
    encoded = ort_backend.encode(slices(1), windows(1))
    ort_backend.decode(encoded, *prompts(1, 2), None)
    assert ort.runs == [("replay", 1, encoder.handle), ("replay", 1, decoder.handle)]


def test_graphs_serve_whichever_thread_asks(
    ort_backend: CudaBackend, cpu: CpuBackend, ort: PlantedOrt
) -> None:
    """ONNX Runtime would capture anew in each thread, and keep that for as long as it lives."""
    ort_backend.warm_up()
    captures = list(ort.captures)
    answers: list[Decoded] = []

    def click() -> None:
        encoded = ort_backend.encode(slices(1), windows(1))
        answers.append(ort_backend.decode(encoded, *prompts(1, 2), None))

    for _ in range(3):
        thread = threading.Thread(target=click)
        thread.start()
        thread.join()
    assert ort.captures == captures
    assert len({thread for thread, _ in captures}) == 2  # the encoder's, the decoder's
    expected = cpu.decode(cpu.encode(slices(1), windows(1)), *prompts(1, 2), None)
    for answer in answers:
        same(answer, expected)


def test_clicks_stay_right_while_batches_are_encoded(
    ort_backend: CudaBackend, cpu: CpuBackend
) -> None:
    encoded = ort_backend.encode(slices(1), windows(1))
    theirs = cpu.encode(slices(1), windows(1))
    stop = threading.Event()

    def encode() -> None:
        while not stop.is_set():
            ort_backend.encode(slices(8) + 5, windows(8))

    background = threading.Thread(target=encode)
    background.start()
    try:
        for turn in range(50):
            where = prompts(1, 2, turn)
            same(ort_backend.decode(encoded, *where, None), cpu.decode(theirs, *where, None))
    finally:
        stop.set()
        background.join()


def test_fp32_is_fp32(ort_backend: CudaBackend, ort: PlantedOrt) -> None:
    assert ort.options["use_tf32"] == "0"  # parity is proven with it
    assert ort.options["sdpa_kernel"] == "16"  # another one is wrong where q is wider than v


def test_too_many_points_are_an_error(ort_backend: CudaBackend) -> None:
    encoded = ort_backend.encode(slices(16), windows(16))
    with pytest.raises(PromptError, match=r"there is room for .*give fewer points"):
        ort_backend.decode(encoded, *prompts(16, MAX_POINTS + 1), None)


def test_the_real_module_has_what_is_called() -> None:
    """Names drift between releases: hold what the program calls against the installed package."""
    bind_input = inspect.signature(real.IOBinding.bind_input).parameters
    bind_output = inspect.signature(real.IOBinding.bind_output).parameters
    order = ["self", "name", "device_type", "device_id", "element_type", "shape", "buffer_ptr"]
    assert list(bind_input) == list(bind_output) == order
    run = inspect.signature(real.InferenceSession.run_with_iobinding).parameters
    assert list(run) == ["self", "iobinding", "run_options"]
    options = real.RunOptions()
    options.add_run_config_entry("gpu_graph_id", "-1")
    assert options.get_run_config_entry("gpu_graph_id") == "-1"
    assert "enable_fallback" in inspect.getsource(real.InferenceSession.__init__)
    assert PLAIN_RUNS >= 1
