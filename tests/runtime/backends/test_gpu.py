"""What only an NVIDIA GPU can show. Run by ``make test-gpu``, which fails without one."""

from __future__ import annotations

import gc
import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_export.engines.tensorrt import build_engines
from samihs_runtime.backends.base import Backend
from samihs_runtime.backends.choose import choose
from samihs_runtime.backends.cuda import Device, open_device
from samihs_runtime.backends.device_backend import DeviceBackend
from samihs_runtime.backends.onnx_cuda import open_cuda
from samihs_runtime.backends.probe import probe_gpus
from samihs_runtime.bundle import Bundle, GraphEntry, shipped_bundle, write_bundle
from samihs_runtime.errors import BackendError
from samihs_runtime.timing import Timings
from tests.runtime.tiny_model import LOW, SIZE, manifest

from .gpu_cases import WINDOW, slices
from .gpu_needs import skip_where_no_tensorrt_builds

pytestmark = pytest.mark.gpu

LABELS = np.asarray([[1, -1]], np.int32)


def test_a_gpu_is_present() -> None:
    """The one test that may not be skipped: no GPU, no green run."""
    probe = probe_gpus()
    assert probe.devices, probe.reason


@pytest.fixture
def device() -> Device:
    return open_device()


@pytest.fixture
def both(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    """The tiny bundle with the same graphs for TensorRT."""
    files = ("onnx/encoder.onnx", "onnx/decoder.onnx")
    graphs = tuple(GraphEntry(family, "fp32", *files) for family in ("onnx", "trt"))
    return write_bundle(tiny_bundle, manifest(graphs=graphs), tmp_path / "both")


@pytest.fixture
def with_engines(both: Bundle) -> Bundle:
    """The same, with engines for this GPU."""
    skip_where_no_tensorrt_builds()
    build_engines(both, both.engines, (None,))
    return both


@pytest.fixture(params=["cuda", "tensorrt"])
def backend(request: pytest.FixtureRequest, both: Bundle) -> Iterator[Backend]:
    if request.param == "tensorrt":
        skip_where_no_tensorrt_builds()
        build_engines(both, both.engines, (None,))
    with choose(both, request.param).backend as opened:
        yield opened


def click(x: float, y: float) -> NDArray[np.float32]:
    return np.asarray([[(x, y), (0, 0)]], np.float32)


def test_agrees_with_the_cpu(
    backend: Backend, both: Bundle, bright_slice: NDArray[np.float32]
) -> None:
    """On first uses and, from the second on, on CUDA graphs; with and without a prior."""
    prior = np.random.default_rng(0).normal(size=(1, LOW, LOW)).astype(np.float32)
    with choose(both, "cpu").backend as cpu:
        for turn in range(5):
            hu = np.roll(bright_slice, turn, axis=1)[None, None]
            ours, theirs = backend.encode(hu, WINDOW), cpu.encode(hu, WINDOW)
            np.testing.assert_allclose(ours[0].numpy(), theirs[0].numpy(), atol=1e-4)
            given = prior if turn % 2 else None
            mine = backend.decode(ours, click(40 + turn, 24), LABELS, given)
            yours = cpu.decode(theirs, click(40 + turn, 24), LABELS, given)
            # TF32 products would show at 1e-3; the tiny graph has none.
            np.testing.assert_allclose(mine.logits, yours.logits, atol=1e-3)
            assert (mine.masks == yours.masks).mean() > 0.999


@dataclass(frozen=True)
class Pair:
    """A backend on the GPU and the CPU's, on one bundle, open for the whole module."""

    gpu: DeviceBackend
    cpu: Backend


@pytest.fixture(scope="module", params=["cuda", "tensorrt"])
def pair(
    request: pytest.FixtureRequest,
    _tiny_bundle_original: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    files = ("onnx/encoder.onnx", "onnx/decoder.onnx")
    graphs = tuple(GraphEntry(family, "fp32", *files) for family in ("onnx", "trt"))
    folder = tmp_path_factory.mktemp(f"pair-{request.param}") / "bundle"
    bundle = write_bundle(_tiny_bundle_original, manifest(graphs=graphs), folder)
    if request.param == "tensorrt":
        skip_where_no_tensorrt_builds()
        build_engines(bundle, bundle.engines, (None,))
    gpu = choose(bundle, request.param).backend
    assert isinstance(gpu, DeviceBackend)
    with gpu, choose(bundle, "cpu").backend as cpu:
        gpu.warm_up()
        yield Pair(gpu, cpu)


def test_cuda_graphs_are_replayed(pair: Pair) -> None:
    """Else the figures of a benchmark, and what a user waits for, are of another program."""
    for part, use in pair.gpu.graphs.items():
        assert use.shapes, f"{part}: {use.refusal}"
    assert pair.gpu.graphs["decoder"].shapes == 23


@pytest.mark.parametrize("count", [1, 3, 4, 8, 11])
def test_every_encode_batch_agrees_with_the_cpu(pair: Pair, count: int) -> None:
    """1, 4 and 8 replay a graph; 3 runs without on ONNX Runtime, 11 goes in parts."""
    window = np.repeat(WINDOW, count, axis=0)
    for turn in range(3):
        hu = slices(count) + turn
        ours, theirs = pair.gpu.encode(hu, window), pair.cpu.encode(hu, window)
        for mine, yours in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine.numpy(), yours.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("count", "clicks"),
    [*((1, n) for n in range(1, 9)), *((b, 1) for b in range(2, 17)), (2, 3), (1, 12), (19, 1)],
)
def test_every_click_shape_agrees_with_the_cpu(pair: Pair, count: int, clicks: int) -> None:
    """1 to 8 clicks on one lesion and up to 16 prompts replay a graph; the last three do not."""
    window, random = np.repeat(WINDOW, count, axis=0), np.random.default_rng(count + clicks)
    ours, theirs = pair.gpu.encode(slices(count), window), pair.cpu.encode(slices(count), window)
    for turn in range(3):
        points = random.uniform(5, 59, (count, clicks + 1, 2)).astype(np.float32)
        labels = np.ones((count, clicks + 1), np.int32)
        labels[:, -1] = -1
        prior = random.normal(size=(count, LOW, LOW)).astype(np.float32) if turn else None
        mine = pair.gpu.decode(ours, points, labels, prior)
        yours = pair.cpu.decode(theirs, points, labels, prior)
        np.testing.assert_allclose(mine.logits, yours.logits, atol=1e-3)
        np.testing.assert_allclose(mine.scores, yours.scores, atol=1e-3)
        assert (mine.masks == yours.masks).mean() > 0.999


def test_the_shipped_model_replays_graphs_on_onnx_runtime(
    bright_slice: NDArray[np.float32],
) -> None:
    """Its graphs, not only the tests' hand-written ones, lie on the CUDA provider as a whole."""
    bundle = Bundle.open(shipped_bundle())
    side = bundle.manifest.slice_size // SIZE
    hu = np.kron(bright_slice, np.ones((side, side), np.float32))[None, None]
    points = click(40, 24) * side
    with choose(bundle, "cuda").backend as gpu, choose(bundle, "cpu").backend as cpu:
        assert isinstance(gpu, DeviceBackend)
        ours, theirs = gpu.encode(hu, WINDOW), cpu.encode(hu, WINDOW)
        scale = np.abs(theirs[0].numpy()).max()
        np.testing.assert_allclose(ours[0].numpy(), theirs[0].numpy(), atol=1e-4 * scale)
        mine = gpu.decode(ours, points, LABELS, None)
        for part, use in gpu.graphs.items():
            assert use.shapes, f"{part}: {use.refusal}"
        yours = cpu.decode(theirs, points, LABELS, None)
        np.testing.assert_allclose(mine.logits, yours.logits, atol=1e-2)
        assert (mine.masks == yours.masks).mean() > 0.999


def test_onnx_runtime_without_graphs_agrees_with_the_cpu(both: Bundle) -> None:
    with open_cuda(both, Timings(), cuda_graphs=False) as gpu, choose(both, "cpu").backend as cpu:
        assert not any(use.shapes for use in gpu.graphs.values())
        ours, theirs = gpu.encode(slices(1), WINDOW), cpu.encode(slices(1), WINDOW)
        mine = gpu.decode(ours, click(40, 24), LABELS, None)
        yours = cpu.decode(theirs, click(40, 24), LABELS, None)
        np.testing.assert_allclose(mine.logits, yours.logits, atol=1e-3)


def test_ten_thousand_clicks_leave_device_memory_flat(
    backend: Backend, bright_slice: NDArray[np.float32]
) -> None:
    from cuda.bindings import runtime as cudart

    def free() -> int:
        gc.collect()
        return int(cudart.cudaMemGetInfo()[1])

    encoded = backend.encode(bright_slice[None, None], WINDOW)
    for turn in range(10):
        backend.decode(encoded, click(20 + turn, 24), LABELS, None)
        backend.encode(bright_slice[None, None] + turn, WINDOW)
    before = free()
    for turn in range(10_000):
        backend.decode(encoded, click(20 + turn % 40, 24), LABELS, None)
        if turn % 1000 == 0:
            backend.encode(bright_slice[None, None] + turn, WINDOW)
    assert before - free() < 8 << 20  # the allocators' own granules are 2 MiB


def test_copies_and_graphs(device: Device) -> None:
    stream = device.stream(urgent=True)
    source, target = device.pinned((1024,), "float32"), device.pinned((1024,), "float32")
    one, other = device.allocate(4096), device.allocate(4096)
    source.view((1024,))[:] = np.arange(1024)

    def put() -> None:
        stream.upload(one, source, 4096)
        stream.copy(other, one, 4096)
        stream.download(target, other, 4096)

    put()
    stream.synchronize()
    np.testing.assert_array_equal(target.view((1024,)), np.arange(1024))
    if device.api.supports_graphs:
        stream.begin_capture()
        put()
        graph = stream.end_capture()
        source.view((1024,))[:] = 7
        stream.launch(graph)
        stream.synchronize()
        assert (target.view((1024,)) == 7).all()
        graph.close()
    for each in (source, target, one, other, stream):
        each.close()


def test_memory_beyond_the_card_is_a_clear_error(device: Device) -> None:
    with pytest.raises(BackendError, match="the GPU's memory is full"):
        device.allocate(1 << 50)


def test_a_truncated_engine_is_refused(with_engines: Bundle) -> None:
    engine = next(with_engines.engines.glob("decoder*.engine"))
    engine.write_bytes(engine.read_bytes()[:-100])
    with pytest.raises(BackendError, match="missing, truncated or changed"):
        choose(with_engines, "tensorrt")


def _click_in_child(root: Path, name: str) -> set[bytes]:
    """The different masks that 200 encodes and clicks give."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    hu = np.where((columns - 40) ** 2 + (rows - 24) ** 2 <= 64, 70, 30).astype(np.float32)
    with choose(Bundle.open(root), name).backend as backend:
        masks = set()
        for _ in range(200):
            encoded = backend.encode(hu[None, None], WINDOW)
            masks.add(backend.decode(encoded, click(40, 24), LABELS, None).masks.tobytes())
    return masks


@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_two_processes_on_one_gpu_answer_alike(both: Bundle, name: str) -> None:
    if name == "tensorrt":
        skip_where_no_tensorrt_builds()
        build_engines(both, both.engines, (None,))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        children = [pool.submit(_click_in_child, both.root, name) for _ in range(2)]
        masks = set().union(*(child.result(timeout=120) for child in children))
    assert len(masks) == 1
    assert any(masks.pop())


def test_background_encoding_leaves_clicks_alone(
    pair: Pair, bright_slice: NDArray[np.float32]
) -> None:
    """Answers on the urgent stream stay right while batches are encoded on the other."""
    backend = pair.gpu
    encoded = backend.encode(bright_slice[None, None], WINDOW)
    expected = backend.decode(encoded, click(40, 24), LABELS, None)
    stop = threading.Event()

    def encode() -> None:
        hu = np.zeros((8, 1, SIZE, SIZE), np.float32)
        while not stop.is_set():
            backend.encode(hu, np.repeat(WINDOW, 8, axis=0))

    background = threading.Thread(target=encode)
    background.start()
    try:
        for _ in range(500):
            answer = backend.decode(encoded, click(40, 24), LABELS, None)
            np.testing.assert_array_equal(answer.masks, expected.masks)
    finally:
        stop.set()
        background.join()


def test_compiled_kernels_are_kept(with_engines: Bundle, bright_slice: NDArray[np.float32]) -> None:
    if not list(with_engines.engines.glob("*tensorrt_rtx*")):
        pytest.skip("TensorRT compiles at build time: only TensorRT-RTX has kernels to keep")
    masks = []
    for _ in range(2):
        with choose(with_engines, "tensorrt").backend as backend:
            encoded = backend.encode(bright_slice[None, None], WINDOW)
            masks.append(backend.decode(encoded, click(40, 24), LABELS, None).masks)
    assert len(list(with_engines.engines.glob("*.kernels"))) == 2
    np.testing.assert_array_equal(*masks)


def _encode_in_child(backend: Backend, answer: multiprocessing.Queue[str]) -> None:
    try:
        backend.encode(np.zeros((1, 1, SIZE, SIZE), np.float32), WINDOW)
    except BackendError as error:
        answer.put(str(error))
    else:
        answer.put("no error")


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_gets_an_error_and_does_not_hang(backend: Backend) -> None:
    context = multiprocessing.get_context("fork")
    answer: multiprocessing.Queue[str] = context.Queue()  # type: ignore[assignment]
    child = context.Process(target=_encode_in_child, args=(backend, answer))
    child.start()
    assert "forked after CUDA was started" in answer.get(timeout=30)
    child.join(30)
