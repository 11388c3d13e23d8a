"""The TensorRT backend on a planted GPU: answers, graphs, contexts, embeddings.

The numbers come from ONNX Runtime's CPU provider on the same graphs (``planted_tensorrt.py``).
"""

from __future__ import annotations

import gc

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_runtime.backends.onnx_cpu import open_cpu
from samihs_runtime.backends.tensorrt import TensorRTBackend, open_tensorrt
from samihs_runtime.backends.tensorrt_program import MAX_SHAPES
from samihs_runtime.bundle import Bundle
from samihs_runtime.segmentation import Prompt
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.timing import Timings
from tests.runtime.planted_gpu import PlantedCuda
from tests.runtime.planted_tensorrt import PlantedTensorRT, plant_engines
from tests.runtime.tiny_model import LOW, reference_embedding

from .gpu_cases import WINDOW, answer_alike, prompts, same, slices, windows


@pytest.mark.parametrize(("count", "points"), [(1, 2), (1, 6), (3, 2), (4, 3), (11, 2)])
def test_answers_as_the_cpu_does(
    trt_backend: TensorRTBackend, with_engines: Bundle, count: int, points: int
) -> None:
    """Also beyond the engine's batch of 4, on first runs and on graphs."""
    hu, window = slices(count), windows(count)
    prior = np.random.default_rng(1).normal(size=(count, LOW, LOW)).astype(np.float32)
    with open_cpu(with_engines, Timings()) as cpu:
        for turn in range(4):  # plain, with a capture behind it; then replayed
            where = prompts(count, points, turn)
            ours, theirs = trt_backend.encode(hu, window), cpu.encode(hu, window)
            for mine, yours in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(mine.numpy(), yours.numpy(), atol=1e-6)
            given = prior if turn % 2 else None
            same(trt_backend.decode(ours, *where, given), cpu.decode(theirs, *where, given))


def test_once_warmed_up_the_first_click_of_every_common_shape_replays_a_graph(
    with_engines: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    """1 to 8 clicks on one lesion, 2 to 16 prompts of one; batches of 1, 4 and 8 slices."""
    plant_engines(with_engines, batch=16, points=32)
    timings = Timings()
    with open_tensorrt(with_engines, timings) as backend:
        backend.warm_up()
        assert backend.description.endswith("CUDA graphs: encoder 3 shapes, decoder 23 shapes")
        assert timings["warm up encoder"].count == timings["warm up decoder"].count == 1
        contexts, launches = trt.contexts, cuda.launches
        for count in (1, 4, 8):
            encoded = backend.encode(slices(count), windows(count))
        encoded, allocations = [encoded[0]] * 16, cuda.allocations
        for clicks in range(1, 9):
            backend.decode(encoded[:1], *prompts(1, clicks + 1), None)
        for count in range(2, 17):
            backend.decode(encoded[:count], *prompts(count, 2), None)
        assert trt.contexts == contexts
        assert cuda.launches == launches + 3 + 8 + 15
        assert cuda.allocations == allocations


def test_shapes_that_no_profile_takes_are_not_warmed_up(trt_backend: TensorRTBackend) -> None:
    """The engines planted take 4 slices or prompts, and 6 points."""
    trt_backend.warm_up()
    words = "CUDA graphs: encoder 2 shapes, decoder 8 shapes"  # 4 and 1; 4 to 2, 5 to 1 clicks
    assert trt_backend.description.endswith(words)


def test_without_graphs_it_says_why(with_engines: Bundle, trt: PlantedTensorRT) -> None:
    trt.capturable = False
    with open_tensorrt(with_engines, Timings()) as backend:
        backend.warm_up()
        assert "decoder none (TensorRT says that its work cannot be" in backend.description


def test_dropped_embeddings_give_their_memory_back(
    trt_backend: TensorRTBackend, cuda: PlantedCuda
) -> None:
    before = len(cuda.live)
    for _ in range(50):
        trt_backend.encode(slices(2), windows(2))
    gc.collect()
    assert len(cuda.live) <= before + 2
    kept = trt_backend.encode(slices(1), WINDOW)[0]
    for _ in range(5):
        trt_backend.encode(slices(2) + 9, windows(2))
    np.testing.assert_allclose(kept.numpy(), reference_embedding(slices(1)[0, 0]), atol=1e-6)


def test_contexts_are_bounded(
    with_engines: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    plant_engines(with_engines, batch=16, points=8)
    with open_tensorrt(with_engines, Timings()) as backend:
        encoded = backend.encode(slices(16), windows(16))
        for count in range(1, 17):
            for points in (2, 3, 4):
                for _ in range(2):
                    backend.decode(encoded[:count], *prompts(count, points), None)
        assert trt.contexts >= 2 + 48  # the encoder's, and one for each shape of clicks
        assert len(cuda.graphs) == 1 + MAX_SHAPES


def test_runs_without_graphs_where_they_cannot_be_captured(
    with_engines: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    trt.capturable = False
    with (
        open_tensorrt(with_engines, Timings()) as backend,
        open_cpu(with_engines, Timings()) as cpu,
    ):
        answer_alike(backend, cpu)
    assert cuda.launches == 0


def test_clicks_run_on_an_urgent_stream(trt_backend: TensorRTBackend, cuda: PlantedCuda) -> None:
    assert sorted(each.urgent for each in cuda.streams.values()) == [False, True]


def test_an_embedding_comes_back_from_the_host(
    trt_backend: TensorRTBackend, with_engines: Bundle
) -> None:
    encoded = trt_backend.encode(slices(2), windows(2))
    restored = [trt_backend.restore(each.numpy()) for each in encoded]
    same(
        trt_backend.decode(restored, *prompts(2, 3), None),
        trt_backend.decode(encoded, *prompts(2, 3), None),
    )
    with pytest.raises(ValueError, match="expected 4096"):
        trt_backend.restore(np.zeros((1, 8, 8), np.float32))


def test_the_segmenter_runs_on_it(
    with_engines: Bundle, trt: PlantedTensorRT, bright_slice: NDArray[np.float32]
) -> None:
    prompt = Prompt(points=((40, 24),), labels=(1,))
    with (
        Segmenter.from_bundle(with_engines.root) as segmenter,
        Segmenter.from_bundle(with_engines.root, "cpu") as reference,
    ):
        assert segmenter.backend.name == "tensorrt"
        assert segmenter.backend.description.startswith("tensorrt_rtx 1.7.1 through planted")
        ours = segmenter.predict(segmenter.encode(bright_slice), prompt)
        theirs = reference.predict(reference.encode(bright_slice), prompt)
        np.testing.assert_array_equal(ours.mask, theirs.mask)
        assert ours.mask.any()
