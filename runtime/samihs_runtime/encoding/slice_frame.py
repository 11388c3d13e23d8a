"""Map between a stored slice and the S x S slice that the graphs take.

A slice of another matrix size, or of oblong pixels, is padded with air to a square in the patient,
centred, and resampled to S x S square pixels. Everything is aligned at pixel *centres*: stored
pixel x lies at ``(x + offset + 0.5) / step - 0.5``, with ``step`` stored pixels per pixel of S.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AIR_HU = -1000.0
"""Hounsfield units of air, by definition of the unit; used outside the image."""


@dataclass(frozen=True)
class SliceFrame:
    """Where a slice of ``rows x columns`` lies in the graphs' ``size x size`` slice."""

    rows: int
    columns: int
    size: int
    aspect: float = 1.0
    """Height of a stored pixel divided by its width (``geometry.aspect_of``)."""

    @property
    def identity(self) -> bool:
        """Whether the slice is passed on unchanged."""
        return self.rows == self.columns == self.size and self.aspect == 1

    @property
    def sides(self) -> tuple[float, float]:
        """(down, across): the sides of the padded square, stored pixels."""
        side = max(self.rows * self.aspect, self.columns)  # in widths of a stored pixel
        return side / self.aspect, side

    @property
    def steps(self) -> tuple[float, float]:
        """(down, across): stored pixels per pixel of the graphs' slice."""
        down, across = self.sides
        return down / self.size, across / self.size

    @property
    def offset(self) -> tuple[int, int]:
        """(top, left) padding, stored pixels."""
        down, across = self.sides
        return int(down - self.rows) // 2, int(across - self.columns) // 2

    def slice_to_model(self, hu: NDArray[np.float32]) -> NDArray[np.float32]:
        """``hu`` [rows, columns] as [size, size]; smoothed first if it is downsampled."""
        if self.identity:
            return hu
        from scipy import ndimage

        padding = [
            (before, math.ceil(side) - stored - before)
            for before, side, stored in zip(self.offset, self.sides, hu.shape, strict=True)
        ]
        square = np.pad(hu, padding, constant_values=AIR_HU)
        # Anti-aliasing as in scikit-image's resize: sigma = (factor - 1) / 2.
        blur = [max(step - 1, 0.0) / 2 for step in self.steps]
        if any(blur):
            square = ndimage.gaussian_filter(square, blur, mode="nearest")
        return _resample(square, self.steps, (0.0, 0.0), (self.size, self.size))

    def points_to_model(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points [..., 2] (column, row) of the stored slice, in pixels of the S x S slice."""
        if self.identity:
            return points
        (top, left), (down, across) = self.offset, self.steps
        moved = (points + np.asarray((left, top)) + 0.5) / np.asarray((across, down)) - 0.5
        return np.asarray(moved, dtype=np.float32)

    def mask_to_slice(
        self, logits: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """The mask [rows, columns] of the stored slice.

        Args:
            logits: [L, L] over the whole S x S slice.
            mask: [S, S] of the same answer, used as it is if the sizes agree. Otherwise the logits
                are resampled and thresholded, because resampling a mask would round twice.
        """
        return mask if self.identity else np.asarray(self.logits_to_slice(logits) > 0)

    def logits_to_slice(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """``logits`` [L, L] over the S x S slice as [rows, columns] of the stored slice."""
        (top, left), (down, across) = self.offset, self.sides
        factor = (logits.shape[0] / down, logits.shape[1] / across)
        shift = (top * factor[0], left * factor[1])
        return _resample(logits, factor, shift, (self.rows, self.columns))


def _resample(
    image: NDArray[np.float32],
    factor: tuple[float, float],
    shift: tuple[float, float],
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Bilinear, aligned at pixel centres: output pixel i is input ``(i + 0.5) * f - 0.5 + s``."""
    from scipy import ndimage

    offset = tuple(0.5 * f - 0.5 + s for f, s in zip(factor, shift, strict=True))
    # A matrix given as a vector is diagonal: scipy then resamples each axis separately.
    resampled = ndimage.affine_transform(
        image, np.asarray(factor), offset=offset, output_shape=shape, order=1, mode="nearest"
    )
    return np.asarray(resampled, dtype=np.float32)
