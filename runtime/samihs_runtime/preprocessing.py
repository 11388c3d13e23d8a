"""From a stored slice to the S x S slice that the graphs take, and back.

Windowing itself, resizing to the model's frame and thresholding are in the graphs. What is left:
the two numbers of the window, and slices whose matrix is not S x S. Those are padded to a square
with air, centred, and resampled; everything is aligned at pixel *centres*: stored pixel x lies at
``(x + offset + 0.5) * S / side - 0.5``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.errors import PromptError, StudyError
from samihs_runtime.geometry import is_inside
from samihs_runtime.manifest import WindowRule
from samihs_runtime.segmentation import BACKGROUND, FOREGROUND, Prompt

AIR_HU = -1000.0
"""Hounsfield units of air, by definition of the unit: what lies outside the image."""


@dataclass(frozen=True)
class SliceFrame:
    """Where a slice of ``rows x columns`` lies in the graphs' ``size x size`` slice."""

    rows: int
    columns: int
    size: int

    @property
    def identity(self) -> bool:
        """Whether the slice goes through unchanged."""
        return self.rows == self.columns == self.size

    @property
    def side(self) -> int:
        """Side of the padded square, stored pixels."""
        return max(self.rows, self.columns)

    @property
    def offset(self) -> tuple[int, int]:
        """(top, left) padding, stored pixels."""
        return (self.side - self.rows) // 2, (self.side - self.columns) // 2

    def slice_to_model(self, hu: NDArray[np.float32]) -> NDArray[np.float32]:
        """``hu`` [rows, columns] as [size, size]; smoothed first where it shrinks."""
        if self.identity:
            return hu
        from scipy import ndimage

        top, left = self.offset
        padding = (
            (top, self.side - self.rows - top),
            (left, self.side - self.columns - left),
        )
        square = np.pad(hu, padding, constant_values=AIR_HU)
        factor = self.side / self.size
        if factor > 1:
            # Anti-aliasing as scikit-image's resize has it: sigma = (factor - 1) / 2.
            square = ndimage.gaussian_filter(square, (factor - 1) / 2, mode="nearest")
        return _resample(square, (factor, factor), (0.0, 0.0), (self.size, self.size))

    def points_to_model(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points [..., 2] (column, row) of the stored slice, in pixels of the S x S slice."""
        if self.identity:
            return points
        top, left = self.offset
        scale = self.size / self.side
        moved = (points + np.asarray((left, top)) + 0.5) * scale - 0.5
        return np.asarray(moved, dtype=np.float32)

    def mask_to_slice(
        self, logits: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """The mask [rows, columns] of the stored slice.

        Args:
            logits: [L, L] over the whole S x S slice.
            mask: [S, S] of the same answer, used as it is where the sizes agree. Elsewhere the
                logits are resampled and thresholded: resampling a mask would round twice.
        """
        return mask if self.identity else np.asarray(self.logits_to_slice(logits) > 0)

    def logits_to_slice(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """``logits`` [L, L] over the S x S slice as [rows, columns] of the stored slice."""
        factor = logits.shape[0] / self.side
        top, left = self.offset
        shift = (top * factor, left * factor)
        return _resample(logits, (factor, factor), shift, (self.rows, self.columns))


def as_pixels(hu: NDArray[np.int16] | NDArray[np.float32]) -> NDArray[np.float32]:
    """A slice as contiguous float32 [rows, columns].

    Raises:
        StudyError: not two-dimensional, empty, or with values that are not finite.
    """
    if hu.ndim != 2 or hu.size == 0:
        raise StudyError(f"a slice of shape {hu.shape}: expected [rows, columns], neither empty")
    pixels = np.ascontiguousarray(hu, dtype=np.float32)
    if not np.isfinite(pixels).all():
        raise StudyError("the slice holds values that are not finite: read the series again")
    return pixels


def window_of(hu: NDArray[np.float32], rule: WindowRule) -> tuple[float, float]:
    """Low and high HU of a slice under the bundle's rule.

    Percentiles are taken over the stored slice, before padding. A slice of one value gets a window
    one HU wide, so that the graph divides by no zero.
    """
    if rule.rule == "fixed":
        return rule.low, rule.high
    low, high = np.percentile(hu, (rule.low, rule.high))
    return float(low), float(max(high, low + 1.0))


def check_prompt(prompt: Prompt, rows: int, columns: int) -> None:
    """Refuse a prompt that names nothing, or something outside the slice.

    Raises:
        PromptError: the message says which point, and where the slice ends.
    """
    if len(prompt.points) != len(prompt.labels):
        raise PromptError(
            f"{len(prompt.points)} points with {len(prompt.labels)} labels: give one per point"
        )
    if not prompt.points and prompt.box is None:
        raise PromptError("the prompt is empty: give a point or a box")
    for label in prompt.labels:
        if label not in (FOREGROUND, BACKGROUND):
            raise PromptError(f"point label {label}: expected 1 (foreground) or 0 (background)")
    for x, y in prompt.points:
        _check_inside("point", x, y, rows, columns)
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        _check_inside("box corner", x0, y0, rows, columns)
        _check_inside("box corner", x1, y1, rows, columns)
        if not (x0 < x1 and y0 < y1):
            raise PromptError(f"box {x0:g},{y0:g},{x1:g},{y1:g}: expected x0 < x1 and y0 < y1")


def _check_inside(what: str, x: float, y: float, rows: int, columns: int) -> None:
    if not is_inside(x, y, (rows, columns)):
        raise PromptError(
            f"{what} {x:g},{y:g} lies outside the image of {columns} columns and {rows} rows: "
            f"expected x (column) 0 to {columns - 1} and y (row) 0 to {rows - 1}"
        )


def _resample(
    image: NDArray[np.float32],
    factor: tuple[float, float],
    shift: tuple[float, float],
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Bilinear, aligned at pixel centres: output pixel i is input ``(i + 0.5) * f - 0.5 + s``."""
    from scipy import ndimage

    offset = tuple(0.5 * f - 0.5 + s for f, s in zip(factor, shift, strict=True))
    # A matrix given as a vector is diagonal: scipy then resamples each axis on its own.
    resampled = ndimage.affine_transform(
        image, np.asarray(factor), offset=offset, output_shape=shape, order=1, mode="nearest"
    )
    return np.asarray(resampled, dtype=np.float32)
