"""The segmenter where device memory is short, and where numbers are not finite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_runtime.backends.base import Decoded, Embedding
from samihs_runtime.backends.fake import FakeBackend
from samihs_runtime.bundle import Bundle
from samihs_runtime.encoding.cache import ByteLRU
from samihs_runtime.encoding.embedding_store import EmbeddingStore
from samihs_runtime.encoding.slice_encoder import EncodedSlice
from samihs_runtime.errors import DeviceMemoryError, NonFiniteError
from samihs_runtime.segmentation import Prompt
from samihs_runtime.segmenter import Segmenter

from .tiny_model import GRID, SIZE

CLICK = Prompt(points=((40, 24),), labels=(1,))


class Small(FakeBackend):
    """A GPU whose memory is full, as long as ``full``, while the cache keeps anything."""

    full = False
    cache: ByteLRU[EncodedSlice]

    def encode(self, hu: NDArray[np.float32], window: NDArray[np.float32]) -> Sequence[Embedding]:
        self._check_room()
        return super().encode(hu, window)

    def restore(self, embedding: NDArray[np.float32]) -> Embedding:
        self._check_room()
        return super().restore(embedding)

    def _check_room(self) -> None:
        if self.full and self.cache.nbytes:
            raise DeviceMemoryError("full")


@pytest.mark.parametrize("stored", [False, True])
def test_full_device_memory_empties_the_cache_and_tries_again(
    tiny_bundle: Path, tmp_path: Path, stored: bool
) -> None:
    """Whether the slice has to be encoded or lies on disk."""
    backend, one = Small(SIZE, GRID), np.ones((SIZE, SIZE), np.float32)
    store = EmbeddingStore(tmp_path / "store", "fake", "fp32") if stored else None
    with Segmenter(Bundle.open(tiny_bundle), backend, store=store) as segmenter:
        backend.cache = segmenter.encoder.cache
        segmenter.encode(one)
        backend.cache.clear()
        segmenter.encode(np.zeros((SIZE, SIZE), np.float32))
        backend.full = True
        again = segmenter.encode(one)
        assert backend.cache.nbytes == again.nbytes
        assert backend.encodes == (2 if stored else 3)


class Overflowing(FakeBackend):
    """A GPU that is sick while it encodes, as long as ``sick``."""

    sick = True

    def encode(self, hu: NDArray[np.float32], window: NDArray[np.float32]) -> Sequence[Embedding]:
        if self.sick:
            hu = hu.copy()
            hu[:, :, 0, 0] = np.nan
        return super().encode(hu, window)

    def decode(
        self,
        embeddings: Sequence[Embedding],
        points: NDArray[np.float32],
        labels: NDArray[np.int32],
        prior: NDArray[np.float32] | None,
    ) -> Decoded:
        decoded = super().decode(embeddings, points, labels, prior)
        for index, each in enumerate(embeddings):
            if not np.isfinite(each.numpy()).all():
                decoded.scores[index] = np.nan
                decoded.masks[index] = False
        return decoded


@pytest.mark.parametrize("stored", [False, True])
def test_a_numeric_failure_is_no_answer_and_is_not_kept(
    tiny_bundle: Path, tmp_path: Path, bright_slice: NDArray[np.float32], stored: bool
) -> None:
    backend = Overflowing(SIZE, 4 * GRID)
    store = EmbeddingStore(tmp_path / "store", "fake", "fp32") if stored else None
    with Segmenter(Bundle.open(tiny_bundle), backend, store=store) as segmenter:
        bad = segmenter.encode(bright_slice)
        backend.sick = False
        good = segmenter.encode(bright_slice + 1)
        with pytest.raises(NonFiniteError, match=r"1 of 2 prompts .*not finite.*samihs-doctor"):
            segmenter.predict_batch([bad, good], [CLICK] * 2)
        assert segmenter.encoder.cache.nbytes == good.nbytes
        assert not list((tmp_path / "store").glob(f"{bad.key}.*"))
        answer = segmenter.predict(segmenter.encode(bright_slice), CLICK)
        assert answer.mask[24, 40]
        assert backend.encodes == 3


def test_a_bad_embedding_that_lies_on_disk_is_removed_there(
    tiny_bundle: Path, tmp_path: Path, bright_slice: NDArray[np.float32]
) -> None:
    backend, store = Overflowing(SIZE, 4 * GRID), EmbeddingStore(tmp_path, "fake", "fp32")
    backend.sick = False
    with Segmenter(Bundle.open(tiny_bundle), backend, store=store) as segmenter:
        encoded = segmenter.encode(bright_slice)
        assert len(list(tmp_path.glob(f"{encoded.key}.*"))) == 1
        encoded.embedding.hu[0, 0] = np.nan  # type: ignore[attr-defined]
        with pytest.raises(NonFiniteError, match="not finite"):
            segmenter.predict(encoded, CLICK)
    assert list(tmp_path.glob("*.embedding")) == []
    assert store.nbytes == 0


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_one_logit_that_is_not_finite_is_a_failure(
    tiny_bundle: Path,
    bright_slice: NDArray[np.float32],
    number: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = FakeBackend(SIZE, 4 * GRID)
    decode = backend.decode

    def spoiled(*given: Any) -> Decoded:
        decoded = decode(*given)
        decoded.logits[0, -1, -1] = number
        return decoded

    monkeypatch.setattr(backend, "decode", spoiled)
    with (
        Segmenter(Bundle.open(tiny_bundle), backend) as segmenter,
        pytest.raises(NonFiniteError, match="not finite"),
    ):
        segmenter.predict(segmenter.encode(bright_slice), CLICK)
