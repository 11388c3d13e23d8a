"""The segmenter: clicks, cache, prompts, stages, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_runtime.backends.fake import FakeBackend
from samihs_runtime.bundle import Bundle
from samihs_runtime.errors import (
    BackendError,
    PromptError,
    StudyError,
    UsageError,
)
from samihs_runtime.segmentation import Prompt
from samihs_runtime.segmenter import Segmenter

from .tiny_model import GRID, SIZE, reference_logits

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


def test_a_given_score_threshold_takes_the_place_of_the_bundles(tiny_bundle: Path) -> None:
    own = Bundle.open(tiny_bundle).manifest.score_threshold
    with Segmenter.from_bundle(tiny_bundle, "cpu") as segmenter:
        assert segmenter.score_threshold == own
    with Segmenter.from_bundle(tiny_bundle, "cpu", score_threshold=0.75) as segmenter:
        assert segmenter.score_threshold == 0.75
    with pytest.raises(UsageError, match=r"score threshold 1\.5: expected 0 to 1"):
        Segmenter.from_bundle(tiny_bundle, "cpu", score_threshold=1.5)
