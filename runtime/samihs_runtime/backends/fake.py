"""A backend in memory, without a model, for testing everything around one.

It answers a click on something bright with the connected region of similar density. That is not a
segmentation of a hemorrhage, and ``--backend`` does not offer it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samihs_runtime.backends.base import Decoded, Embedding
from samihs_runtime.bundle.manifest import Manifest
from samihs_runtime.closing import Closing
from samihs_runtime.errors import BackendError
from samihs_runtime.segmentation import BACKGROUND, BOX_MAX, BOX_MIN, FOREGROUND

FOUND_SCORE, NOTHING_SCORE = 0.9, 0.05
LOGIT = 8.0
"""Magnitude of the logits well inside and outside the answer."""


@dataclass(frozen=True, eq=False)
class FakeEmbedding:
    """The slice itself."""

    hu: NDArray[np.float32]
    """[S, S]."""

    @property
    def nbytes(self) -> int:
        return self.hu.nbytes

    def numpy(self) -> NDArray[np.float32]:
        return self.hu[None].copy()


class FakeBackend(Closing):
    """Region growing between ``blood_hu`` bounds, within ``tolerance`` HU of the clicked spot."""

    name = "fake"
    precision = "fp32"
    description = "in-memory fake: region growing, no model"

    def __init__(
        self,
        slice_size: int,
        mask_size: int,
        *,
        blood_hu: tuple[float, float] = (45.0, 95.0),
        tolerance: float = 20.0,
        encode_batch: int = 1,
    ) -> None:
        self.slice_size = slice_size
        self.mask_size = mask_size
        self.blood_hu = blood_hu
        self.tolerance = tolerance
        self.encode_batch = encode_batch
        self.encodes = self.decodes = 0
        self.closed = False

    @classmethod
    def for_manifest(cls, manifest: Manifest) -> Self:
        """A backend with the bundle's sizes."""
        return cls(manifest.slice_size, manifest.mask_size)

    def load(self) -> None:
        """There is nothing to load."""
        self._check_open()

    def warm_up(self) -> None:
        """There is nothing to do."""
        self._check_open()

    def encode(self, hu: NDArray[np.float32], window: NDArray[np.float32]) -> Sequence[Embedding]:
        """See :class:`samihs_runtime.backends.base.Backend`."""
        self._check_open()
        expected = (len(window), 1, self.slice_size, self.slice_size)
        if hu.shape != expected:
            raise ValueError(f"hu of shape {hu.shape}, expected {expected}")
        self.encodes += len(hu)
        return [FakeEmbedding(each[0].copy()) for each in hu]

    def restore(self, embedding: NDArray[np.float32]) -> Embedding:
        """See :class:`samihs_runtime.backends.base.Backend`."""
        self._check_open()
        return FakeEmbedding(embedding[0])

    def decode(
        self,
        embeddings: Sequence[Embedding],
        points: NDArray[np.float32],
        labels: NDArray[np.int32],
        prior: NDArray[np.float32] | None,
    ) -> Decoded:
        """See :class:`samihs_runtime.backends.base.Backend`; a prior has no effect."""
        self._check_open()
        self.decodes += 1
        masks = np.stack(
            [
                self._grow(each.numpy()[0], spots, kinds)
                for each, spots, kinds in zip(embeddings, points, labels, strict=True)
            ]
        )
        scores = np.where(masks.any(axis=(1, 2)), FOUND_SCORE, NOTHING_SCORE)
        logits = np.stack([self._logits(mask) for mask in masks])
        return Decoded(logits, masks, scores.astype(np.float32))

    def close(self) -> None:
        self.closed = True

    def _grow(
        self,
        hu: NDArray[np.float32],
        points: NDArray[np.float32],
        labels: NDArray[np.int32],
    ) -> NDArray[np.bool_]:
        smooth = ndimage.uniform_filter(hu, 3, mode="nearest")
        where = np.clip(np.rint(points).astype(int), 0, self.slice_size - 1)  # x, y
        mask = np.zeros(hu.shape, dtype=bool)
        for x, y in where[labels == FOREGROUND]:
            seed = smooth[y, x]
            if self.blood_hu[0] <= seed <= self.blood_hu[1]:
                regions, _ = ndimage.label(np.abs(smooth - seed) <= self.tolerance)
                mask |= regions == regions[y, x]
        if BOX_MIN in labels:
            (x0, y0), (x1, y1) = where[labels == BOX_MIN][0], where[labels == BOX_MAX][0]
            box = np.zeros_like(mask)
            box[y0 : y1 + 1, x0 : x1 + 1] = True
            blood = (smooth >= self.blood_hu[0]) & (smooth <= self.blood_hu[1])
            mask = box & (mask if (labels == FOREGROUND).any() else blood)
        for x, y in where[labels == BACKGROUND]:
            mask[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4] = False
        return mask

    def _logits(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """[M, M]: the mask's mean over each cell, between -LOGIT and LOGIT."""
        side = self.mask_size
        signed = np.where(mask, LOGIT, -LOGIT)
        factor = self.slice_size / side
        zoomed = ndimage.affine_transform(
            ndimage.uniform_filter(signed, max(1, round(factor)), mode="nearest"),
            np.asarray((factor, factor)),
            offset=0.5 * factor - 0.5,
            output_shape=(side, side),
            order=1,
            mode="nearest",
        )
        return zoomed.astype(np.float32)

    def _check_open(self) -> None:
        if self.closed:
            raise BackendError("the fake backend is closed: open a new one")
