"""ONNX Runtime on the CPU (``cpu``).

Sessions are created when first needed: a run that only encodes loads no decoder.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.base import Decoded, Embedding
from samihs_runtime.backends.contract import DECODER, ENCODER, GraphContract, prior_feeds
from samihs_runtime.backends.cpu_threads import cpu_threads
from samihs_runtime.backends.flushed import FLUSHING, FlushedSession
from samihs_runtime.backends.onnx_runtime import (
    CPU_PROVIDER,
    EXACT_INT8,
    SessionMaker,
    faults_of,
    import_onnxruntime,
)
from samihs_runtime.bundle import Bundle
from samihs_runtime.closing import Closing, close_all
from samihs_runtime.errors import BackendError
from samihs_runtime.timing import Timings

_SLOWER_ON_CPU = ("SkipLayerNormFusion",)
"""Fuses a sum with the norm after it; for 4,096 tokens of 256 its kernel takes 3.7 ms, while sum
and norm separately take 1.3 ms (onnxruntime 1.32, 2 threads)."""


@dataclass(frozen=True, eq=False)
class HostEmbedding:
    """An embedding [E, G, G] in host memory."""

    array: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def numpy(self) -> NDArray[np.float32]:
        return self.array.copy()


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
            return [_encoded(session, hu[i : i + 1], window[i : i + 1]) for i in range(len(hu))]

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


def _encoded(
    session: FlushedSession, hu: NDArray[np.float32], window: NDArray[np.float32]
) -> HostEmbedding:
    """The embedding of one slice: ``hu`` [1, 1, S, S], ``window`` [1, 2]."""
    (embeddings,) = session.run(["embedding"], {"hu": hu, "window": window})  # [1, E, G, G]
    return HostEmbedding(embeddings[0])


def _array(embedding: Embedding) -> NDArray[np.float32]:
    if not isinstance(embedding, HostEmbedding):
        raise TypeError(f"an embedding of another backend: {type(embedding).__name__}")
    return embedding.array
