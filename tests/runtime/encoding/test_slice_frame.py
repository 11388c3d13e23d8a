"""Slices of any matrix and of oblong pixels, mapped to the graphs' slice and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samihs_runtime.encoding.slice_frame import SliceFrame
from samihs_runtime.segmentation import Prompt
from samihs_runtime.segmenter import Segmenter
from tests.runtime.tiny_model import LOW, SIZE


def clicked(x: float, y: float) -> Prompt:
    return Prompt(points=((x, y),), labels=(1,))


@pytest.fixture
def segmenter(tiny_bundle: Path) -> Iterator[Segmenter]:
    with Segmenter.from_bundle(tiny_bundle, "cpu") as opened:
        yield opened


@pytest.mark.parametrize("shape", [(64, 64), (128, 128), (81, 81), (32, 32), (100, 60), (48, 96)])
def test_any_matrix_is_mapped_there_and_back(segmenter: Segmenter, shape: tuple[int, int]) -> None:
    """The answer on a resampled slice is the answer the decoder gives for the moved click."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    cy, cx, radius = shape[0] * 0.4, shape[1] * 0.55, max(shape) / 7
    blood = (columns - cx) ** 2 + (rows - cy) ** 2 <= radius**2
    answer = segmenter.predict(
        segmenter.encode(np.where(blood, 70, 20).astype(np.float32)), clicked(round(cx), round(cy))
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
    segmenter: Segmenter, shape: tuple[int, int], spacing: tuple[float, float]
) -> None:
    blood = oblong_disc(shape, spacing)
    hu = np.where(blood, 70, 20).astype(np.float32)
    rows, columns = np.nonzero(blood)
    encoded = segmenter.encode(hu, spacing)
    answer = segmenter.predict(encoded, clicked(round(columns.mean()), round(rows.mean())))
    assert answer.mask.shape == shape
    assert 2 * (answer.mask & blood).sum() / (answer.mask.sum() + blood.sum()) > 0.9
    found_rows, found_columns = np.nonzero(answer.mask)
    down, across = encoded.frame.steps
    assert found_rows.mean() == pytest.approx(rows.mean(), abs=0.5 * max(down, 1))
    assert found_columns.mean() == pytest.approx(columns.mean(), abs=0.5 * max(across, 1))


@pytest.mark.parametrize(("shape", "spacing"), OBLONG)
def test_the_model_sees_oblong_pixels_in_true_proportions(
    tiny_bundle: Path, shape: tuple[int, int], spacing: tuple[float, float]
) -> None:
    hu = np.where(oblong_disc(shape, spacing), 70, 20).astype(np.float32)

    def proportions(spacing: tuple[float, float] | None) -> float:
        seen = segmenter.encode(hu, spacing).embedding.numpy()[0] > 45
        return float(seen.any(1).sum() / seen.any(0).sum())  # height / width of the disc

    with Segmenter.from_bundle(tiny_bundle, "fake") as segmenter:
        assert proportions(spacing) == pytest.approx(1, abs=0.12)  # a pixel in 18
        assert proportions(None) == pytest.approx(spacing[1] / spacing[0], rel=0.12)


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


def test_the_mask_is_the_resampled_logits() -> None:
    frame = SliceFrame(96, 96, SIZE)
    columns = np.broadcast_to(np.arange(LOW, dtype=np.float32), (LOW, LOW))
    mask = frame.mask_to_slice(columns - 15.5, np.zeros((SIZE, SIZE), bool))
    # Logit column 15.5 is the image's middle; stored columns 48 and on lie right of it.
    assert (mask.argmax(axis=1) == 48).all()
    assert mask[:, 48:].all()
