"""The TensorRT backend's whole life on a planted GPU: staging, graphs, memory, faults.

The numbers come from ONNX Runtime's CPU provider on the same graphs (``planted_gpu.py``).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_runtime.backends import tensorrt as tensorrt_backend
from samihs_runtime.backends.base import Decoded
from samihs_runtime.backends.cuda import Device, DeviceBuffer, DeviceMemoryError
from samihs_runtime.backends.onnx_runtime import open_cpu
from samihs_runtime.backends.tensorrt import TensorRTBackend, open_tensorrt
from samihs_runtime.backends.tensorrt_engines import find_engines
from samihs_runtime.backends.tensorrt_program import MAX_SHAPES, _deserialise
from samihs_runtime.bundle import Bundle, GraphEntry, write_bundle
from samihs_runtime.errors import BackendError, BundleError
from samihs_runtime.segmentation import Prompt
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.timing import Timings

from .planted_gpu import GPU, PlantedCuda, PlantedTensorRT, plant_engines, plant_tensorrt
from .tiny_model import CHANNELS, GRID, LOW, SIZE, manifest, reference_embedding

EMBEDDING_BYTES = CHANNELS * GRID * GRID * 4
WINDOW = np.asarray([(0, 100)], np.float32)


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    opened = Bundle.open(tiny_bundle)
    plant_engines(opened)
    return opened


@pytest.fixture
def cuda() -> PlantedCuda:
    return PlantedCuda()


@pytest.fixture
def trt(cuda: PlantedCuda, monkeypatch: pytest.MonkeyPatch) -> PlantedTensorRT:
    return plant_tensorrt(monkeypatch, cuda)


@pytest.fixture
def backend(bundle: Bundle, trt: PlantedTensorRT) -> Iterator[TensorRTBackend]:
    with open_tensorrt(bundle, Timings()) as opened:
        yield opened


def slices(count: int) -> NDArray[np.float32]:
    """[count, 1, 64, 64]: discs of blood at other places in each."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    discs = [(columns - 20 - 3 * i) ** 2 + (rows - 30) ** 2 <= 64 for i in range(count)]
    return np.where(np.stack(discs), 70, 30).astype(np.float32)[:, None]


def prompts(
    count: int, points: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    spots = np.random.default_rng(seed).uniform(5, 59, (count, points, 2)).astype(np.float32)
    labels = np.ones((count, points), np.int32)
    labels[:, -1] = -1
    return spots, labels


def same(one: Decoded, other: Decoded) -> None:
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)
    np.testing.assert_array_equal(one.masks, other.masks)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
    assert one.masks.dtype == bool


@pytest.mark.parametrize(("count", "points"), [(1, 2), (1, 6), (3, 2), (4, 3), (11, 2)])
def test_answers_as_the_cpu_does(
    backend: TensorRTBackend, bundle: Bundle, count: int, points: int
) -> None:
    """Also beyond the engine's batch of 4, on first runs and on graphs."""
    hu, window = slices(count), np.repeat(WINDOW, count, axis=0)
    prior = np.random.default_rng(1).normal(size=(count, LOW, LOW)).astype(np.float32)
    with open_cpu(bundle, Timings()) as cpu:
        for turn in range(4):  # plain, captured, replayed, replayed
            where = prompts(count, points, turn)
            ours, theirs = backend.encode(hu, window), cpu.encode(hu, window)
            for mine, yours in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(mine.numpy(), yours.numpy(), atol=1e-6)
            given = prior if turn % 2 else None
            same(backend.decode(ours, *where, given), cpu.decode(theirs, *where, given))


def test_clicks_replay_a_graph_and_allocate_nothing(
    backend: TensorRTBackend, cuda: PlantedCuda
) -> None:
    encoded = backend.encode(slices(2), np.repeat(WINDOW, 2, axis=0))
    for turn in range(2):
        backend.decode(encoded[:1], *prompts(1, 2, turn), None)
    allocations, launches = cuda.allocations, cuda.launches
    for turn in range(10_000):
        backend.decode(encoded[turn % 2 :][:1], *prompts(1, 2, turn), None)
    assert cuda.allocations == allocations
    assert cuda.launches == launches + 10_000


