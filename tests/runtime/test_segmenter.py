"""The segmenter: clicks, cache, matrix sizes, prompts, short memory, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_runtime.backends.base import Decoded, Embedding
from samihs_runtime.backends.fake import FakeBackend
from samihs_runtime.bundle import Bundle
from samihs_runtime.bundle.entries import WindowRule
from samihs_runtime.encoding.embedding_store import EmbeddingStore
from samihs_runtime.encoding.preprocessing import window_of
from samihs_runtime.encoding.slice_frame import SliceFrame
from samihs_runtime.errors import (
    BackendError,
    DeviceMemoryError,
    NonFiniteError,
    PromptError,
    StudyError,
)
from samihs_runtime.segmentation import Prompt
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.series import CTSeries, SlicePlane

from .tiny_model import GRID, LOW, SIZE, reference_logits

EMBEDDING_BYTES = SIZE * SIZE * 4  # the fake keeps the slice itself


def click(x: float, y: float) -> Prompt:
    return Prompt(points=((x, y),), labels=(1,))


@pytest.fixture
def fake(tiny_bundle: Path) -> Iterator[tuple[Segmenter, FakeBackend]]:
    backend = FakeBackend(SIZE, 4 * GRID)
    with Segmenter(Bundle.open(tiny_bundle), backend) as segmenter:
        yield segmenter, backend
    assert backend.closed


@pytest.fixture
def cpu(tiny_bundle: Path) -> Iterator[Segmenter]:
    with Segmenter.from_bundle(tiny_bundle, "cpu") as segmenter:
        yield segmenter


def series_of(hu: NDArray[np.float32]) -> CTSeries:
    planes = tuple(
        SlicePlane((0, 0, 5.0 * z), (1, 0, 0), (0, 1, 0), (0.5, 0.5), 5.0) for z in range(len(hu))
    )
    return CTSeries(hu, planes, np.full(len(hu), 5.0), (), "1.2.3", "test")


def test_a_click_gives_what_the_graphs_compute(
    cpu: Segmenter, bright_slice: NDArray[np.float32]
) -> None:
    prompt = click(40, 24)
    answer = cpu.predict(cpu.encode(bright_slice), prompt)
    expected = reference_logits(bright_slice, *prompt.arrays())
    np.testing.assert_allclose(answer.logits, expected, atol=1e-5)
    assert answer.mask.shape == (SIZE, SIZE)
    assert answer.mask[24, 40]
    assert not answer.mask[50, 10]
    assert answer.score == pytest.approx(1 / (1 + np.exp(-expected.max())), abs=1e-5)


def test_a_prior_reaches_the_decoder(cpu: Segmenter, bright_slice: NDArray[np.float32]) -> None:
    encoded = cpu.encode(bright_slice)
    first = cpu.predict(encoded, click(40, 24))
    second = cpu.predict(encoded, click(40, 24), prior=first.logits)
    np.testing.assert_allclose(second.logits, 2 * first.logits, atol=1e-4)


def test_the_same_pixels_are_encoded_once(
    fake: tuple[Segmenter, FakeBackend], bright_slice: NDArray[np.float32]
) -> None:
    segmenter, backend = fake
    first = segmenter.encode(bright_slice)
    assert segmenter.encode(bright_slice.astype(np.int16)) is first
    assert backend.encodes == 1
    changed = bright_slice.copy()
    changed[0, 0] += 1
    assert segmenter.encode(changed) is not first
    assert backend.encodes == 2


def test_the_cache_is_bounded_and_drops_the_least_recently_used(tiny_bundle: Path) -> None:
    backend = FakeBackend(SIZE, 4 * GRID)
    bundle = Bundle.open(tiny_bundle)
    slices = [np.full((SIZE, SIZE), value, np.float32) for value in range(3)]
    with Segmenter(bundle, backend, cache_mb=2 * EMBEDDING_BYTES / 2**20) as segmenter:
        kept = [segmenter.encode(each) for each in slices[:2]]
        segmenter.encode(slices[0])  # now slice 1 is the oldest
        segmenter.encode(slices[2])
        assert segmenter.encoder.cache.nbytes == 2 * EMBEDDING_BYTES
        assert segmenter.encode(slices[0]) is kept[0]
        assert backend.encodes == 3
        segmenter.encode(slices[1])
        assert backend.encodes == 4
        # An answer on a dropped embedding still works: only the cache let go of it.
        assert segmenter.predict(kept[1], click(3, 3)).mask.shape == (SIZE, SIZE)


@pytest.mark.parametrize("shape", [(64, 64), (128, 128), (81, 81), (32, 32), (100, 60), (48, 96)])
def test_any_matrix_is_mapped_there_and_back(cpu: Segmenter, shape: tuple[int, int]) -> None:
    """The answer on a resampled slice is the answer the decoder gives for the moved click."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    cy, cx, radius = shape[0] * 0.4, shape[1] * 0.55, max(shape) / 7
    blood = (columns - cx) ** 2 + (rows - cy) ** 2 <= radius**2
    answer = cpu.predict(
        cpu.encode(np.where(blood, 70, 20).astype(np.float32)), click(round(cx), round(cy))
    )
    assert answer.mask.shape == shape
    overlap = 2 * (answer.mask & blood).sum() / (answer.mask.sum() + blood.sum())
    assert overlap > 0.9  # the tiny model's own grid is 2 pixels of 64
    assert answer.mask.any()
    weights = answer.mask / answer.mask.sum()
    # Its centre stays where it is to a fraction of a stored pixel: no half-pixel shift.
    scale = max(shape) / SIZE
    assert (weights * rows).sum() == pytest.approx(rows[blood].mean(), abs=0.5 * scale)
    assert (weights * columns).sum() == pytest.approx(columns[blood].mean(), abs=0.5 * scale)


