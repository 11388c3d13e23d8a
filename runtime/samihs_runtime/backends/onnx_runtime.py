"""ONNX Runtime, on the CPU (``cpu``) and on an NVIDIA GPU (``cuda``).

On the GPU embeddings stay in device memory: the encoder's output is bound there and handed to the
decoder as it is. Sessions are made when first needed: a run that only encodes loads no decoder.
"""

from __future__ import annotations

import os
import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.base import Decoded, Embedding
from samihs_runtime.backends.contract import DECODER, ENCODER, GraphContract
from samihs_runtime.backends.cuda import DeviceMemoryError
from samihs_runtime.backends.exchange import exchanged_graph, exchanged_tensors
from samihs_runtime.backends.probe import probe_gpus
from samihs_runtime.bundle import Bundle
from samihs_runtime.closing import Closing
from samihs_runtime.errors import BackendError, BundleError
from samihs_runtime.timing import Timings

CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
_ARENA_MAX_BYTES = 100_000_000
"""Encoder weights up to which the CPU session keeps its working memory between runs."""
_FULL_MEMORY = ("Failed to allocate memory", "out of memory", "ALLOC_FAILED")
"""What ONNX Runtime's arena, CUDA and cuBLAS or cuDNN say when memory is short."""
_ERRORS_ONLY = 3
"""ONNX Runtime's severity: 0 verbose, 1 info, 2 warning, 3 error."""


@dataclass(frozen=True, eq=False)
class HostEmbedding:
    """An embedding [E, G, G] in host memory."""

    array: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def numpy(self) -> NDArray[np.float32]:
        return self.array.copy()


@dataclass(frozen=True, eq=False)
class OrtDeviceEmbedding:
    """An embedding [1, E, G, G] in device memory, owned by an ``OrtValue``."""

    value: Any

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.value.shape())) * 4

    def numpy(self) -> NDArray[np.float32]:
        return np.asarray(self.value.numpy()[0], dtype=np.float32)


