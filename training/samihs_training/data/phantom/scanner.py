"""What the scanner does to a painted slice: blur, noise, streaks, motion, table, scan circle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft, ndimage

from .arrays import Array
from .canvas import Canvas
from .options import Tissue
from .scan import Scan
from .streaks import SIZE, resampling, streaks

GLARE_HU = 120  # white in the windows that hemorrhages are outlined in (level 40, width 80 to 160)
DARK_HU = -60  # no brain, blood or CSF is as dark: fat or air is involved
PAD_HU = -2000  # outside the scan circle, as GE writes it


_DENSE = (
    Tissue.BONE,
    Tissue.CALCIFICATION,
    Tissue.METAL,
    Tissue.CATHETER,
    Tissue.LENS,
    Tissue.TABLE,
)  # may glare themselves


def scan_slice(canvas: Canvas, scan: Scan, rng: np.random.Generator) -> Array:
    """The image of a painted slice, int16 HU [matrix, matrix]; labels gain the head holder."""
    hu = canvas.hu.mean(axis=0)
    _add_holder(hu, canvas.tissues, scan)
    motion = _draw_motion(scan, rng)
    hu = _imaged(hu, scan, motion)
    _relabel(canvas, hu, _closed(canvas, hu, scan, motion))
    level: Array | float = 1.0
    if scan.hardening or scan.starvation:
        errors, level = _streaks(hu, scan, rng)
        hu += errors
    if scan.noise_hu:
        hu += correlated_noise(rng, scan) * level
    hu = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    if scan.circle:
        hu[~_circle(scan.matrix)] = PAD_HU
        canvas.tissues[~_circle(scan.matrix)] = Tissue.AIR
    return hu


def _relabel(canvas: Canvas, hu: Array, closed: Array) -> None:
    """Cut the labels as a person outlines in a brain window, who stops where bone begins to glare.

    `hu` is free of noise; `closed` is the image with the bone's gaps closed, as an outline follows
    the bone past a suture or a crack as if it were whole.
    """
    dark = hu < DARK_HU
    canvas.bleeds[(closed > GLARE_HU) | dark] = 0
    lost = np.isin(canvas.tissues, (Tissue.BLOOD, Tissue.MEMBRANE)) & (canvas.bleeds == 0)
    soft = (hu > GLARE_HU) & ~np.isin(canvas.tissues, _DENSE)
    canvas.tissues[soft | (lost & ~dark)] = Tissue.BONE
    canvas.tissues[lost & dark] = Tissue.AIR


def _closed(canvas: Canvas, hu: Array, scan: Scan, motion: Motion | None) -> Array:
    """The image `hu` with what gaps took from the bone put back; `hu` itself if there are none."""
    if not canvas.opened:
        return hu
    closed = hu.copy()
    blur_mm = max(3.0 * scan.blur_mm, 1.1 * scan.off_focal_mm)
    reach = int(np.ceil((blur_mm + scan.motion_mm) / scan.pixel_mm)) + 3
    for window, taken in canvas.opened:
        r0, c0 = max(window.r0 - reach, 0), max(window.c0 - reach, 0)
        r1, c1 = min(window.r1 + reach, scan.matrix), min(window.c1 + reach, scan.matrix)
        around = ((window.r0 - r0, r1 - window.r1), (window.c0 - c0, c1 - window.c1))
        closed[r0:r1, c0:c1] += _imaged(np.pad(taken, around), scan, motion)
    return closed


def correlated_noise(rng: np.random.Generator, scan: Scan) -> Array:
    """Noise with the spectrum of filtered back projection, standard deviation noise_hu, float32."""
    n = scan.matrix
    shape = (n, n // 2 + 1)
    spectrum = rng.standard_normal((2, *shape), dtype=np.float32)
    weighted = (spectrum[0] + 1j * spectrum[1]) * _noise_amplitude(
        n, round(scan.pixel_mm, 2), round(scan.blur_mm, 1)
    )
    noise = fft.irfft2(weighted, s=(n, n), overwrite_x=True)
    return np.asarray((noise * (scan.noise_hu / max(float(noise.std()), 1e-9))).astype(np.float32))


@lru_cache(maxsize=64)
def _noise_amplitude(n: int, pixel_mm: float, blur_mm: float) -> Array:
    """Square root of the noise power: the ramp filter's sqrt(f), times the kernel's roll-off."""
    fy = np.fft.fftfreq(n, pixel_mm)[:, None]
    fx = np.fft.rfftfreq(n, pixel_mm)[None, :]
    f = np.hypot(fy, fx)  # cycles / mm
    sigma = blur_mm / 2.355
    amplitude = np.sqrt(f + 0.02) * np.exp(-2 * (np.pi * sigma * f) ** 2)
    return np.asarray(amplitude.astype(np.float32))


def _blurred(hu: Array, scan: Scan) -> Array:
    sigma = scan.blur_mm / 2.355 / scan.pixel_mm  # pixels
    blurred: Array = ndimage.gaussian_filter(hu, sigma, truncate=3.0)
    if scan.edge:
        wide = ndimage.gaussian_filter(blurred, 1.6 * sigma, truncate=2.5)
        blurred += scan.edge * (blurred - wide)
    if scan.off_focal:
        beside = scan.off_focal_mm / 2.355 / scan.pixel_mm
        blurred += scan.off_focal * (ndimage.gaussian_filter(hu, beside, truncate=2.5) - blurred)
    return np.asarray(blurred, np.float32)


@dataclass(frozen=True)
class Motion:
    """The head lies elsewhere for a share of the rotation."""

    shift: Array
    """Rows and columns, pixels, float64 [2]."""
    share: float


def _draw_motion(scan: Scan, rng: np.random.Generator) -> Motion | None:
    if not scan.motion_mm:
        return None
    angle = rng.uniform(0, 2 * np.pi)
    shift = scan.motion_mm / scan.pixel_mm * np.array([np.sin(angle), np.cos(angle)])
    return Motion(shift, float(rng.uniform(0.2, 0.45)))


def _imaged(hu: Array, scan: Scan, motion: Motion | None) -> Array:
    """An image after motion and the kernel: linear except for metal, so parts may be done alone."""
    if motion is not None:
        other = ndimage.shift(hu, motion.shift, order=1, mode="nearest")
        hu = np.asarray((1 - motion.share) * hu + motion.share * other, np.float32)
    return _blurred(np.clip(hu, -1000, 6000), scan)


def _streaks(hu: Array, scan: Scan, rng: np.random.Generator) -> tuple[Array, Array]:
    """Streaks in HU and relative noise, at full resolution; none on matrices below SIZE."""
    if scan.matrix < SIZE:
        return np.zeros_like(hu), np.ones_like(hu)
    up = resampling(scan.matrix)
    down = (up / up.sum(axis=0)).T
    small = down @ hu @ down.T
    pixel_mm = scan.pixel_mm * scan.matrix / SIZE
    errors, level = streaks(
        small, pixel_mm, rng, scan.hardening, scan.starvation, scan.undersize_hu
    )
    head = (small > 0) & (small < 80)
    if head.any():
        level = level / np.median(level[head])
    errors = np.clip(errors, -120, 120)
    return up @ errors @ up.T, up @ np.clip(level, 0.5, 2.5) @ up.T


@lru_cache(maxsize=4)
def _circle(n: int) -> Array:
    rows, columns = np.mgrid[0:n, 0:n] - (n - 1) / 2
    return np.asarray(np.hypot(rows, columns) <= n / 2)


def _add_holder(hu: Array, tissues: Array, scan: Scan) -> None:
    """A thin carbon shell under the head, or the table below it."""
    if scan.holder == "none":
        return
    n = scan.matrix
    rows, columns = np.mgrid[0:n, 0:n].astype(np.float32)
    x = (columns - (n - 1) / 2) * scan.pixel_mm
    y = (rows - (n - 1) / 2) * scan.pixel_mm
    if scan.holder == "cup":
        shell = np.abs(np.hypot(x * 1.05, (y - 8) * 0.98) - 106.0) - 1.1
        shell = np.maximum(shell, 10.0 - y)
        value = 120.0
    else:
        shell = np.abs(y - 108.0 - 0.0004 * x * x) - 2.0
        value = -150.0
    cover = np.clip(0.5 - shell / scan.pixel_mm, 0, 1) * (hu < -700)
    hu += cover * (value - hu)
    tissues[(cover > 0.5) & (tissues == 0)] = Tissue.TABLE
