"""ONNX Runtime's CUDA backend on a planted GPU: graphs, streams, threads, memory, faults.

The numbers come from ONNX Runtime's CPU provider on the same graphs (``planted_onnx_runtime.py``).
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as real
import pytest
from numpy.typing import NDArray

from samihs_runtime.backends import onnx_cuda
from samihs_runtime.backends.base import Decoded
from samihs_runtime.backends.contract import DECODER, ENCODER
from samihs_runtime.backends.cuda import DeviceMemoryError, open_device
from samihs_runtime.backends.onnx_cuda import MAX_POINTS, CudaBackend, open_cuda
from samihs_runtime.backends.onnx_runtime import CpuBackend, open_cpu
from samihs_runtime.backends.warm_up import common_shapes
from samihs_runtime.bundle import Bundle, shipped_bundle
from samihs_runtime.errors import BackendError
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.timing import Timings

from .planted_gpu import PlantedCuda
from .planted_onnx_runtime import PLAIN_RUNS, REFUSAL, PlantedOrt, plant_onnx_runtime
from .tiny_model import CHANNELS, GRID, LOW, SIZE

EMBEDDING_BYTES = CHANNELS * GRID * GRID * 4
ENCODER_SHAPES, DECODER_SHAPES = 3, 23
"""Batches of 8, 4 and 1; 2 to 16 prompts of one click, and 1 to 8 clicks of one prompt."""


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture
def cuda() -> PlantedCuda:
    return PlantedCuda()


@pytest.fixture
def cpu(bundle: Bundle) -> Iterator[CpuBackend]:
    """Opened before an onnxruntime is planted."""
    with open_cpu(bundle, Timings()) as opened:
        opened.load()
        yield opened


@pytest.fixture
def ort(cpu: CpuBackend, cuda: PlantedCuda, monkeypatch: pytest.MonkeyPatch) -> PlantedOrt:
    return plant_onnx_runtime(monkeypatch, cuda)


@pytest.fixture
def backend(bundle: Bundle, ort: PlantedOrt) -> Iterator[CudaBackend]:
    with open_cuda(bundle, Timings()) as opened:
        yield opened


def slices(count: int) -> NDArray[np.float32]:
    """[count, 1, 64, 64]: discs of blood at other places in each."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    discs = [(columns - 20 - 2 * i) ** 2 + (rows - 30) ** 2 <= 64 for i in range(count)]
    return np.where(np.stack(discs), 70, 30).astype(np.float32)[:, None]


def windows(count: int) -> NDArray[np.float32]:
    return np.tile(np.asarray((0, 100), np.float32), (count, 1))


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


def kinds(ort: PlantedOrt) -> list[str]:
    return [kind for kind, _, _ in ort.runs]


@pytest.mark.parametrize("count", [1, 3, 4, 8, 11])
def test_encodes_as_the_cpu_does(backend: CudaBackend, cpu: CpuBackend, count: int) -> None:
    for turn in range(2):
        hu = slices(count) + turn
        ours, theirs = backend.encode(hu, windows(count)), cpu.encode(hu, windows(count))
        for mine, yours in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine.numpy(), yours.numpy(), atol=1e-6)


SHAPES = [(1, clicks + 1) for clicks in range(1, 9)] + [(count, 2) for count in range(2, 17)]


def test_decodes_every_common_shape_as_the_cpu_does(
    backend: CudaBackend, cpu: CpuBackend, ort: PlantedOrt
) -> None:
    """In turn, so that each replay follows one of another shape; on other inputs each time."""
    ours = backend.encode(slices(16), windows(16))
    theirs = cpu.encode(slices(16), windows(16))
    ort.runs.clear()
    for turn in range(2):
        for count, points in SHAPES:
            where = prompts(count, points, turn)
            start = turn * (16 - count)
            prior = np.random.default_rng(turn).normal(size=(count, LOW, LOW)).astype(np.float32)
            given = prior if turn else None
            part = slice(start, start + count)
            same(backend.decode(ours[part], *where, given), cpu.decode(theirs[part], *where, given))
    assert kinds(ort) == ["replay"] * 2 * len(SHAPES)


@pytest.mark.parametrize(("count", "points"), [(1, 12), (2, 3), (16, 4), (19, 2), (1, MAX_POINTS)])
def test_other_shapes_run_without_a_graph_and_are_right(
    backend: CudaBackend, cpu: CpuBackend, ort: PlantedOrt, count: int, points: int
) -> None:
    captures = list(ort.captures)
    ours = backend.encode(slices(count), windows(count))
    theirs = cpu.encode(slices(count), windows(count))
    for turn in range(3):
        where = prompts(count, points, turn)
        same(backend.decode(ours, *where, None), cpu.decode(theirs, *where, None))
    assert ort.captures == captures  # another thread may allocate by now: nothing is captured