class OnnxRuntimeBackend(Closing):
    """What both backends share: sessions made when first needed, checked against the contract."""

    name = ""
    encode_batch = 1  # slices go one by one: see encode
    _provider = ""
    _provider_options: ClassVar[Mapping[str, str]] = {}

    def __init__(self, ort: Any, bundle: Bundle, where: str, timings: Timings) -> None:
        files = bundle.graph("onnx")
        bundle.adapter_tensors("onnx", files.precision)  # refused now, not at the first slice
        self.description = f"onnxruntime {ort.__version__}, {where}, {files.precision}"
        self._ort = ort
        self._bundle, self.precision = bundle, files.precision
        self._paths = {ENCODER.part: files.encoder, DECODER.part: files.decoder}
        self._low_side = bundle.manifest.mask_size
        self._timings = timings
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._closed = False

    def load(self) -> None:
        """Make both sessions now."""
        self._session(ENCODER)
        self._session(DECODER)

    def encode(self, hu: NDArray[np.float32], window: NDArray[np.float32]) -> Sequence[Embedding]:
        """See :class:`samihs_runtime.backends.base.Backend`.

        Slices go one by one: on the CPU a batch takes B times the memory and no less time; on the
        GPU each embedding is then an allocation of its own, freed with its handle.
        """
        session = self._session(ENCODER)
        with self._faults("encode a slice"):
            return [
                self._encode_one(session, {"hu": hu[i : i + 1], "window": window[i : i + 1]})
                for i in range(len(hu))
            ]

    def decode(
        self,
        embeddings: Sequence[Embedding],
        points: NDArray[np.float32],
        labels: NDArray[np.int32],
        prior: NDArray[np.float32] | None,
    ) -> Decoded:
        """See :class:`samihs_runtime.backends.base.Backend`."""
        session = self._session(DECODER)
        count, side = len(points), self._low_side
        has_prior = np.full(count, prior is not None, np.float32)
        if prior is None:
            prior = np.zeros((count, side, side), np.float32)
        feeds = {
            "points": points,
            "labels": labels,
            "prior": prior.reshape(count, 1, side, side),
            "has_prior": has_prior,
        }
        with self._faults("answer a prompt"):
            logits, masks, scores = self._decode_batch(session, embeddings, feeds)
        return Decoded(logits[:, 0], masks.astype(bool), scores)

    @abstractmethod
    def restore(self, embedding: NDArray[np.float32]) -> Embedding:
        """See :class:`samihs_runtime.backends.base.Backend`."""

    def close(self) -> None:
        """Free both sessions."""
        with self._lock:
            self._closed = True
            self._sessions.clear()

    @abstractmethod
    def _encode_one(self, session: Any, feeds: Mapping[str, NDArray[Any]]) -> Embedding:
        """The embedding of one slice, where the provider keeps it."""

    @abstractmethod
    def _decode_batch(
        self, session: Any, embeddings: Sequence[Embedding], feeds: Mapping[str, NDArray[Any]]
    ) -> Sequence[NDArray[Any]]:
        """Logits [B, 1, M, M], masks uint8 [B, S, S], scores [B]."""

    def _options(self, options: Any) -> None:
        """Set what is particular to the provider."""

    def _session(self, contract: GraphContract) -> Any:
        with self._lock:
            if self._closed:
                raise BackendError(f"the {self.name} backend is closed: open a new one")
            if contract.part not in self._sessions:
                with self._timings.stage(f"load {contract.part}"):
                    self._sessions[contract.part] = self._load(contract)
            return self._sessions[contract.part]

    def _load(self, contract: GraphContract) -> Any:
        path = self._paths[contract.part]
        tensors = exchanged_tensors(self._bundle, "onnx", self.precision, contract.part)
        options = self._ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        self._options(options)
        graph = str(path) if tensors is None else exchanged_graph(path, tensors)
        try:
            session = self._ort.InferenceSession(
                graph,
                sess_options=options,
                providers=[(self._provider, dict(self._provider_options))],
            )
        except Exception as error:  # onnxruntime's own classes derive from Exception
            raise BundleError(
                f"onnxruntime {self._ort.__version__} cannot load {path}: {error}; export the "
                "bundle again, or install a newer onnxruntime"
            ) from error
        if self._provider not in session.get_providers():
            raise BackendError(
                f"onnxruntime's {self._provider} did not start and it fell back to "
                f"{', '.join(session.get_providers())}: CUDA or cuDNN of the version it wants is "
                "missing; samihs-doctor says which"
            )
        contract.check(_types(session.get_inputs()), _types(session.get_outputs()), str(path))
        return session

    @contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # onnxruntime's own classes derive from Exception
            full = any(words in str(error) for words in _FULL_MEMORY)
            kind = DeviceMemoryError if full else BackendError
            raise kind(f"the {self.name} backend could not {doing}: {error}") from error


class CpuBackend(OnnxRuntimeBackend):
    """ONNX Runtime's CPU provider."""

    name = "cpu"
    _provider = CPU_PROVIDER

    def _options(self, options: Any) -> None:
        options.intra_op_num_threads = cpu_threads()
        options.inter_op_num_threads = 1  # both graphs are chains: nothing to run side by side
        # The arena makes vit_mini's encode a quarter faster (290 for 380 ms on 2 busy cores) for
        # 60 MB more at the peak (230 MB). A large encoder takes seconds and would keep gigabytes.
        encoder_bytes = self._paths[ENCODER.part].stat().st_size
        options.enable_cpu_mem_arena = encoder_bytes <= _ARENA_MAX_BYTES
        # Idle threads that spin would take the cores from the other session, and from the reader.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Tails of softmax and of click maps: a CPU takes many times longer over denormal numbers.
        options.add_session_config_entry("session.set_denormal_as_zero", "1")

    def restore(self, embedding: NDArray[np.float32]) -> Embedding:
        return HostEmbedding(embedding)

    def _encode_one(self, session: Any, feeds: Mapping[str, NDArray[Any]]) -> Embedding:
        return HostEmbedding(session.run(["embedding"], dict(feeds))[0][0])

    def _decode_batch(
        self, session: Any, embeddings: Sequence[Embedding], feeds: Mapping[str, NDArray[Any]]
    ) -> Sequence[NDArray[Any]]:
        batch = np.stack([_array(each) for each in embeddings])
        outputs: list[NDArray[Any]] = session.run(
            list(DECODER.outputs), {"embedding": batch, **feeds}
        )
        return outputs


