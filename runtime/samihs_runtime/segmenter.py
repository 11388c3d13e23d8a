"""Encode a slice once, click on it many times.

::

    with Segmenter.from_bundle(None) as segmenter:        # the shipped model, the best backend
        encoded = segmenter.encode(series.hu[14], series.planes[14].spacing)
        answer = segmenter.predict(encoded, Prompt(points=((300, 260),), labels=(1,)))

A click needs only the decoder. Embeddings stay where the backend keeps them (device memory on a
GPU), in a cache bounded by bytes. One thread may encode while another clicks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.backends.base import Backend, Decoded
from samihs_runtime.bundle import Bundle, shipped_bundle
from samihs_runtime.closing import Closing
from samihs_runtime.encoding.embedding_store import EmbeddingStore
from samihs_runtime.encoding.encode_ahead import SeriesSession
from samihs_runtime.encoding.slice_encoder import EncodedSlice, Slice, SliceEncoder, Spacing
from samihs_runtime.errors import BackendError, NonFiniteError, PromptError, UsageError
from samihs_runtime.prompts import check_prompt
from samihs_runtime.segmentation import Prediction, Prompt
from samihs_runtime.series import CTSeries
from samihs_runtime.timing import Timings

__all__ = ["DEFAULT_CACHE_MB", "EncodedSlice", "Segmenter"]

DEFAULT_CACHE_MB = 256.0
"""64 slices with a ViT-B at 1024 (4 MiB each): more than a head CT with 5 mm slices has."""


class Segmenter(Closing):
    """A bundle on a backend. A context manager; close it to free the backend."""

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        *,
        cache_mb: float = DEFAULT_CACHE_MB,
        reasons: tuple[str, ...] = (),
        timings: Timings | None = None,
        store: EmbeddingStore | None = None,
        score_threshold: float | None = None,
    ) -> None:
        self.bundle = bundle
        self.backend = backend
        self.reasons = reasons
        """Why this backend: the reasons why each one before it was refused, in words."""
        self.score_threshold = _threshold(bundle, score_threshold)
        """Answers whose score is below it are not found: the given one, or the bundle's own."""
        self.timings = timings if timings is not None else Timings()
        cache_bytes = int(cache_mb * 2**20)
        self.encoder = SliceEncoder(bundle, backend, cache_bytes, self.timings, store)
        self._decoder = threading.Lock()
        self._closed = False

    @classmethod
    def from_bundle(
        cls,
        path: str | os.PathLike[str] | None = None,
        backend: str = "auto",
        cache_mb: float = DEFAULT_CACHE_MB,
        store: str | os.PathLike[str] | None = None,
        adapters: str | None = None,
        precision: str | None = None,
        score_threshold: float | None = None,
    ) -> Self:
        """Open and verify a bundle, and choose where it runs.

        Args:
            path: the bundle's folder; None for the shipped one.
            backend: ``auto``, ``tensorrt``, ``cuda`` or ``cpu``. A named one is never replaced.
            cache_mb: bound on the embeddings kept in memory, MiB.
            store: folder that keeps embeddings for later runs (:class:`EmbeddingStore`); None
                keeps none.
            adapters: name of one of the bundle's adapter sets; None for the bundle's own.
            precision: of the graphs and engines, such as ``int8``; None takes float32 on a CPU,
                and the fastest of the engines that fit: fp8, int8, fp16, bf16, fp32.
            score_threshold: 0 to 1, in place of the bundle's own, such as ``samihs-calibrate``
                measures; None for the bundle's own.

        Raises:
            UsageError: the threshold is not between 0 and 1.
            BundleError: the bundle is missing, changed or unsafe, or has no such adapters or
                precision.
            OutputError: the store cannot be written.
            BackendError: no backend can run, or the named one cannot; gives the reason for each.
        """
        from samihs_runtime.backends.choose import choose

        timings = Timings()
        with timings.stage("verify bundle"):
            opened = Bundle.open(path if path is not None else shipped_bundle())
        bundle = opened.with_adapters(adapters).with_precision(precision)
        _threshold(bundle, score_threshold)  # a wrong one is refused before a backend is opened
        choice = choose(bundle, backend, timings)
        try:
            made_by = (choice.backend.name, choice.backend.precision)
            kept = None if store is None else EmbeddingStore(store, *made_by)
        except BaseException:
            choice.backend.close()
            raise
        return cls(
            bundle,
            choice.backend,
            cache_mb=cache_mb,
            reasons=choice.reasons,
            timings=timings,
            store=kept,
            score_threshold=score_threshold,
        )

    def load(self) -> None:
        """Load now what the first encode and the first click would otherwise wait for.

        On a GPU this is done when the segmenter is opened.

        Raises:
            BundleError: a graph cannot be loaded.
            BackendError: the backend is closed.
        """
        self._check_open()
        self.backend.load()

    def warm_up(self) -> None:
        """Load, run and capture now what the first user would otherwise wait for.

        For a server before its first user, and for measurements. A process that answers one click
        does not need it: a GPU backend captures 26 CUDA graphs here, of which that click needs two.
        Meanwhile no other thread of the process should allocate memory on the GPU.

        Raises:
            BackendError: the device failed, or the segmenter is closed.
        """
        self._check_open()
        with self._decoder, self.encoder.turns.take(background=False):
            self.backend.warm_up()

    def encode(self, hu: Slice, spacing: Spacing | None = None) -> EncodedSlice:
        """Encode one slice, or take it from the cache.

        Args:
            hu: [rows, columns] Hounsfield units, of any matrix size.
            spacing: mm between rows and between columns (``series.planes[z].spacing``): the model
                sees oblong pixels resampled to square ones. None for square pixels.

        Raises:
            StudyError: not a two-dimensional slice of finite values.
            BackendError: the device failed, or the segmenter is closed.
        """
        self._check_open()
        spacings = None if spacing is None else [spacing]
        return self.encoder.encode([hu], spacings, background=False)[0]

    def predict(
        self,
        encoded: EncodedSlice,
        prompt: Prompt,
        prior: NDArray[np.float32] | None = None,
    ) -> Prediction:
        """Answer one prompt on one encoded slice.

        Args:
            encoded: from :meth:`encode` of this segmenter.
            prompt: in pixels of the stored slice.
            prior: [M, M] logits of an earlier answer on the same slice.

        Raises:
            PromptError: the prompt is empty, or lies outside the slice.
            NonFiniteError: a score or a logit is not finite.
        """
        priors = None if prior is None else [prior]
        return self.predict_batch([encoded], [prompt], priors)[0]

    def predict_batch(
        self,
        encoded: Sequence[EncodedSlice],
        prompts: Sequence[Prompt],
        priors: Sequence[NDArray[np.float32]] | None = None,
    ) -> list[Prediction]:
        """Answer B prompts, prompt i on slice i, in one run of the decoder.

        All prompts must yield the same number of points: padding the shorter ones would change
        their answers (see :meth:`Prompt.arrays`).

        Raises:
            PromptError: a prompt is empty or outside its slice, or their lengths differ.
            NonFiniteError: a score or logit is not finite; its slice is encoded again next time.
            ValueError: the sequences differ in length.
        """
        self._check_open()
        if not prompts:
            return []
        points, labels = self._prompt_arrays(encoded, prompts)
        prior = None if priors is None else np.stack(priors).astype(np.float32, copy=False)
        if prior is not None and len(prior) != len(prompts):
            raise ValueError(f"{len(prior)} priors for {len(prompts)} prompts")
        with self.timings.stage("click"):
            with self._decoder:
                embeddings = [each.embedding for each in encoded]
                decoded = self.backend.decode(embeddings, points, labels, prior)
            self._check_finite(encoded, decoded)
            masks = [
                each.frame.mask_to_slice(logits, mask)
                for each, logits, mask in zip(encoded, decoded.logits, decoded.masks, strict=True)
            ]
        return [
            Prediction(mask, logits, float(score))
            for mask, logits, score in zip(masks, decoded.logits, decoded.scores, strict=True)
        ]

    def open(self, series: CTSeries, start: int | None = None) -> SeriesSession:
        """Encode a series ahead in the background, outward from a slice.

        Args:
            series: the series to be clicked on.
            start: zero-based slice to begin at; None for the middle one.

        Returns:
            A context manager that provides encoded slices and stops the background on exit.
        """
        self._check_open()
        return SeriesSession(self.encoder, series, start)

    def close(self) -> None:
        """Free the embeddings and the backend; calling it twice is harmless."""
        if self._closed:
            return
        self._closed = True
        with self._decoder:
            self.encoder.close()

    def _prompt_arrays(
        self, encoded: Sequence[EncodedSlice], prompts: Sequence[Prompt]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Points [B, N, 2] in the S x S slice and labels [B, N]."""
        points, labels = [], []
        for each, prompt in zip(encoded, prompts, strict=True):
            check_prompt(prompt, each.frame.rows, each.frame.columns)
            stored, kinds = prompt.arrays()
            points.append(each.frame.points_to_model(stored))
            labels.append(kinds)
        counts = sorted({len(each) for each in labels})
        if len(counts) > 1:
            raise PromptError(
                f"prompts of {' and '.join(map(str, counts))} points in one batch: padding would "
                "change their answers; batch prompts of equal length"
            )
        return np.stack(points), np.stack(labels)

    def _check_finite(self, encoded: Sequence[EncodedSlice], decoded: Decoded) -> None:
        """Refuse the result of an overflow: any threshold would take NaN for no hemorrhage."""
        finite = np.isfinite(decoded.scores) & np.isfinite(decoded.logits).all(axis=(1, 2))
        if finite.all():
            return
        for each, sound in zip(encoded, finite, strict=True):
            if not sound:  # the encoder may be at fault: its result must not be used again
                self.encoder.forget(each.key)
        raise NonFiniteError(
            f"the {self.backend.name} backend ({self.backend.description}) answered "
            f"{np.sum(~finite)} of {len(finite)} prompts with numbers that are not finite, "
            "expected a score and logits: take another --backend or --precision, and see "
            "samihs-doctor",
            reason="not_finite",
        )

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("the segmenter is closed: make a new one")


def _threshold(bundle: Bundle, given: float | None) -> float:
    """The given score threshold, or the bundle's own."""
    if given is None:
        return bundle.manifest.score_threshold
    if not 0 <= given <= 1:
        raise UsageError(f"score threshold {given:g}: expected 0 to 1")
    return float(given)