def test_every_shape_that_is_waited_for_is_captured_at_the_start(
    backend: CudaBackend, ort: PlantedOrt
) -> None:
    encoder, decoder = ort.sessions
    assert len(encoder.captured) == ENCODER_SHAPES
    assert len(decoder.captured) == DECODER_SHAPES
    ids = sorted(graph_id for _, graph_id in decoder.captured)
    assert ids == list(range(1, DECODER_SHAPES + 1))
    assert backend.description.startswith("onnxruntime 1.99 through planted, Planted GPU, fp32; ")
    assert backend.description.endswith("CUDA graphs: encoder 3 shapes, decoder 23 shapes")


def test_the_time_it_takes_is_noted(bundle: Bundle, ort: PlantedOrt) -> None:
    timings = Timings()
    with open_cuda(bundle, timings):
        for stage in ("load encoder", "warm up encoder", "load decoder", "warm up decoder"):
            assert timings[stage].count == 1


def test_a_plain_run_goes_before_each_capture(backend: CudaBackend, ort: PlantedOrt) -> None:
    """It proves that there is memory, which a capture could not say for itself."""
    batches = [batch for kind, batch, stream in ort.runs if stream == ort.sessions[0].stream]
    assert batches[:6] == [8, 8, 4, 4, 1, 1]
    assert kinds(ort)[:6] == ["plain", "replay"] * 3


def test_clicks_replay_and_allocate_nothing(
    backend: CudaBackend, ort: PlantedOrt, cuda: PlantedCuda
) -> None:
    encoded = backend.encode(slices(2), windows(2))
    allocations, captures = cuda.allocations, len(ort.captures)
    ort.runs.clear()
    for turn in range(2_000):
        backend.decode(encoded[turn % 2 :][:1], *prompts(1, 2, turn), None)
    assert cuda.allocations == allocations
    assert len(ort.captures) == captures
    assert kinds(ort) == ["replay"] * 2_000


def test_embeddings_never_reach_the_host_and_answers_are_copied_once(
    backend: CudaBackend, cuda: PlantedCuda
) -> None:
    cuda.downloads.clear()
    encoded = backend.encode(slices(3), windows(3))
    assert cuda.downloads == []
    backend.decode(encoded, *prompts(3, 2), None)
    low, size = LOW * LOW * 4, SIZE * SIZE
    assert cuda.downloads == [3 * low, 3 * size, 3 * 4]


def test_an_answer_is_not_written_over_by_the_next(backend: CudaBackend) -> None:
    encoded = backend.encode(slices(1), windows(1))
    first = backend.decode(encoded, *prompts(1, 2, 1), None)
    logits, masks, scores = first.logits.copy(), first.masks.copy(), first.scores.copy()
    backend.decode(encoded, *prompts(1, 2, 2), None)
    np.testing.assert_array_equal(first.logits, logits)
    np.testing.assert_array_equal(first.masks, masks)
    np.testing.assert_array_equal(first.scores, scores)


def test_encoding_and_clicks_have_streams_of_their_own(
    backend: CudaBackend, ort: PlantedOrt, cuda: PlantedCuda
) -> None:
    encoder, decoder = (cuda.streams[each.stream] for each in ort.sessions)
    assert (encoder.urgent, decoder.urgent) == (False, True)
    ort.runs.clear()
    encoded = backend.encode(slices(1), windows(1))
    backend.decode(encoded, *prompts(1, 2), None)
    assert ort.runs == [("replay", 1, encoder.handle), ("replay", 1, decoder.handle)]


def test_graphs_serve_whichever_thread_asks(
    backend: CudaBackend, cpu: CpuBackend, ort: PlantedOrt
) -> None:
    """ONNX Runtime would capture anew in each thread, and keep that for as long as it lives."""
    captures = list(ort.captures)
    answers: list[Decoded] = []

    def click() -> None:
        encoded = backend.encode(slices(1), windows(1))
        answers.append(backend.decode(encoded, *prompts(1, 2), None))

    for _ in range(3):
        thread = threading.Thread(target=click)
        thread.start()
        thread.join()
    assert ort.captures == captures
    assert len({thread for thread, _ in captures}) == 2  # the encoder's, the decoder's
    expected = cpu.decode(cpu.encode(slices(1), windows(1)), *prompts(1, 2), None)
    for answer in answers:
        same(answer, expected)


