"""ONNX Runtime: its module, its sessions, and the CPU backend (``cpu``).

On the CPU, sessions are created when first needed: a run that only encodes loads no decoder. The
GPU backend is in ``onnx_cuda.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.base import Decoded, Embedding
from samihs_runtime.backends.contract import DECODER, ENCODER, GraphContract, prior_feeds
from samihs_runtime.backends.cpu_threads import cpu_threads
from samihs_runtime.backends.exchange import exchanged_graph, exchanged_tensors
from samihs_runtime.backends.flushed import FLUSHING, FlushedSession
from samihs_runtime.bundle import Bundle
from samihs_runtime.closing import Closing, close_all
from samihs_runtime.errors import BackendError, BundleError, DeviceMemoryError
from samihs_runtime.timing import Timings

CPU_PROVIDER = "CPUExecutionProvider"
_FULL_MEMORY = ("Failed to allocate memory", "out of memory", "ALLOC_FAILED")
"""What ONNX Runtime's arena, CUDA and cuBLAS or cuDNN report if memory is short."""
_ERRORS_ONLY = 3
"""ONNX Runtime's severity: 0 verbose, 1 info, 2 warning, 3 error."""
_SLOWER_ON_CPU = ("SkipLayerNormFusion",)
"""Fuses a sum with the norm after it; for 4,096 tokens of 256 its kernel takes 3.7 ms, while sum
and norm separately take 1.3 ms (onnxruntime 1.32, 2 threads)."""
EXACT_INT8 = ("session.x64quantprecision", "1")
"""Session entry: sum 8-bit products without overflow. x86 CPUs without VNNI add pairs of them in 16
bits, which saturate, so that answers of int8 graphs were far off. With VNNI it changes nothing."""
_DOING = {ENCODER.part: "encode a slice", DECODER.part: "answer a prompt"}


@dataclass(frozen=True, eq=False)
class HostEmbedding:
    """An embedding [E, G, G] in host memory."""

    array: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def numpy(self) -> NDArray[np.float32]:
        return self.array.copy()


class SessionMaker:
    """Makes the sessions of one bundle, each checked against the contract."""

    def __init__(self, ort: Any, bundle: Bundle) -> None:
        """Loads nothing yet.

        Args:
            ort: the onnxruntime module.
            bundle: an opened bundle.

        Raises:
            BundleError: it has no ONNX graphs, or the chosen adapters do not fit them.
        """
        files = bundle.graph("onnx")
        bundle.adapter_tensors("onnx", files.precision)  # raises here, not at the first slice
        self.ort = ort
        self.precision = files.precision
        self._bundle = bundle
        self._paths = {ENCODER.part: files.encoder, DECODER.part: files.decoder}

    def make(
        self,
        contract: GraphContract,
        provider: str,
        provider_options: Mapping[str, str],
        configure: Callable[[Any], None] = lambda options: None,
        without: Sequence[str] = (),
    ) -> Any:
        """Make a session for one graph, on the named provider and no other.

        Args:
            contract: which graph.
            provider: such as ``CPUExecutionProvider``.
            provider_options: the provider's options.
            configure: sets further ``SessionOptions``.
            without: ONNX Runtime's optimizers to disable.

        Raises:
            BundleError: ONNX Runtime refuses the graph, or its tensors do not match the contract.
            BackendError: the provider did not start; DeviceMemoryError if memory is short.
        """
        path = self._paths[contract.part]
        tensors = exchanged_tensors(self._bundle, "onnx", self.precision, contract.part)
        options = self.ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        configure(options)
        graph = str(path) if tensors is None else exchanged_graph(path, tensors)
        try:
            session = self.ort.InferenceSession(
                graph,
                sess_options=options,
                providers=[(provider, dict(provider_options))],
                disabled_optimizers=list(without),
                enable_fallback=0,  # otherwise it prints a message and continues on the CPU
            )
        except Exception as error:  # onnxruntime's own classes derive from Exception
            if _is_full(error):
                raise DeviceMemoryError(f"no memory for the {contract.part}: {error}") from error
            raise BundleError(
                f"onnxruntime {self.ort.__version__} cannot load {path}: {error}; export the "
                "bundle again, or install a newer onnxruntime"
            ) from error
        if provider not in session.get_providers():
            raise BackendError(
                f"onnxruntime's {provider} did not start and it fell back to "
                f"{', '.join(session.get_providers())}: CUDA or cuDNN of the version it wants is "
                "missing; samihs-doctor says which"
            )
        contract.check(_types(session.get_inputs()), _types(session.get_outputs()), str(path))
        return session


@contextmanager
def faults_of(backend: str, contract: GraphContract) -> Iterator[None]:
    """Turn exceptions that ONNX Runtime raises during a run into our own errors.

    Raises:
        DeviceMemoryError: memory was short.
        BackendError: anything else.
    """
    try:
        yield
    except Exception as error:  # onnxruntime's own classes derive from Exception
        kind = DeviceMemoryError if _is_full(error) else BackendError
        raise kind(f"the {backend} backend could not {_DOING[contract.part]}: {error}") from error