OBLONG = [((64, 32), (0.5, 1.0)), ((32, 64), (1.0, 0.5)), ((100, 70), (0.4, 0.55))]
"""Matrix and pixel spacing of slices with oblong pixels."""


def oblong_disc(shape: tuple[int, int], spacing: tuple[float, float]) -> NDArray[np.bool_]:
    """A disc that is round in the patient: a seventh of the slice's longer side in radius."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    down, across = (rows - shape[0] * 0.4) * spacing[0], (columns - shape[1] * 0.55) * spacing[1]
    side = max(shape[0] * spacing[0], shape[1] * spacing[1])
    return np.asarray(np.hypot(down, across) <= side / 7)


@pytest.mark.parametrize(("shape", "spacing"), OBLONG)
def test_oblong_pixels_are_mapped_there_and_back(
    cpu: Segmenter, shape: tuple[int, int], spacing: tuple[float, float]
) -> None:
    blood = oblong_disc(shape, spacing)
    hu = np.where(blood, 70, 20).astype(np.float32)
    rows, columns = np.nonzero(blood)
    encoded = cpu.encode(hu, spacing)
    answer = cpu.predict(encoded, click(round(columns.mean()), round(rows.mean())))
    assert answer.mask.shape == shape
    assert 2 * (answer.mask & blood).sum() / (answer.mask.sum() + blood.sum()) > 0.9
    found_rows, found_columns = np.nonzero(answer.mask)
    down, across = encoded.frame.steps
    assert found_rows.mean() == pytest.approx(rows.mean(), abs=0.5 * max(down, 1))
    assert found_columns.mean() == pytest.approx(columns.mean(), abs=0.5 * max(across, 1))


@pytest.mark.parametrize(("shape", "spacing"), OBLONG)
def test_the_model_sees_oblong_pixels_in_true_proportions(
    fake: tuple[Segmenter, FakeBackend], shape: tuple[int, int], spacing: tuple[float, float]
) -> None:
    hu = np.where(oblong_disc(shape, spacing), 70, 20).astype(np.float32)

    def proportions(spacing: tuple[float, float] | None) -> float:
        seen = fake[0].encode(hu, spacing).embedding.numpy()[0] > 45
        return float(seen.any(1).sum() / seen.any(0).sum())  # height / width of the disc

    assert proportions(spacing) == pytest.approx(1, abs=0.12)  # a pixel in 18
    assert proportions(None) == pytest.approx(spacing[1] / spacing[0], rel=0.12)


def test_the_same_pixels_in_other_proportions_are_another_slice(
    fake: tuple[Segmenter, FakeBackend], bright_slice: NDArray[np.float32]
) -> None:
    segmenter, backend = fake
    square = segmenter.encode(bright_slice)
    assert segmenter.encode(bright_slice, (0.5, 0.5)) is square
    assert segmenter.encode(bright_slice, (0.5, 0.52)) is square  # as good as square: not blurred
    oblong = segmenter.encode(bright_slice, (0.5, 0.75))
    assert oblong.frame.aspect == pytest.approx(2 / 3)
    assert segmenter.encode(bright_slice, (1.0, 1.5)) is oblong
    assert backend.encodes == 2


@pytest.mark.parametrize("aspect", [1.0, 0.6, 1.75])
@pytest.mark.parametrize("shape", [(128, 128), (96, 64), (33, 80)])
def test_what_goes_there_and_back_stays_in_place(shape: tuple[int, int], aspect: float) -> None:
    """Ramps, which bilinear resampling preserves, away from the edge of the slice."""
    frame = SliceFrame(*shape, 256, aspect)
    inside = (slice(4, shape[0] - 4), slice(4, shape[1] - 4))
    for ramp in np.mgrid[: shape[0], : shape[1]].astype(np.float32):
        back = frame.logits_to_slice(frame.slice_to_model(ramp))
        np.testing.assert_allclose(back[inside], ramp[inside], atol=0.02)


@pytest.mark.parametrize("aspect", [1.0, 0.6, 1.75])
@pytest.mark.parametrize("shape", [(128, 128), (96, 64), (33, 80)])
def test_points_and_pixels_move_alike(shape: tuple[int, int], aspect: float) -> None:
    """A ramp's value at a stored pixel is its value at the mapped point of the model's slice."""
    frame = SliceFrame(*shape, SIZE, aspect)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    x, y = shape[1] // 2, shape[0] // 2
    moved = frame.points_to_model(np.asarray([(x, y)], np.float32))[0]
    for ramp, expected, axis in ((columns, x, 0), (rows, y, 1)):
        model = frame.slice_to_model(ramp)
        low = int(np.floor(moved[axis]))
        part = moved[axis] - low
        other = round(float(moved[1 - axis]))
        line = model[other] if axis == 0 else model[:, other]
        value = line[low] * (1 - part) + line[low + 1] * part
        assert value == pytest.approx(expected, abs=0.02)


def test_the_mask_is_the_resampled_logits(cpu: Segmenter) -> None:
    frame = SliceFrame(96, 96, SIZE)
    columns = np.broadcast_to(np.arange(LOW, dtype=np.float32), (LOW, LOW))
    mask = frame.mask_to_slice(columns - 15.5, np.zeros((SIZE, SIZE), bool))
    # Logit column 15.5 is the image's middle; stored columns 48 and on lie right of it.
    assert (mask.argmax(axis=1) == 48).all()
    assert mask[:, 48:].all()


def test_windows() -> None:
    ramp = np.arange(10000, dtype=np.float32).reshape(100, 100)
    assert window_of(ramp, WindowRule("fixed", 0, 80)) == (0, 80)
    low, high = window_of(ramp, WindowRule("percentiles", 0.05, 99.5))
    assert (low, high) == pytest.approx((4.9995, 9949.005))
    flat = np.full((4, 4), 7, np.float32)
    assert window_of(flat, WindowRule("percentiles", 0.05, 99.5)) == (7, 8)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (click(64, 3), "point 64,3 lies outside the image of 64 columns and 64 rows"),
        (click(3, -1), "lies outside"),
        (click(float("nan"), 3), "lies outside"),
        (Prompt(), "the prompt is empty"),
        (Prompt(points=((1, 1),), labels=()), "1 points with 0 labels"),
        (Prompt(points=((1, 1),), labels=(2,)), "point label 2: expected 1"),
        (Prompt(box=(1, 1, 70, 5)), "box corner 70,5 lies outside"),
        (Prompt(box=(9, 1, 3, 5)), "expected x0 < x1"),
    ],
)
def test_bad_prompts_are_refused(
    fake: tuple[Segmenter, FakeBackend],
    bright_slice: NDArray[np.float32],
    prompt: Prompt,
    message: str,
) -> None:
    segmenter, backend = fake
    encoded = segmenter.encode(bright_slice)
    with pytest.raises(PromptError, match=message):
        segmenter.predict(encoded, prompt)
    assert backend.decodes == 0


def test_slices_that_are_none_are_refused(fake: tuple[Segmenter, FakeBackend]) -> None:
    segmenter, _ = fake
    with pytest.raises(StudyError, match=r"shape \(3, 4, 5\)"):
        segmenter.encode(np.zeros((3, 4, 5), np.float32))
    with pytest.raises(StudyError, match="not finite"):
        segmenter.encode(np.full((SIZE, SIZE), np.nan, np.float32))


def test_a_batch_answers_as_its_parts(cpu: Segmenter, bright_slice: NDArray[np.float32]) -> None:
    encoded = [cpu.encode(bright_slice), cpu.encode(bright_slice.T.copy())]
    prompts = [click(40, 24), click(24, 40)]
    together = cpu.predict_batch(encoded, prompts)
    for one, each, prompt in zip(together, encoded, prompts, strict=True):
        alone = cpu.predict(each, prompt)
        np.testing.assert_allclose(one.logits, alone.logits, atol=1e-5)
        np.testing.assert_array_equal(one.mask, alone.mask)
        assert one.score == pytest.approx(alone.score)
    assert cpu.predict_batch([], []) == []
    with pytest.raises(PromptError, match="2 and 3 points in one batch"):
        cpu.predict_batch(encoded, [click(1, 1), Prompt(((1, 1), (2, 2)), (1, 0))])


def test_a_closed_segmenter_says_so(tiny_bundle: Path, bright_slice: NDArray[np.float32]) -> None:
    segmenter = Segmenter.from_bundle(tiny_bundle, "fake")
    encoded = segmenter.encode(bright_slice)
    segmenter.close()
    segmenter.close()
    with pytest.raises(BackendError, match="closed"):
        segmenter.encode(bright_slice)
    with pytest.raises(BackendError, match="closed"):
        segmenter.predict(encoded, click(3, 3))


def test_full_device_memory_empties_the_cache_and_tries_again(tiny_bundle: Path) -> None:
    class Small(FakeBackend):
        full = False

        def encode(
            self, hu: NDArray[np.float32], window: NDArray[np.float32]
        ) -> Sequence[Embedding]:
            if self.full and segmenter.encoder.cache.nbytes:
                raise DeviceMemoryError("full")
            return super().encode(hu, window)

    backend = Small(SIZE, GRID)
    with Segmenter(Bundle.open(tiny_bundle), backend) as segmenter:
        segmenter.encode(np.zeros((SIZE, SIZE), np.float32))
        backend.full = True
        segmenter.encode(np.ones((SIZE, SIZE), np.float32))
        assert segmenter.encoder.cache.nbytes == EMBEDDING_BYTES


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
            segmenter.predict_batch([bad, good], [click(40, 24)] * 2)
        assert segmenter.encoder.cache.nbytes == good.nbytes
        assert not list((tmp_path / "store").glob(f"{bad.key}.*"))
        answer = segmenter.predict(segmenter.encode(bright_slice), click(40, 24))
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
            segmenter.predict(encoded, click(40, 24))
    assert list(tmp_path.glob("*.embedding")) == []
    assert store.nbytes == 0


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_one_logit_that_is_not_finite_is_a_failure(
    fake: tuple[Segmenter, FakeBackend],
    bright_slice: NDArray[np.float32],
    number: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segmenter, backend = fake
    decode = backend.decode

    def spoiled(*given: Any) -> Decoded:
        decoded = decode(*given)
        decoded.logits[0, -1, -1] = number
        return decoded

    monkeypatch.setattr(backend, "decode", spoiled)
    with pytest.raises(NonFiniteError, match="not finite"):
        segmenter.predict(segmenter.encode(bright_slice), click(40, 24))


def test_stages_are_timed(cpu: Segmenter, bright_slice: NDArray[np.float32]) -> None:
    encoded = cpu.encode(bright_slice)
    cpu.predict(encoded, click(40, 24))
    cpu.predict(encoded, click(40, 25))
    counts = {name: each.count for name, each in cpu.timings.stages().items()}
    assert counts == {
        "verify bundle": 1,
        "import onnxruntime": 1,
        "load encoder": 1,
        "encode": 1,
        "load decoder": 1,
        "click": 2,
    }
