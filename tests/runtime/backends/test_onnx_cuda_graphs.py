"""CUDA graphs of ONNX Runtime: how they are captured and proved, and what runs without them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from samihs_runtime.backends.onnx_cpu import CpuBackend
from samihs_runtime.backends.onnx_cuda import CudaBackend, open_cuda
from samihs_runtime.bundle import Bundle, shipped_bundle
from samihs_runtime.timing import Timings
from tests.runtime.planted_gpu import PlantedCuda
from tests.runtime.planted_onnx_runtime import REFUSAL, PlantedOrt

from .gpu_cases import SHAPES, prompts, same, slices, windows


def test_every_shape_that_is_waited_for_is_captured_when_warmed_up(
    ort_backend: CudaBackend, ort: PlantedOrt
) -> None:
    ort_backend.warm_up()
    encoder, decoder = ort.sessions
    assert len(encoder.captured) == 3
    ids = sorted(graph_id for _, graph_id in decoder.captured)
    assert ids == list(range(1, len(SHAPES) + 1))
    assert ort_backend.description.startswith(
        "onnxruntime 1.99 through planted, Planted GPU, fp32; "
    )
    assert ort_backend.description.endswith("CUDA graphs: encoder 3 shapes, decoder 23 shapes")


def test_a_plain_run_goes_before_each_capture(ort_backend: CudaBackend, ort: PlantedOrt) -> None:
    """It proves that there is memory, which a capture could not say for itself."""
    ort.runs.clear()
    ort_backend.warm_up()
    batches = [batch for kind, batch, stream in ort.runs if stream == ort.sessions[0].stream]
    assert batches[:6] == [8, 8, 4, 4, 1, 1]
    assert ort.kinds[:6] == ["plain", "replay"] * 3


def check_it_answers_without(backend: CudaBackend, cpu: CpuBackend, ort: PlantedOrt) -> None:
    """What a backend without graphs gives is right, and nothing was replayed."""
    ort.runs.clear()
    ours, theirs = backend.encode(slices(4), windows(4)), cpu.encode(slices(4), windows(4))
    same(
        backend.decode(ours, *prompts(4, 2), None),
        cpu.decode(theirs, *prompts(4, 2), None),
    )
    assert ort.kinds == ["plain", "plain"]


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
        backend.warm_up()
        assert "encoder none (no graph of batch 8: BFCArena" in backend.description
        assert "decoder none (no graph of batch 16 of 2 points: " in backend.description
        assert backend.encode_batch == 8  # memory was not short
        spoilt, fresh = (each.stream for each in ort.sessions[:3:2])  # the encoder's
        assert spoilt not in cuda.streams
        assert fresh in cuda.streams
        check_it_answers_without(backend, cpu, ort)


def test_a_replay_that_gives_other_numbers_is_found_before_anybody_clicks(
    bundle: Bundle, ort: PlantedOrt, cpu: CpuBackend
) -> None:
    ort.spoils_replays = True
    with open_cuda(bundle, Timings()) as backend:
        backend.warm_up()
        assert "a replay of batch 8 gave another embedding" in backend.description
        assert "a replay of batch 16 of 2 points gave another logits" in backend.description
        check_it_answers_without(backend, cpu, ort)


def test_graphs_can_be_left_out(bundle: Bundle, ort: PlantedOrt, cpu: CpuBackend) -> None:
    with open_cuda(bundle, Timings(), cuda_graphs=False) as backend:
        assert ort.options["enable_cuda_graph"] == "0"
        assert backend.description.endswith("decoder none (asked to run without)")
        check_it_answers_without(backend, cpu, ort)


@pytest.mark.parametrize("what", ["capture_fault", "spoils_replays"])
def test_a_first_answer_is_right_though_its_graph_is_not(
    ort_backend: CudaBackend, ort: PlantedOrt, cpu: CpuBackend, what: str
) -> None:
    setattr(ort, what, "CUDA failure 901")
    ours = ort_backend.encode(slices(1), windows(1))
    theirs = cpu.encode(slices(1), windows(1))
    np.testing.assert_allclose(ours[0].numpy(), theirs[0].numpy(), atol=1e-6)
    where = prompts(1, 2)
    same(ort_backend.decode(ours, *where, None), cpu.decode(theirs, *where, None))
    assert all(use.refusal for use in ort_backend.graphs.values())


def test_the_shipped_graphs_hold_nothing_that_cuda_graphs_do_not_take() -> None:
    """ONNX Runtime refuses control flow; sequences and strings have no address to replay."""
    files = Bundle.open(shipped_bundle()).graph("onnx")
    for path in (files.encoder, files.decoder):
        graph = onnx.load(path).graph
        kinds = {node.op_type for node in graph.node}
        assert not kinds & {"If", "Loop", "Scan", "NonZero", "SequenceConstruct"}, path
        assert all(each.type.HasField("tensor_type") for each in (*graph.input, *graph.output))