def test_clicks_stay_right_while_batches_are_encoded(backend: CudaBackend, cpu: CpuBackend) -> None:
    encoded = backend.encode(slices(1), windows(1))
    theirs = cpu.encode(slices(1), windows(1))
    stop = threading.Event()

    def encode() -> None:
        while not stop.is_set():
            backend.encode(slices(8) + 5, windows(8))

    background = threading.Thread(target=encode)
    background.start()
    try:
        for turn in range(50):
            where = prompts(1, 2, turn)
            same(backend.decode(encoded, *where, None), cpu.decode(theirs, *where, None))
    finally:
        stop.set()
        background.join()


def check_it_answers_without(backend: CudaBackend, cpu: CpuBackend, ort: PlantedOrt) -> None:
    """What a backend without graphs gives is right, and nothing was replayed."""
    ort.runs.clear()
    ours, theirs = backend.encode(slices(4), windows(4)), cpu.encode(slices(4), windows(4))
    same(
        backend.decode(ours, *prompts(4, 2), None),
        cpu.decode(theirs, *prompts(4, 2), None),
    )
    assert kinds(ort) == ["plain", "plain"]


def test_a_session_that_refuses_graphs_runs_without_and_says_why(
    bundle: Bundle, ort: PlantedOrt, cpu: CpuBackend
) -> None:
    ort.session_fault = REFUSAL
    with open_cuda(bundle, Timings()) as backend:
        assert (
            "encoder none ([ONNXRuntimeError] : 1 : FAIL : This session cannot use the CUDA "
            in (backend.description)
        )
        assert str(bundle.root) not in backend.description  # it goes into reports
        check_it_answers_without(backend, cpu, ort)


def test_a_capture_that_fails_is_left_behind_with_its_stream(
    bundle: Bundle, ort: PlantedOrt, cpu: CpuBackend, cuda: PlantedCuda
) -> None:
    """Also where the words are those of short memory: nothing may be allocated in a capture."""
    ort.capture_fault = "BFCArena: Failed to allocate memory for requested buffer of size 15728896"
    with open_cuda(bundle, Timings()) as backend:
        assert "encoder none (no graph of batch 8: BFCArena" in backend.description
        assert "decoder none (no graph of batch 16 of 2 points: " in backend.description
        assert backend.encode_batch == 8  # memory was not short
        spoilt, fresh = (each.stream for each in ort.sessions[:2])
        assert spoilt not in cuda.streams
        assert fresh in cuda.streams
        check_it_answers_without(backend, cpu, ort)


def test_a_replay_that_gives_other_numbers_is_found_before_anybody_clicks(
    bundle: Bundle, ort: PlantedOrt, cpu: CpuBackend
) -> None:
    ort.spoils_replays = True
    with open_cuda(bundle, Timings()) as backend:
        assert "a replay of batch 8 gave another embedding" in backend.description
        assert "a replay of batch 16 of 2 points gave another logits" in backend.description
        check_it_answers_without(backend, cpu, ort)


def test_graphs_can_be_left_out(bundle: Bundle, ort: PlantedOrt, cpu: CpuBackend) -> None:
    with open_cuda(bundle, Timings(), cuda_graphs=False) as backend:
        assert ort.options["enable_cuda_graph"] == "0"
        assert backend.description.endswith("decoder none (asked to run without)")
        check_it_answers_without(backend, cpu, ort)


def test_fp32_is_fp32(backend: CudaBackend, ort: PlantedOrt) -> None:
    assert ort.options["use_tf32"] == "0"  # parity is proven with it


def test_little_memory_means_smaller_batches_then_an_error(
    bundle: Bundle, ort: PlantedOrt, cuda: PlantedCuda
) -> None:
    ort.batch_that_fits = 5  # of slices, and of prompts: 8 and 16, 4 and 8 are too many
    with open_cuda(bundle, Timings()) as backend:
        assert backend.encode_batch == 2
        assert backend.graphs["encoder"].shapes == 2  # 2 and 1
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
    backend: CudaBackend, ort: PlantedOrt, fault: str, kind: type[BackendError]
) -> None:
    encoded = backend.encode(slices(1), windows(1))
    ort.fault = fault
    with pytest.raises(BackendError, match="could not encode a slice: ") as caught:
        backend.encode(slices(1), windows(1))
    assert type(caught.value) is kind
    with pytest.raises(kind, match="could not answer a prompt: "):
        backend.decode(encoded, *prompts(1, 2), None)


