"""Beam hardening and photon starvation: errors of the projections, carried back into the image."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft

from .arrays import Array

SIZE = 128  # side of the coarse image, pixels: streaks are smooth along and across
ANGLES = 72  # projections over 180 degrees
PATH_CM = 17.0  # mean path of the rays through a head at its widest: what corrections are made for
CALIBRATED_HU = 7.0  # what bone adds to the median brain there with hardening 1: calibrated away


@lru_cache(maxsize=1)
def _rays() -> Array:
    """Detector bin hit by each coarse pixel at each angle, int32 [angles, SIZE * SIZE]."""
    centre = (SIZE - 1) / 2
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] - centre
    angles = np.arange(ANGLES) * np.pi / ANGLES
    across = np.cos(angles)[:, None] * columns.ravel() + np.sin(angles)[:, None] * rows.ravel()
    return np.asarray(np.clip(np.rint(across + centre), 0, SIZE - 1).astype(np.int32))


@lru_cache(maxsize=8)
def resampling(n: int) -> Array:
    """Linear weights from the coarse image to `n` pixels over the same field, float32 [n, SIZE]."""
    position = np.clip((np.arange(n) + 0.5) * SIZE / n - 0.5, 0, SIZE - 1)
    left = np.minimum(position.astype(int), SIZE - 2)
    matrix = np.zeros((n, SIZE), np.float32)
    matrix[np.arange(n), left] = 1 - (position - left)
    matrix[np.arange(n), left + 1] = position - left
    return matrix


def project(image: Array) -> Array:
    """Line sums of a coarse image [SIZE, SIZE], float32 [angles, SIZE], in pixels x value."""
    flat = image.ravel()
    rays = _rays()
    return np.stack([np.bincount(r, flat, SIZE) for r in rays]).astype(np.float32)


def back_project(sinogram: Array) -> Array:
    """Filtered back projection of [angles, SIZE] to a coarse image [SIZE, SIZE]."""
    ramp = np.abs(fft.rfftfreq(2 * SIZE)).astype(np.float32) * 2
    ramp *= np.cos(np.linspace(0, np.pi / 2, ramp.size)).astype(np.float32)
    filtered = fft.irfft(fft.rfft(sinogram, 2 * SIZE, axis=1) * ramp, axis=1)[:, :SIZE]
    image = np.zeros(SIZE * SIZE, np.float32)
    for ray, line in zip(_rays(), filtered.astype(np.float32), strict=True):
        image += line[ray]
    return image.reshape(SIZE, SIZE) * np.float32(np.pi / (2 * ANGLES))


def streaks(
    hu: Array,
    pixel_mm: float,
    rng: np.random.Generator,
    hardening: float,
    starvation: float,
    undersize_hu: float = 0.0,
) -> tuple[Array, Array]:
    """Streaks (HU) and the relative noise level on the coarse grid of an image of `hu`.

    `hu` [SIZE, SIZE] float32, pixels of `pixel_mm`. `hardening` scales the error that grows with
    the square of the bone in a ray (1 is a strong, uncorrected one); `starvation` the noise of rays
    with few photons; `undersize_hu` is how far a vanishing head would be too bright.
    """
    tissue = np.clip(hu / 1000 + 1, 0, None)
    dense = np.clip(hu - 150, 0, 8000) / 1000
    bone = project(dense) * pixel_mm / 10  # cm x density of bone
    water = project(tissue) * pixel_mm / 10  # cm of water
    error = -180.0 * hardening * bone**2 * (1 + 0.12 * bone)
    few = np.exp(0.5 * 0.19 * np.minimum(water + 0.6 * bone, 60.0))  # 0.19 / cm at 70 keV
    few /= np.median(few[water > 8]) if (water > 8).any() else 1.0
    error += starvation * 30.0 * few**1.5 * rng.standard_normal(error.shape).astype(np.float32)
    counts = np.zeros(SIZE * SIZE, np.float32)
    for ray, line in zip(_rays()[::6], (few[::6] ** 2).astype(np.float32), strict=True):
        counts += line[ray]
    level = np.sqrt(counts.reshape(SIZE, SIZE) / len(_rays()[::6]))
    offset = _offset(water, hardening, undersize_hu) * np.minimum(tissue, 1)  # air stays air
    return back_project(error.astype(np.float32)) + offset, level


def _offset(water: Array, hardening: float, undersize_hu: float) -> float:
    """How far all tissue is too bright, HU: a scanner is calibrated for a head at its widest."""
    path = float((water**2).sum() / max(float(water.sum()), 1e-6))  # rays beside the head weigh 0
    return undersize_hu * max(1 - path / PATH_CM, 0) - hardening * CALIBRATED_HU
