"""What slices go through outside the hospital: windowed to 8 bit, then compressed as JPEG."""

from __future__ import annotations

import numpy as np
from scipy import fft

from .arrays import Array

# Luminance quantisation table of JPEG (ITU-T T.81, table K.1), quality 50.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)


def wear_8bit(
    hu: Array,
    rng: np.random.Generator,
    level: float | None = None,
    width: float | None = None,
    quality: float | None = None,
) -> Array:
    """HU after a trip through an 8-bit window and JPEG, float32, same shape [rows, columns].

    `level` and `width` in HU (drawn near 40 and 80 to 160 when None): what lies outside is clipped.
    `quality`: JPEG quality 1 to 100 (drawn from 60 to 98 when None, or left uncompressed).
    """
    level = float(rng.uniform(35, 45)) if level is None else level
    width = float(rng.choice([80, 90, 100, 120, 140, 160])) if width is None else width
    low = level - width / 2
    grey = np.rint(np.clip((np.asarray(hu, np.float32) - low) / width, 0, 1) * 255)
    if quality is not None or rng.random() < 0.8:
        grey = _jpeg(grey, float(rng.uniform(60, 98)) if quality is None else quality)
    return np.asarray(grey * (width / 255) + low, np.float32)


def _jpeg(grey: Array, quality: float) -> Array:
    """Grey values 0 to 255 after JPEG's 8 x 8 cosine quantisation."""
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    steps = np.maximum(np.rint(_LUMINANCE * scale), 1)
    rows, columns = grey.shape
    padded = np.pad(grey, ((0, -rows % 8), (0, -columns % 8)), mode="edge") - 128
    blocks = padded.reshape(padded.shape[0] // 8, 8, padded.shape[1] // 8, 8).swapaxes(1, 2)
    cosines = fft.dctn(blocks.astype(np.float32), axes=(2, 3), norm="ortho")
    back = fft.idctn(np.rint(cosines / steps) * steps, axes=(2, 3), norm="ortho")
    whole = back.swapaxes(1, 2).reshape(padded.shape)[:rows, :columns] + 128
    return np.asarray(np.clip(np.rint(whole), 0, 255).astype(np.float32))
