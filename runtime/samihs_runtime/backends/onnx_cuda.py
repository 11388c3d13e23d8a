"""ONNX Runtime on an NVIDIA GPU (``cuda``), for use when no TensorRT engine fits.

Each graph has a session, a stream, a thread and, if ONNX Runtime allows it, CUDA graphs for the
common shapes (``onnx_cuda_program.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from samihs_runtime.backends.contract import DECODER, ENCODER, GraphContract, tensor_shapes
from samihs_runtime.backends.cuda import Device, open_device
from samihs_runtime.backends.device_backend import DeviceBackend
from samihs_runtime.backends.onnx_cuda_program import OrtProgram
from samihs_runtime.backends.onnx_runtime import SessionMaker, import_onnxruntime
from samihs_runtime.backends.probe import probe_gpus
from samihs_runtime.backends.session_thread import SessionThread
from samihs_runtime.bundle import Bundle
from samihs_runtime.bundle.manifest import Manifest
from samihs_runtime.errors import BackendError
from samihs_runtime.timing import Timings

R = TypeVar("R")
CUDA_PROVIDER = "CUDAExecutionProvider"
MAX_POINTS = 256
"""Points of one prompt that the buffers have room for, counted as the decoder takes them."""
_PROVIDER_OPTIONS: Mapping[str, str] = {
    # TF32 has a 10-bit mantissa: an fp32 bundle would not pass the gates it was verified with.
    "use_tf32": "0",
    # MATH. The kernel chosen by default gives different values if queries are wider than values, as
    # in the encoder's fused attention: off by 0.13 of the largest on an H200 (1.31), this one by
    # 1e-6. It stores the scores. (Widths that differ: github.com/microsoft/onnxruntime/pull/27851.)
    "sdpa_kernel": "16",
    # The default tries every algorithm for every convolution at the first run; SAM has few.
    "cudnn_conv_algo_search": "HEURISTIC",
    # The default doubles its allocations: memory that other programs and embeddings could use.
    "arena_extend_strategy": "kSameAsRequested",
}


class CudaBackend(DeviceBackend):
    """ONNX Runtime's CUDA provider."""

    name = "cuda"

    def __init__(
        self,
        sessions: SessionMaker,
        device: Device,
        manifest: Manifest,
        gpu: str,
        timings: Timings,
        cuda_graphs: bool = True,
    ) -> None:
        """Open both sessions, and run each once.

        Args:
            sessions: of the bundle.
            device: the GPU to use.
            manifest: the bundle's.
            gpu: its name, for the description.
            timings: where loading and warming up are recorded.
            cuda_graphs: False to run without CUDA graphs, for comparison.

        Raises:
            BackendError: see :class:`DeviceBackend`; also if CUDA's libraries are missing.
        """
        self.precision = sessions.precision
        self._sessions = sessions
        self._cuda_graphs = cuda_graphs
        self._threads = {part: SessionThread(f"samihs-{part}") for part in ("encoder", "decoder")}
        version = sessions.ort.__version__
        description = (
            f"onnxruntime {version} through {device.api.name}, {gpu}, {sessions.precision}"
        )
        super().__init__(device, manifest, description, timings)

    def _make_program(self, contract: GraphContract, batch_limit: int) -> OrtProgram:
        shapes = tensor_shapes(self._manifest, batch_limit, MAX_POINTS)

        def open_session(stream: int, graphs: bool) -> Any:
            options = {
                **_PROVIDER_OPTIONS,
                "user_compute_stream": str(stream),
                "enable_cuda_graph": "1" if graphs else "0",
            }
            return self._sessions.make(contract, CUDA_PROVIDER, options)

        return OrtProgram(
            self._sessions.ort,
            self._device,
            open_session,
            contract,
            {name: shapes[name] for name in (*contract.inputs, *contract.outputs)},
            on_device=("embedding",),
            urgent=contract is DECODER,
            graphs=self._cuda_graphs,
        )

    def _at(self, contract: GraphContract, work: Callable[[], R]) -> R:
        return self._threads[contract.part].call(work)

    def _end_threads(self) -> None:
        for part in (ENCODER.part, DECODER.part):
            self._threads[part].close()


def open_cuda(bundle: Bundle, timings: Timings, cuda_graphs: bool = True) -> CudaBackend:
    """Open ONNX Runtime's CUDA provider.

    Args:
        bundle: an opened bundle.
        timings: where loading and warming up are recorded.
        cuda_graphs: False to run without CUDA graphs, for comparison.

    Raises:
        BackendError: no GPU, onnxruntime-gpu or cuda-python missing, or the CUDA provider does not
            start.
        BundleError: the bundle has no ONNX graphs.
    """
    gpus = probe_gpus()
    if not gpus.devices:
        raise BackendError(f"no NVIDIA GPU can be used: {gpus.reason}")
    with timings.stage("import onnxruntime"):
        ort = import_onnxruntime("gpu")
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise BackendError(
            f"onnxruntime {ort.__version__} has no CUDA provider: pip uninstall onnxruntime, "
            "then pip install 'samihs[gpu]'"
        )
    sessions = SessionMaker(ort, bundle)
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN from NVIDIA's wheels, if those are installed
    device = open_device()
    return CudaBackend(
        sessions, device, bundle.manifest, gpus.devices[0].name, timings, cuda_graphs
    )