class CudaBackend(OnnxRuntimeBackend):
    """ONNX Runtime's CUDA provider with I/O binding."""

    name = "cuda"
    _provider = CUDA_PROVIDER
    _provider_options: ClassVar[Mapping[str, str]] = {
        # TF32 has 10 bits of mantissa: an fp32 bundle would not hold the gates it was proven by.
        "use_tf32": "0",
        # The default tries every algorithm of every convolution at the first run; SAM has few.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The default doubles what it takes: memory that other programs and embeddings could use.
        "arena_extend_strategy": "kSameAsRequested",
    }

    def restore(self, embedding: NDArray[np.float32]) -> Embedding:
        with self._faults("take an embedding back"):
            value = self._ort.OrtValue.ortvalue_from_numpy(embedding[None], "cuda", 0)
        return OrtDeviceEmbedding(value)

    def _encode_one(self, session: Any, feeds: Mapping[str, NDArray[Any]]) -> Embedding:
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        binding.bind_output("embedding", "cuda")
        session.run_with_iobinding(binding)
        return OrtDeviceEmbedding(binding.get_outputs()[0])

    def _decode_batch(
        self, session: Any, embeddings: Sequence[Embedding], feeds: Mapping[str, NDArray[Any]]
    ) -> Sequence[NDArray[Any]]:
        # ONNX Runtime cannot join device tensors: one run each costs less than a trip to the host.
        answers = [
            self._decode_one(session, each, {name: a[i : i + 1] for name, a in feeds.items()})
            for i, each in enumerate(embeddings)
        ]
        return [np.concatenate(parts) for parts in zip(*answers, strict=True)]

    def _decode_one(
        self, session: Any, embedding: Embedding, feeds: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[Any]]:
        if not isinstance(embedding, OrtDeviceEmbedding):
            raise TypeError(f"an embedding of another backend: {type(embedding).__name__}")
        binding = session.io_binding()
        binding.bind_ortvalue_input("embedding", embedding.value)
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in DECODER.outputs:
            binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding)
        outputs: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
        return outputs


def open_cpu(bundle: Bundle, timings: Timings) -> CpuBackend:
    """ONNX Runtime on the CPU.

    Raises:
        BackendError: onnxruntime is not installed.
        BundleError: the bundle holds no ONNX graphs.
    """
    with timings.stage("import onnxruntime"):
        ort = import_onnxruntime("cpu")
    return CpuBackend(ort, bundle, f"CPU, {cpu_threads()} threads", timings)


def open_cuda(bundle: Bundle, timings: Timings) -> CudaBackend:
    """ONNX Runtime's CUDA provider.

    Raises:
        BackendError: no GPU, onnxruntime-gpu missing, or its CUDA provider does not start.
        BundleError: the bundle holds no ONNX graphs.
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
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN from NVIDIA's wheels, where those are installed
    backend = CudaBackend(ort, bundle, gpus.devices[0].name, timings)
    backend.load()  # missing libraries show only now
    return backend


def import_onnxruntime(extra: str) -> Any:
    """The module, or an error that names what to install.

    Args:
        extra: ``cpu`` or ``gpu``, for the message.

    Raises:
        BackendError: missing, or its folder without its library (left by uninstalling one of the
            two packages that share it).
    """
    mend = f"pip install 'samihs[{extra}]'"
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(f"onnxruntime is not installed ({error}): {mend}") from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise BackendError(
            "onnxruntime is installed in part: onnxruntime and onnxruntime-gpu overwrite each "
            f"other; pip uninstall both, then {mend}"
        )
    return onnxruntime


def cpu_threads() -> int:
    """Cores this process may run on: containers and taskset allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def _array(embedding: Embedding) -> NDArray[np.float32]:
    if not isinstance(embedding, HostEmbedding):
        raise TypeError(f"an embedding of another backend: {type(embedding).__name__}")
    return embedding.array


def _types(tensors: Sequence[Any]) -> dict[str, str]:
    names = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(uint8)": "uint8"}
    return {each.name: names.get(each.type, each.type) for each in tensors}