class CpuBackend(Closing):
    """ONNX Runtime's CPU provider."""

    name = "cpu"
    encode_batch = 1  # slices are encoded one by one: see encode

    def __init__(self, sessions: SessionMaker, low_side: int, timings: Timings) -> None:
        """``low_side``: M of the low-resolution logits [M, M]."""
        version = sessions.ort.__version__
        self.precision = sessions.precision
        self.description = (
            f"onnxruntime {version}, CPU, {cpu_threads()} threads, {sessions.precision}"
        )
        self._maker = sessions
        self._low_side = low_side
        self._timings = timings
        self._sessions: dict[str, FlushedSession] = {}
        self._lock = threading.Lock()
        self._closed = False

    def load(self) -> None:
        """Make both sessions now."""
        self._session(ENCODER)
        self._session(DECODER)

    def warm_up(self) -> None:
        """Load the graphs: a first run on the CPU needs nothing else."""
        self.load()

    def encode(self, hu: NDArray[np.float32], window: NDArray[np.float32]) -> Sequence[Embedding]:
        """See :class:`samihs_runtime.backends.base.Backend`.

        Slices are encoded one by one: a batch takes B times the memory and no less time.
        """
        session = self._session(ENCODER)
        with faults_of(self.name, ENCODER):
            return [
                HostEmbedding(
                    session.run(["embedding"], {"hu": hu[i : i + 1], "window": window[i : i + 1]})[
                        0
                    ][0]
                )
                for i in range(len(hu))
            ]

    def restore(self, embedding: NDArray[np.float32]) -> Embedding:
        """See :class:`samihs_runtime.backends.base.Backend`."""
        return HostEmbedding(embedding)

    def decode(
        self,
        embeddings: Sequence[Embedding],
        points: NDArray[np.float32],
        labels: NDArray[np.int32],
        prior: NDArray[np.float32] | None,
    ) -> Decoded:
        """See :class:`samihs_runtime.backends.base.Backend`."""
        session = self._session(DECODER)
        with faults_of(self.name, DECODER):
            feeds = {
                "embedding": np.stack([_array(each) for each in embeddings]),
                "points": points,
                "labels": labels,
                **prior_feeds(prior, len(points), self._low_side),
            }
            logits, masks, scores = session.run(list(DECODER.outputs), feeds)
        return Decoded(logits[:, 0], masks.astype(bool), scores)

    def close(self) -> None:
        """Free both sessions, after the runs in progress.

        In a process forked after one was made nothing is freed: it belongs to the parent, and ONNX
        Runtime would wait for its workers, which the child does not have.
        """
        if not all(each.is_ours for each in list(self._sessions.values())):
            return
        with self._lock:
            self._closed = True
            close_all(self._sessions.values())
            self._sessions.clear()

    def _session(self, contract: GraphContract) -> FlushedSession:
        for each in list(self._sessions.values()):
            each.check()  # before the lock: a thread that held it at the fork cannot release it
        with self._lock:
            if self._closed:
                raise BackendError(f"the {self.name} backend is closed: open a new one")
            if contract.part not in self._sessions:
                with self._timings.stage(f"load {contract.part}"):
                    self._sessions[contract.part] = FlushedSession.made(
                        partial(self._made, contract), f"samihs-{contract.part}"
                    )
            return self._sessions[contract.part]

    def _made(self, contract: GraphContract) -> Any:
        return self._maker.make(contract, CPU_PROVIDER, {}, self._configure, _SLOWER_ON_CPU)

    def _configure(self, options: Any) -> None:
        options.intra_op_num_threads = cpu_threads()
        options.inter_op_num_threads = 1  # both graphs are chains: nothing to run in parallel
        # The arena keeps the peak memory of a run (ViT-B: 1.2 to 1.6 GB). If it were returned and
        # allocated again, its pages would cost the next run a sixth of its time. A planned memory
        # pattern would be a second block in addition: 0.7 GB more, and a second slow run.
        options.enable_mem_pattern = False
        # Idle threads that spin would take cores away from the other session and the reader.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry(*FLUSHING)
        options.add_session_config_entry(*EXACT_INT8)


def open_cpu(bundle: Bundle, timings: Timings) -> CpuBackend:
    """Open ONNX Runtime on the CPU.

    Raises:
        BackendError: onnxruntime is not installed.
        BundleError: the bundle has no ONNX graphs.
    """
    with timings.stage("import onnxruntime"):
        ort = import_onnxruntime("cpu")
    return CpuBackend(SessionMaker(ort, bundle), bundle.manifest.mask_size, timings)


def import_onnxruntime(extra: str) -> Any:
    """The module, or an error that names what to install.

    Args:
        extra: ``cpu`` or ``gpu``, for the message.

    Raises:
        BackendError: it is missing, or its folder lacks its library (the result of uninstalling one
            of the two packages that share the folder).
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


def _array(embedding: Embedding) -> NDArray[np.float32]:
    if not isinstance(embedding, HostEmbedding):
        raise TypeError(f"an embedding of another backend: {type(embedding).__name__}")
    return embedding.array


def _is_full(error: Exception) -> bool:
    return any(words in str(error) for words in _FULL_MEMORY)


def _types(tensors: Sequence[Any]) -> dict[str, str]:
    names = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(uint8)": "uint8"}
    return {each.name: names.get(each.type, each.type) for each in tensors}
