"""The backend protocol: encode slices, decode prompts, close.

A backend owns its embeddings: on a GPU they never leave device memory. Callers hold them as opaque
handles and pass them back to the backend that made them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class Embedding(Protocol):
    """One encoded slice, wherever the backend keeps it."""

    @property
    def nbytes(self) -> int:
        """Bytes that it occupies, for the cache's bound."""
        ...

    def numpy(self) -> NDArray[np.float32]:
        """A host copy [E, G, G] (for tests, and for spilling to disk)."""
        ...


@dataclass(frozen=True, eq=False)
class Decoded:
    """The decoder's outputs for a batch of B prompts, on the host."""

    logits: NDArray[np.float32]
    """[B, M, M]."""
    masks: NDArray[np.bool_]
    """[B, S, S], at the bundle's slice size."""
    scores: NDArray[np.float32]
    """[B]."""


class Backend(Protocol):
    """What the segmenter needs in order to run the graphs. A context manager."""

    @property
    def name(self) -> str:
        """Short name, as ``--backend`` takes it: ``tensorrt``, ``cuda``, ``cpu``, ``fake``."""
        ...

    @property
    def description(self) -> str:
        """What runs, in words, for the report: package, version, device, precision."""
        ...

    @property
    def precision(self) -> str:
        """Of the graphs or engines that run, such as ``fp16``."""
        ...

    @property
    def encode_batch(self) -> int:
        """How many slices are best encoded in one call when no one is waiting for a single one."""
        ...

    def load(self) -> None:
        """Load both graphs, if opening has not done so."""
        ...

    def warm_up(self) -> None:
        """Do now what the first encode and the first click of each kind would wait for."""
        ...

    def encode(self, hu: NDArray[np.float32], window: NDArray[np.float32]) -> Sequence[Embedding]:
        """Encode B slices: ``hu`` [B, 1, S, S], ``window`` [B, 2] (low, high HU)."""
        ...

    def restore(self, embedding: NDArray[np.float32]) -> Embedding:
        """Turn an array [E, G, G] from :meth:`Embedding.numpy` back into an embedding."""
        ...

    def decode(
        self,
        embeddings: Sequence[Embedding],
        points: NDArray[np.float32],
        labels: NDArray[np.int32],
        prior: NDArray[np.float32] | None,
    ) -> Decoded:
        """Decode B prompts of N points each, prompt i on embedding i.

        ``points`` [B, N, 2] in pixels of the S x S slice, ``labels`` [B, N] (1 foreground,
        0 background, 2/3 box corners, -1 not a point), ``prior`` [B, M, M] logits or None.
        """
        ...

    def close(self) -> None:
        """Free everything; calling it twice is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
