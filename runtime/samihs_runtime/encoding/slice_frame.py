"""Map between a stored slice and the S x S slice that the graphs take.

A slice of another matrix size is padded with air to a square, centred, and resampled. Everything is
aligned at pixel *centres*: stored pixel x lies at ``(x + offset + 0.5) * S / side - 0.5``.
"""

from __future__ import annotations

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

    @property
    def identity(self) -> bool:
        """Whether the slice is passed on unchanged."""
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
        """``hu`` [rows, columns] as [size, size]; smoothed first if it is downsampled."""
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
            # Anti-aliasing as in scikit-image's resize: sigma = (factor - 1) / 2.
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
            mask: [S, S] of the same answer, used as it is if the sizes agree. Otherwise the logits
                are resampled and thresholded, because resampling a mask would round twice.
        """
        return mask if self.identity else np.asarray(self.logits_to_slice(logits) > 0)

    def logits_to_slice(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """``logits`` [L, L] over the S x S slice as [rows, columns] of the stored slice."""
        factor = logits.shape[0] / self.side
        top, left = self.offset
        shift = (top * factor, left * factor)
        return _resample(logits, (factor, factor), shift, (self.rows, self.columns))


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