def test_a_lost_device_is_an_error_and_everything_is_let_go(
    bundle: Bundle, ort: PlantedOrt, cuda: PlantedCuda
) -> None:
    backend = open_cuda(bundle, Timings())
    encoded = backend.encode(slices(2), windows(2))

    def click() -> None:
        with backend:
            backend.decode(encoded, *prompts(2, 2), None)

    cuda.lost = True
    # What went wrong first is what is said, though freeing the memory fails as well.
    with pytest.raises(BackendError, match=r"could not answer a prompt: .*finish its work"):
        click()
    assert (cuda.live, cuda.pinned, cuda.streams) == ({}, {}, {})


def test_a_device_lost_while_it_warms_up_lets_everything_go(
    bundle: Bundle, ort: PlantedOrt, cuda: PlantedCuda
) -> None:
    ort.fault = "CUDA failure 719: unspecified launch failure"
    cuda.lost = True  # freeing fails, too, and is not what is said
    with pytest.raises(BackendError, match="could not encode a slice: CUDA failure 719"):
        open_cuda(bundle, Timings())
    assert (cuda.live, cuda.pinned, cuda.streams) == ({}, {}, {})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_gets_an_error_and_frees_nothing(
    backend: CudaBackend, cuda: PlantedCuda
) -> None:
    """A real fork: the child has none of the threads, and must not wait for them."""
    encoded = backend.encode(slices(1), windows(1))
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(20)  # a child that waits for a thread it does not have dies, and says nothing
        said = []
        for work in (
            lambda: backend.encode(slices(1), windows(1)),
            lambda: backend.decode(encoded, *prompts(1, 2), None),
            lambda: encoded[0].numpy(),
        ):
            try:
                work()
            except BackendError as error:
                said.append(str(error))
        held = len(cuda.live)
        backend.close()
        said.append(f"freed {held - len(cuda.live)}")
        os.write(writing, "\n".join(said).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()
    os.waitpid(child, 0)
    assert len(lines) == 4
    assert all("forked after CUDA was started" in each for each in lines[:3])
    assert lines[3] == "freed 0"
    backend.decode(encoded, *prompts(1, 2), None)  # the parent is as it was


def test_closing_frees_all_and_ends_the_threads(
    bundle: Bundle, ort: PlantedOrt, cuda: PlantedCuda
) -> None:
    backend = open_cuda(bundle, Timings())
    encoded = backend.encode(slices(2), windows(2))
    backend.decode(encoded, *prompts(2, 2), None)
    backend.close()
    backend.close()
    assert (cuda.live, cuda.pinned, cuda.streams) == ({}, {}, {})
    assert not [each for each in threading.enumerate() if each.name.startswith("samihs-")]
    with pytest.raises(BackendError, match="closed"):
        backend.decode(encoded, *prompts(2, 2), None)
    with pytest.raises(BackendError, match="its embeddings are gone"):
        encoded[0].numpy()


def test_too_many_points_are_an_error(backend: CudaBackend) -> None:
    encoded = backend.encode(slices(16), windows(16))
    with pytest.raises(BackendError, match=r"there is room for .*give fewer points"):
        backend.decode(encoded, *prompts(16, MAX_POINTS + 1), None)


def test_foreign_embeddings_are_refused(backend: CudaBackend, cpu: CpuBackend) -> None:
    with pytest.raises(TypeError, match="another backend"):
        backend.decode(cpu.encode(slices(1), windows(1)), *prompts(1, 2), None)


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


def test_common_shapes_are_those_of_clicks(bundle: Bundle) -> None:
    encoder = [each["hu"][0] for each in common_shapes(ENCODER, bundle.manifest, 8)]
    assert encoder == [8, 4, 1]
    assert [each["hu"][0] for each in common_shapes(ENCODER, bundle.manifest, 2)] == [2, 1]
    decoder = [each["labels"] for each in common_shapes(DECODER, bundle.manifest, 16)]
    assert sorted(decoder) == sorted(SHAPES)
    assert decoder[0] == (16, 2)  # what takes most memory first


def test_the_shipped_graphs_hold_nothing_that_cuda_graphs_do_not_take() -> None:
    """ONNX Runtime refuses control flow; sequences and strings have no address to replay."""
    files = Bundle.open(shipped_bundle()).graph("onnx")
    for path in (files.encoder, files.decoder):
        graph = onnx.load(path).graph
        kinds = {node.op_type for node in graph.node}
        assert not kinds & {"If", "Loop", "Scan", "NonZero", "SequenceConstruct"}, path
        assert all(each.type.HasField("tensor_type") for each in (*graph.input, *graph.output))


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