def test_the_first_click_of_every_common_shape_replays_a_graph(
    bundle: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    """1 to 8 clicks on one lesion, 2 to 16 prompts of one; batches of 1, 4 and 8 slices."""
    plant_engines(bundle, batch=16, points=32)
    timings = Timings()
    with open_tensorrt(bundle, timings) as backend:
        assert backend.description.endswith("CUDA graphs: encoder 3 shapes, decoder 23 shapes")
        assert timings["warm up encoder"].count == timings["warm up decoder"].count == 1
        contexts, launches = trt.contexts, cuda.launches
        for count in (1, 4, 8):
            encoded = backend.encode(slices(count), np.repeat(WINDOW, count, axis=0))
        encoded, allocations = [encoded[0]] * 16, cuda.allocations
        for clicks in range(1, 9):
            backend.decode(encoded[:1], *prompts(1, clicks + 1), None)
        for count in range(2, 17):
            backend.decode(encoded[:count], *prompts(count, 2), None)
        assert trt.contexts == contexts
        assert cuda.launches == launches + 3 + 8 + 15
        assert cuda.allocations == allocations


def test_shapes_that_no_profile_takes_are_not_warmed_up(backend: TensorRTBackend) -> None:
    """The engines planted take 4 slices or prompts, and 6 points."""
    words = "CUDA graphs: encoder 2 shapes, decoder 8 shapes"  # 4 and 1; 4 to 2, 5 to 1 clicks
    assert backend.description.endswith(words)


def test_contexts_that_find_no_memory_are_an_error_in_words(
    bundle: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    trt.contexts_that_fit = 1
    with pytest.raises(DeviceMemoryError, match=r"gave no execution context: .*memory is full"):
        open_tensorrt(bundle, Timings())
    assert (cuda.live, cuda.pinned, cuda.streams, cuda.graphs) == ({}, {}, {}, [])


def test_without_graphs_it_says_why(bundle: Bundle, trt: PlantedTensorRT) -> None:
    trt.capturable = False
    with open_tensorrt(bundle, Timings()) as backend:
        assert "decoder none (TensorRT says that its work cannot be" in backend.description


def test_embeddings_never_reach_the_host(backend: TensorRTBackend, cuda: PlantedCuda) -> None:
    cuda.downloads.clear()  # of the warm-up
    encoded = backend.encode(slices(3), np.repeat(WINDOW, 3, axis=0))
    assert cuda.downloads == []
    backend.decode(encoded, *prompts(3, 2), None)
    low, size = LOW * LOW * 4, SIZE * SIZE
    assert cuda.downloads == [3 * low, 3 * size, 3 * 4]


def test_dropped_embeddings_give_their_memory_back(
    backend: TensorRTBackend, cuda: PlantedCuda
) -> None:
    before = len(cuda.live)
    for _ in range(50):
        backend.encode(slices(2), np.repeat(WINDOW, 2, axis=0))
    gc.collect()
    assert len(cuda.live) <= before + 2
    kept = backend.encode(slices(1), WINDOW)[0]
    for _ in range(5):
        backend.encode(slices(2) + 9, np.repeat(WINDOW, 2, axis=0))
    np.testing.assert_allclose(kept.numpy(), reference_embedding(slices(1)[0, 0]), atol=1e-6)


def test_closing_frees_all(bundle: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda) -> None:
    backend = open_tensorrt(bundle, Timings())
    encoded = backend.encode(slices(2), np.repeat(WINDOW, 2, axis=0))
    for _ in range(3):
        backend.decode(encoded, *prompts(2, 2), None)
    backend.close()
    backend.close()
    assert (cuda.live, cuda.pinned, cuda.streams, cuda.graphs) == ({}, {}, {}, [])
    with pytest.raises(BackendError, match="closed"):
        backend.decode(encoded, *prompts(2, 2), None)
    with pytest.raises(BackendError, match="its embeddings are gone"):
        encoded[0].numpy()
    del encoded
    gc.collect()  # handles that die after their backend touch nothing


def test_contexts_are_bounded(bundle: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda) -> None:
    plant_engines(bundle, batch=16, points=8)
    with open_tensorrt(bundle, Timings()) as backend:
        encoded = backend.encode(slices(16), np.repeat(WINDOW, 16, axis=0))
        for count in range(1, 17):
            for points in (2, 3, 4):
                for _ in range(2):
                    backend.decode(encoded[:count], *prompts(count, points), None)
        assert trt.contexts >= 3 + 48  # the encoder's, and one for each shape of clicks
        assert len(cuda.graphs) == 3 + MAX_SHAPES


def test_runs_without_graphs_where_they_cannot_be_captured(
    bundle: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    trt.capturable = False
    with open_tensorrt(bundle, Timings()) as backend, open_cpu(bundle, Timings()) as cpu:
        for turn in range(3):
            ours, theirs = backend.encode(slices(1), WINDOW), cpu.encode(slices(1), WINDOW)
            where = prompts(1, 2, turn)
            same(backend.decode(ours, *where, None), cpu.decode(theirs, *where, None))
    assert cuda.launches == 0


def click_once(bundle: Bundle) -> None:
    with open_tensorrt(bundle, Timings()) as backend:
        backend.decode(backend.encode(slices(1), WINDOW), *prompts(1, 2), None)


def test_compiled_kernels_serve_the_next_process(bundle: Bundle, trt: PlantedTensorRT) -> None:
    click_once(bundle)
    assert trt.compiled == 2  # encoder and decoder
    click_once(bundle)
    assert trt.compiled == 2


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"\0" + b[1:], lambda b: b""])
def test_damaged_kernels_are_never_read(
    bundle: Bundle, trt: PlantedTensorRT, damage: Callable[[bytes], bytes]
) -> None:
    click_once(bundle)
    for path in bundle.engines.glob("*.kernels"):
        path.write_bytes(damage(path.read_bytes()))
    click_once(bundle)
    assert trt.compiled == 4
    click_once(bundle)  # mended
    assert trt.compiled == 4


def test_kernels_of_another_engine_are_not_taken(bundle: Bundle, trt: PlantedTensorRT) -> None:
    click_once(bundle)
    encoder, decoder = (bundle.engines / f"{part}.kernels" for part in ("encoder", "decoder"))
    decoder.write_bytes(encoder.read_bytes())
    click_once(bundle)
    assert trt.compiled == 3


def test_tensorrt_itself_has_no_kernels_to_keep(bundle: Bundle, trt: PlantedTensorRT) -> None:
    del trt.IRuntimeCache
    click_once(bundle)
    assert (trt.compiled, list(bundle.engines.glob("*.kernels"))) == (0, [])


def test_kernels_that_cannot_be_written_cost_nothing_else(
    bundle: Bundle, trt: PlantedTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(source: object, target: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "replace", read_only)
    before = sorted(bundle.engines.iterdir())
    click_once(bundle)
    assert sorted(bundle.engines.iterdir()) == before


def test_clicks_run_on_an_urgent_stream(backend: TensorRTBackend, cuda: PlantedCuda) -> None:
    assert sorted(each.urgent for each in cuda.streams.values()) == [False, True]


def test_little_memory_means_smaller_batches_then_an_error(
    bundle: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    cuda.memory = 100_000
    with open_tensorrt(bundle, Timings()) as backend:
        assert 1 <= backend._programs["encoder"].max_batch < 4
        answer = backend.decode(backend.encode(slices(1), WINDOW), *prompts(1, 2), None)
        assert answer.logits.shape == (1, LOW, LOW)
    assert not cuda.live
    cuda.memory = 20_000
    with pytest.raises(DeviceMemoryError, match="memory is full"):
        open_tensorrt(bundle, Timings())
    assert not cuda.live
    assert not cuda.pinned


def test_points_beyond_the_profiles_are_an_error(backend: TensorRTBackend) -> None:
    encoded = backend.encode(slices(1), WINDOW)
    with pytest.raises(BackendError, match=r"no profile of the decoder engine takes"):
        backend.decode(encoded, *prompts(1, 7), None)


def test_faults_while_running_are_errors(
    backend: TensorRTBackend, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    encoded = backend.encode(slices(1), WINDOW)
    trt.refuses = True
    with pytest.raises(BackendError, match="could not run the decoder"):
        backend.decode(encoded * 2, *prompts(2, 3), None)  # a shape that has no graph yet
    trt.refuses = False
    cuda.lost = True
    with pytest.raises(BackendError, match="could not finish its work"):
        backend.decode(encoded, *prompts(1, 2), None)
    cuda.lost = False


def test_a_lost_device_is_an_error_and_everything_is_let_go(
    bundle: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    backend = open_tensorrt(bundle, Timings())
    encoded = backend.encode(slices(2), np.repeat(WINDOW, 2, axis=0))

    def click() -> None:
        with backend:
            backend.decode(encoded, *prompts(2, 2), None)

    cuda.lost = True
    # What went wrong first is what is said, though freeing the memory fails as well.
    with pytest.raises(BackendError, match="could not finish its work"):
        click()
    assert (cuda.live, cuda.pinned, cuda.streams, cuda.graphs) == ({}, {}, {}, [])


def test_a_batch_that_finds_no_room_keeps_none(
    bundle: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    """Two of four embeddings fit: the two are given back, and half the batch goes through."""
    with open_tensorrt(bundle, Timings()) as backend:
        used = sum(each.nbytes for each in cuda.live.values())
        cuda.memory = used + 2 * EMBEDDING_BYTES
        with pytest.raises(DeviceMemoryError):
            backend.encode(slices(4), np.repeat(WINDOW, 4, axis=0))
        gc.collect()
        assert len(backend.encode(slices(2), np.repeat(WINDOW, 2, axis=0))) == 2


def test_an_embedding_comes_back_from_the_host(backend: TensorRTBackend, bundle: Bundle) -> None:
    encoded = backend.encode(slices(2), np.repeat(WINDOW, 2, axis=0))
    restored = [backend.restore(each.numpy()) for each in encoded]
    same(
        backend.decode(restored, *prompts(2, 3), None),
        backend.decode(encoded, *prompts(2, 3), None),
    )
    with pytest.raises(ValueError, match="expected 4096"):
        backend.restore(np.zeros((1, 8, 8), np.float32))


def test_a_forked_child_is_refused(
    backend: TensorRTBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = backend.encode(slices(1), WINDOW)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(BackendError, match="forked after CUDA was started"):
            backend.decode(encoded, *prompts(1, 2), None)


def test_foreign_embeddings_are_refused(backend: TensorRTBackend, bundle: Bundle) -> None:
    with open_cpu(bundle, Timings()) as cpu, pytest.raises(TypeError, match="another backend"):
        backend.decode(cpu.encode(slices(1), WINDOW), *prompts(1, 2), None)


def test_the_segmenter_runs_on_it(
    bundle: Bundle, trt: PlantedTensorRT, bright_slice: NDArray[np.float32]
) -> None:
    prompt = Prompt(points=((40, 24),), labels=(1,))
    with (
        Segmenter.from_bundle(bundle.root) as segmenter,
        Segmenter.from_bundle(bundle.root, "cpu") as reference,
    ):
        assert segmenter.backend.name == "tensorrt"
        assert segmenter.backend.description.startswith("tensorrt_rtx 1.7.1 through planted")
        ours = segmenter.predict(segmenter.encode(bright_slice), prompt)
        theirs = reference.predict(reference.encode(bright_slice), prompt)
        np.testing.assert_array_equal(ours.mask, theirs.mask)
        assert ours.mask.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute_capability": ("9.0",)}, "built for compute capability 9.0, this GPU has 8.9"),
        ({"version": "1.6.0"}, "built by tensorrt_rtx 1.6.0, 1.7.1 is installed"),
        ({"flavour": "tensorrt"}, "tensorrt is not installed: pip install"),
        ({"onnx_sha256": "0" * 64}, "built from another graph than this bundle's"),
        ({"engine_sha256": "0" * 64}, "the engine file is missing, truncated or changed"),
        ({"precision": "fp16"}, "built from another graph than this bundle's"),
        ({"part": "sideways"}, "part is 'sideways', expected encoder or decoder"),
        ({"profiles": ()}, "names no optimization profile"),
    ],
)
def test_engines_that_do_not_fit_are_refused_with_what_mends_it(
    bundle: Bundle, trt: PlantedTensorRT, changes: dict[str, object], message: str
) -> None:
    plant_engines(bundle, **changes)
    with pytest.raises(BackendError, match=message) as caught:
        open_tensorrt(bundle, Timings())
    assert f"samihs-export engines {bundle.root}" in str(caught.value)


def truncate(engine: Path) -> None:
    engine.write_bytes(engine.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_damaged_engine_is_never_deserialised(
    bundle: Bundle, trt: PlantedTensorRT, damage: Callable[[Path], None]
) -> None:
    damage(bundle.engines / "decoder.engine")
    trt._deserialize = lambda content: pytest.fail("it was deserialised")
    with pytest.raises(BackendError, match="decoder: the engine file is missing, truncated"):
        open_tensorrt(bundle, Timings())


def test_a_sidecar_that_is_no_json_is_named(bundle: Bundle, trt: PlantedTensorRT) -> None:
    (bundle.engines / "encoder.json").write_text("{")
    with pytest.raises(BackendError, match=r"sidecar .*encoder.json cannot be used"):
        open_tensorrt(bundle, Timings())


def test_no_engines_and_no_gpu(
    tiny_bundle: Path, trt: PlantedTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Bundle.open(tiny_bundle)
    with pytest.raises(BackendError, match="holds no TensorRT engines: build them with samihs-exp"):
        open_tensorrt(opened, Timings())
    monkeypatch.undo()
    probe = type(GPU)((), None, "no NVIDIA driver is installed")
    monkeypatch.setattr(tensorrt_backend, "probe_gpus", lambda: probe)
    with pytest.raises(BackendError, match="no NVIDIA GPU can be used: no NVIDIA driver"):
        open_tensorrt(opened, Timings())


def test_an_engine_that_does_not_load(bundle: Bundle, trt: PlantedTensorRT) -> None:
    trt._deserialize = lambda content: None
    with pytest.raises(BackendError, match="TensorRT could not load"):
        open_tensorrt(bundle, Timings())


def test_an_engine_of_another_contract(
    bundle: Bundle, trt: PlantedTensorRT, cuda: PlantedCuda
) -> None:
    encoder = (bundle.engines / "encoder.engine").read_bytes()
    plant = trt._deserialize
    trt._deserialize = lambda content: plant(encoder)
    with pytest.raises(BundleError, match=r"decoder .*inputs are hu float32, window float32"):
        open_tensorrt(bundle, Timings())
    assert (cuda.live, cuda.pinned, cuda.streams) == ({}, {}, {})


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


def test_the_real_modules_have_what_is_called() -> None:
    """Names drift between releases: hold what the program calls against the installed package."""
    real = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    for owner, names in {
        "ICudaEngine": (
            "create_runtime_config",
            *("num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype"),
            *("get_tensor_shape", "device_memory_size_v2", "create_execution_context"),
        ),
        "IExecutionContext": (
            *("set_device_memory", "set_optimization_profile_async", "set_input_shape"),
            *("set_tensor_address", "get_tensor_shape", "execute_async_v3"),
            "is_stream_capturable",
        ),
        "IRuntimeConfig": (
            *("set_execution_context_allocation_strategy", "create_runtime_cache"),
            "set_runtime_cache",
        ),
        "IRuntimeCache": ("serialize", "deserialize"),
        "Runtime": ("deserialize_cuda_engine",),
        "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
        "TensorIOMode": ("INPUT",),
        "Logger": ("ERROR",),
    }.items():
        for name in names:
            assert hasattr(getattr(real, owner), name), f"{owner}.{name}"
    assert np.dtype(real.nptype(real.uint8)).name == "uint8"


def test_engines_that_tensorrt_rtx_builds_are_found(tiny_bundle: Path, tmp_path: Path) -> None:
    """Export's builder and the runtime's search agree on names, hashes, versions and profiles."""
    real = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from samihs_export.tensorrt import build_engines

    files = ("onnx/encoder.onnx", "onnx/decoder.onnx")
    graphs = tuple(GraphEntry(family, "fp32", *files) for family in ("onnx", "trt"))
    bundle = write_bundle(tiny_bundle, manifest(graphs=graphs), tmp_path / "built")
    build_engines(bundle, bundle.engines, ("sm89", "sm120"), flavour="tensorrt_rtx")
    for capability in ("8.9", "12.0"):
        pair, module = find_engines(bundle, capability)
        assert module is real
        assert pair.encoder_sidecar.compute_capability == (capability,)
        assert pair.decoder.read_bytes()[:4] == pair.encoder.read_bytes()[:4]  # both are plans
    with pytest.raises(BackendError, match=r"built for compute capability 8.9, this GPU has 8.6"):
        find_engines(bundle, "8.6")
    if not GPU_PRESENT:
        pair, _ = find_engines(bundle, "8.9")
        with pytest.raises(BackendError, match="TensorRT could not load"):
            _deserialise(real, pair.encoder)


def test_cuda_python_reports_a_missing_driver_in_words() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if GPU_PRESENT:
        pytest.skip("this machine has a GPU")
    from samihs_runtime.backends.cuda_python import CudaPythonApi

    with pytest.raises(BackendError, match="could not start CUDA: cudaError"):
        CudaPythonApi()


GPU_PRESENT = Path("/dev/nvidia0").exists()
