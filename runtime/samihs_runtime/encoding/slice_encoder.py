"""Encode slices, each at most once: look in memory, then on disk, then run the encoder in batches.

::

    hu ── key (pixels and bundle) ── ByteLRU ── EmbeddingStore (if one was given) ── Backend
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.base import Backend, Embedding
from samihs_runtime.bundle import Bundle
from samihs_runtime.encoding.cache import ByteLRU
from samihs_runtime.encoding.embedding_store import EmbeddingStore
from samihs_runtime.encoding.preprocessing import as_pixels, window_of
from samihs_runtime.encoding.slice_frame import SliceFrame
from samihs_runtime.encoding.turns import Turns
from samihs_runtime.errors import BackendError, DeviceMemoryError
from samihs_runtime.geometry import aspect_of
from samihs_runtime.timing import Timings

R = TypeVar("R")
Slice = NDArray[np.int16] | NDArray[np.float32]
Spacing = tuple[float, float]
"""mm between rows, mm between columns, as in PixelSpacing."""


@dataclass(frozen=True, eq=False)
class EncodedSlice:
    """One encoded slice: a handle for clicks, tied to its segmenter."""

    embedding: Embedding
    frame: SliceFrame
    window: tuple[float, float]
    """Low and high HU that the encoder saw."""
    key: str
    """Hash of bundle, pixels and their shape."""

    @property
    def nbytes(self) -> int:
        """Bytes of its embedding."""
        return self.embedding.nbytes


@dataclass(frozen=True, eq=False)
class _Given:
    """A slice as it was given."""

    key: str
    pixels: NDArray[np.float32]
    """[rows, columns] HU."""
    aspect: float
    """Height of a pixel divided by its width."""


@dataclass(frozen=True, eq=False)
class _Job:
    """A slice in the form that the encoder takes."""

    key: str
    frame: SliceFrame
    window: tuple[float, float]
    hu: NDArray[np.float32]
    """[S, S]."""


class SliceEncoder:
    """The encoder's side of a segmenter. Safe for several threads; only one encodes at a time."""

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        cache_bytes: int,
        timings: Timings,
        store: EmbeddingStore | None = None,
    ) -> None:
        self.turns = Turns()
        self.cache: ByteLRU[EncodedSlice] = ByteLRU(cache_bytes)
        self._bundle = bundle
        self._backend = backend
        self._timings = timings
        self._store = store
        self._closed = False

    @property
    def batch_size(self) -> int:
        """How many slices are best encoded in one call when no one is waiting for a single one."""
        return self._backend.encode_batch

    @property
    def has_store(self) -> bool:
        """Whether embeddings outlive the process."""
        return self._store is not None

    def encode(
        self,
        slices: Sequence[Slice],
        spacings: Sequence[Spacing] | None = None,
        *,
        background: bool,
        keep: bool = True,
    ) -> list[EncodedSlice]:
        """Encode slices in one call of the backend, except those already encoded.

        Args:
            slices: [rows, columns] Hounsfield units each, of any matrix size.
            spacings: pixel spacing of each slice; None for square pixels.
            background: whether slices that someone is waiting for go first.
            keep: whether the result stays in memory after its handles are gone.

        Raises:
            StudyError: not a two-dimensional slice of finite values.
            BackendError: the device failed, its memory is too small for one slice, or the segmenter
                is closed.
        """
        aspects = [1.0] * len(slices) if spacings is None else [aspect_of(s) for s in spacings]
        given = [self._given(*each) for each in zip(slices, aspects, strict=True)]
        known = self._known([each.key for each in given])
        missing = {each.key: each for each in given if each.key not in known}
        if missing:
            jobs = {key: self._job(each) for key, each in missing.items()}
            known |= self._encode_missing(jobs, background, keep)
        return [known[each.key] for each in given]

    def forget(self, key: str) -> None:
        """Drop one embedding from memory and disk, so that it is encoded again when next needed."""
        self.cache.drop(key)
        if self._store is not None:
            self._store.drop(key)

    def close(self) -> None:
        """Drop all embeddings and close the backend, after the encode in progress."""
        with self.turns.take(background=False):
            self._closed = True
            self.cache.clear()
            self._backend.close()

    def _known(self, keys: Sequence[str]) -> dict[str, EncodedSlice]:
        found = {key: self.cache.get(key) for key in dict.fromkeys(keys)}
        return {key: each for key, each in found.items() if each is not None}

    def _given(self, hu: Slice, aspect: float) -> _Given:
        pixels = as_pixels(hu)
        return _Given(_pixel_key(self._bundle.id, pixels, aspect), pixels, aspect)

    def _job(self, given: _Given) -> _Job:
        manifest = self._bundle.manifest
        rows, columns = given.pixels.shape
        frame = SliceFrame(rows, columns, manifest.slice_size, given.aspect)
        window = window_of(given.pixels, manifest.window)
        return _Job(given.key, frame, window, frame.slice_to_model(given.pixels))

    def _encode_missing(
        self, jobs: dict[str, _Job], background: bool, keep: bool
    ) -> dict[str, EncodedSlice]:
        with self.turns.take(background=background):
            if self._closed:
                raise BackendError("the segmenter is closed: make a new one")
            done = self._known(list(jobs))  # another thread may have encoded some meanwhile
            missing = [job for key, job in jobs.items() if key not in done]
            restored = self._restore(missing)
            fresh = [job for job in missing if job.key not in restored]
            made = self._run(fresh) if fresh else {}
            embeddings = {**restored, **made}
            for job in missing:
                done[job.key] = EncodedSlice(embeddings[job.key], job.frame, job.window, job.key)
                if keep:
                    self.cache.put(job.key, done[job.key])
            if self._store is not None:
                for key, embedding in made.items():
                    self._store.put(key, embedding.numpy())
        return done

    def _restore(self, jobs: Sequence[_Job]) -> dict[str, Embedding]:
        """Load those that are on disk to where the backend keeps its embeddings."""
        restored = {}
        for job in jobs:
            array = self._store.get(job.key) if self._store is not None else None
            if array is not None:
                restored[job.key] = self._with_room(partial(self._backend.restore, array))
        return restored

    def _run(self, jobs: Sequence[_Job]) -> dict[str, Embedding]:
        hu = np.stack([job.hu for job in jobs])[:, None]  # [B, 1, S, S]
        window = np.asarray([job.window for job in jobs], np.float32)  # [B, 2]
        with self._timings.stage("encode"):
            embeddings = self._embed(hu, window)
        return {job.key: each for job, each in zip(jobs, embeddings, strict=True)}

    def _embed(self, hu: NDArray[np.float32], window: NDArray[np.float32]) -> Sequence[Embedding]:
        """Encode; if memory is short even for an empty cache, halve the batch."""
        try:
            return self._with_room(partial(self._backend.encode, hu, window))
        except DeviceMemoryError:
            half = len(hu) // 2
            if not half:
                raise
        first = self._embed(hu[:half], window[:half])
        return [*first, *self._embed(hu[half:], window[half:])]

    def _with_room(self, make: Callable[[], R]) -> R:
        """Make embeddings; if memory is short, once more with an empty cache."""
        try:
            return make()
        except DeviceMemoryError:
            self.cache.clear()  # frees every embedding that is not still in use elsewhere
        return make()


def _pixel_key(bundle_id: str, pixels: NDArray[np.float32], aspect: float) -> str:
    """blake2b over bundle, matrix size, pixels and their shape: 1 ms for 512 x 512."""
    oblong = "" if aspect == 1 else f"/{aspect!r}"  # square ones keep the keys of earlier stores
    digest = hashlib.blake2b(f"{bundle_id}/{pixels.shape}{oblong}".encode(), digest_size=20)
    digest.update(pixels.data)
    return digest.hexdigest()
