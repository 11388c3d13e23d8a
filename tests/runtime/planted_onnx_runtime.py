"""An ONNX Runtime whose CUDA provider is its CPU provider, on the planted GPU's memory.

Bindings are the real ones, on host addresses. What the real CUDA provider demands is demanded here
(``cuda_execution_provider.cc``, ``cuda_graph.cc``, ``inference_session.cc`` of ONNX Runtime):

- work goes on the stream given as ``user_compute_stream``, and a run ends when the stream has;
- a run with a new ``gpu_graph_id`` is several: plain ones, the capture, a replay;
- an id that was captured replays the addresses and shapes it was captured with, whatever is bound
  now, and belongs to the thread that captured it; id 0 is ONNX Runtime's own, -1 means none;
- nothing may be allocated, and nothing else may run, while a graph is captured (global mode).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from samihs_runtime.backends import onnx_cuda
from samihs_runtime.backends.cuda import Device

from .planted_gpu import GPU, PlantedCuda

CUDA = "CUDAExecutionProvider"
PLAIN_RUNS = 2
"""``min_num_runs_before_cuda_graph_capture_``."""
PROVIDER_OPTIONS = {
    *("device_id", "has_user_compute_stream", "user_compute_stream", "gpu_mem_limit"),
    *("arena_extend_strategy", "cudnn_conv_algo_search", "do_copy_in_default_stream"),
    *("gpu_external_alloc", "gpu_external_free", "gpu_external_empty_cache"),
    *("cudnn_conv_use_max_workspace", "enable_cuda_graph", "cudnn_conv1d_pad_to_nc1d"),
    *("tunable_op_enable", "tunable_op_tuning_enable", "tunable_op_max_tuning_duration_ms"),
    *("enable_skip_layer_norm_strict_mode", "prefer_nhwc", "use_ep_level_unified_stream"),
    *("use_tf32", "sdpa_kernel", "fuse_conv_bias"),
}
"""``provider_option_names`` of ``cuda_execution_provider_info.cc``; another one is refused."""
REFUSAL = (
    "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the CUDA Graph feature as requested "
    "by the user as all compute graph nodes have not been partitioned to the CUDA EP"
)


class PlantedBinding:
    """Notes what is bound, to make real bindings of it."""

    def __init__(self, session: PlantedSession) -> None:
        self._session = session
        self.inputs: dict[str, tuple[Any, ...]] = {}
        self.outputs: dict[str, tuple[Any, ...]] = {}

    def bind_input(
        self,
        name: str,
        device_type: str,
        device_id: int,
        element_type: Any,
        shape: Sequence[int],
        buffer_ptr: int,
    ) -> None:
        self._session.world.check_address(buffer_ptr, element_type, shape, device_type, device_id)
        self.inputs[name] = (element_type, list(shape), buffer_ptr)

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        assert shape is not None, "an output of the arena's lies where replays write"
        assert buffer_ptr is not None, "an output of the arena's lies where replays write"
        self._session.world.check_address(buffer_ptr, element_type, shape, device_type, device_id)
        self.outputs[name] = (element_type, list(shape), buffer_ptr)

    def real(self) -> Any:
        """The same on host memory, as it is bound now."""
        binding = self._session.real.io_binding()
        for name, (dtype, shape, address) in self.inputs.items():
            binding.bind_input(name, "cpu", 0, dtype, shape, address)
        for name, (dtype, shape, address) in self.outputs.items():
            binding.bind_output(name, "cpu", 0, dtype, shape, address)
        return binding


class PlantedSession:
    def __init__(self, world: PlantedOrt, path: str, sess_options: Any, options: Any) -> None:
        self.world = world
        sess_options.intra_op_num_threads = 1  # tiny graphs: more threads only wait for each other
        self.real = ort.InferenceSession(path, sess_options, providers=["CPUExecutionProvider"])
        self.get_inputs, self.get_outputs = self.real.get_inputs, self.real.get_outputs
        self.graphs = options["enable_cuda_graph"] == "1"
        self.stream = int(options["user_compute_stream"])
        self.captured: dict[tuple[int, int], Any] = {}
        world.sessions.append(self)

    def get_providers(self) -> list[str]:
        return [CUDA, "CPUExecutionProvider"]

    def io_binding(self) -> PlantedBinding:
        return PlantedBinding(self)

    def run_with_iobinding(self, binding: PlantedBinding, run_options: Any = None) -> None:
        assert binding._session is self, "IOBinding must be used with the session that created it"
        graph_id = self._graph_id(run_options)
        with self.world.running():
            if self.world.fault:
                raise RuntimeError(self.world.fault)
            batch = next(iter(binding.inputs.values()))[1][0]
            if batch > self.world.batch_that_fits:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 99")
            if not self.graphs or graph_id == -1:
                self.world.runs.append(("plain", batch, self.stream))
                self._execute(binding.real())
                return
            key = (threading.get_ident(), graph_id)
            if key not in self.captured:
                self._capture(binding, key)
            self.world.runs.append(("replay", batch, self.stream))
            if self.world.spoils_replays:
                return  # as if it wrote somewhere else
            self._execute(self.captured[key])

    def _graph_id(self, run_options: Any) -> int:
        try:
            graph_id = int(run_options.get_run_config_entry("gpu_graph_id"))
        except RuntimeError:
            graph_id = 0
        assert not self.graphs or graph_id != 0, "id 0 is ONNX Runtime's own"
        return graph_id

    def _capture(self, binding: PlantedBinding, key: tuple[int, int]) -> None:
        for _ in range(PLAIN_RUNS):
            self._execute(binding.real())
        if self.world.capture_fault:
            raise RuntimeError(self.world.capture_fault)
        allocations = self.world.cuda.allocations
        time.sleep(self.world.capture_takes)
        if self.world.busy > 1 or self.world.cuda.allocations > allocations:
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
        self.world.captures.append(key)
        self.captured[key] = binding.real()

    def _execute(self, real: Any) -> None:
        """Put it on the stream, and wait for the stream, as a run does by default."""
        stream = self.world.cuda.streams[self.stream]  # a destroyed one is a KeyError
        stream.put(lambda: self.real.run_with_iobinding(real))
        self.world.cuda.synchronize(stream)


class PlantedOrt(SimpleNamespace):
    """The module, as far as the CUDA backend uses it."""

    def __init__(self, cuda: PlantedCuda) -> None:
        super().__init__(
            __version__="1.99",
            SessionOptions=ort.SessionOptions,
            RunOptions=ort.RunOptions,
            cuda=cuda,
            sessions=[],
            runs=[],  # (plain or replay, batch, stream)
            captures=[],  # (thread, id)
            fault="",
            capture_fault="",
            capture_takes=0.0,  # seconds
            session_fault="",  # of a session with CUDA graphs
            spoils_replays=False,
            batch_that_fits=99,
            busy=0,
            lock=threading.Lock(),
        )

    @property
    def kinds(self) -> list[str]:
        """Of each run, whether it was plain or a replay."""
        return [kind for kind, _, _ in self.runs]

    def get_available_providers(self) -> list[str]:
        return [CUDA, "CPUExecutionProvider"]

    def InferenceSession(
        self,
        path: str,
        sess_options: Any,
        providers: Sequence[Any],
        disabled_optimizers: Sequence[str],
        enable_fallback: int = 1,
    ) -> Any:
        ((provider, options),) = providers
        assert provider == CUDA
        assert not disabled_optimizers, "what a CPU is slow at was measured on CPUs"
        assert not enable_fallback, "ONNX Runtime prints, and goes on with the CPU"
        assert set(options) <= PROVIDER_OPTIONS, "ONNX Runtime refuses options it does not know"
        assert all(isinstance(each, str) for each in options.values())
        assert int(options["user_compute_stream"]) in self.cuda.streams
        self.options = options
        if options["enable_cuda_graph"] == "1" and self.session_fault:
            raise RuntimeError(self.session_fault)
        return PlantedSession(self, path, sess_options, options)

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.lock:
            self.busy += 1
        try:
            yield
        finally:
            with self.lock:
                self.busy -= 1

    def check_address(
        self, address: int, dtype: Any, shape: Sequence[int], device_type: str, device_id: int
    ) -> None:
        """What is bound lies in one live buffer of the device."""
        assert (device_type, device_id) == ("cuda", 0)
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert any(
            start <= address and address + nbytes <= start + block.nbytes
            for start, block in self.cuda.live.items()
        ), "bound to memory that is not the device's, or beyond its end"


def plant_onnx_runtime(monkeypatch: pytest.MonkeyPatch, cuda: PlantedCuda) -> PlantedOrt:
    """A GPU, and an onnxruntime with a CUDA provider, for the backend to find."""
    planted = PlantedOrt(cuda)
    monkeypatch.setattr(onnx_cuda, "probe_gpus", lambda: GPU)
    monkeypatch.setattr(onnx_cuda, "open_device", lambda: Device(cuda))
    monkeypatch.setitem(sys.modules, "onnxruntime", planted)
    return planted
