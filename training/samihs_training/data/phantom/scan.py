"""The settings of one acquisition, drawn from ranges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .options import PhantomOptions
from .ranges import Range
from .streams import OFF_FOCAL_BLUR, UNDERSIZE, SideStreams

PIXEL_MM = Range(0.40, 0.50, "mm", "textbook: 205 to 256 mm field of view, 512 pixels")
THICKNESS_MM = (
    (1.0, 0.07),
    (1.25, 0.06),
    (2.5, 0.12),
    (3.0, 0.1),
    (4.0, 0.1),
    (4.8, 0.08),
    (5.0, 0.35),
    (6.0, 0.05),
    (7.0, 0.07),
)
"""Slice thicknesses, mm, and their shares: head protocols, mostly 5 mm."""
NOISE_HU = Range(2.0, 6.5, "HU", "measured 3.6 at 4 mm; textbook: 3 to 6 in 5 mm head slices")
THICK_MM = 2.6  # slices at least as thick have that noise, whatever their protocol
RECONSTRUCTION = Range(0.6, 0.85, "1", "chosen: what thin slices' softer reconstruction leaves")
BLUR_MM = {
    "soft": Range(1.25, 1.7, "mm", "textbook: FWHM, MTF50 near 0.3 / mm"),
    "standard": Range(0.95, 1.3, "mm", "textbook: FWHM, MTF50 near 0.4 / mm"),
    "sharp": Range(0.6, 0.85, "mm", "textbook: FWHM, MTF50 near 0.7 / mm"),
}
KERNEL_SHARES = {"soft": 0.4, "standard": 0.5, "sharp": 0.1}
OFF_FOCAL = Range(0.0, 0.1, "1", "textbook: of a tube's radiation; measured on four real heads")
OFF_FOCAL_MM = Range(3.0, 6.0, "mm", "measured: FWHM, on two real heads")
SHARP_NOISE = 1.8  # a sharp kernel keeps the high frequencies in which most of the noise lies
HARDENING = Range(0.04, 0.65, "1", "measured: 0, 0, 0.25 and 0.65 on four real heads", log=True)
UNDERSIZE_HU = Range(20, 130, "HU", "measured 110 on one head: times the hardening")
STARVATION = Range(0.1, 0.9, "1", "chosen: noise streaks along dense bone, judged by eye")
TILT_DEG = Range(5, 22, "deg", "textbook: gantry tilted along the skull base")


@dataclass(frozen=True)
class Scan:
    """Settings of one acquisition."""

    matrix: int
    pixel_mm: float
    thickness_mm: float
    spacing_mm: float
    tilt_deg: float
    kernel: str
    blur_mm: float
    """FWHM of the point spread in the slice, mm."""
    edge: float
    """Relative edge enhancement of the kernel."""
    off_focal: float
    """Share of the radiation that starts beside the focal spot: it brightens what is below bone."""
    off_focal_mm: float
    """FWHM of that blur, mm."""
    noise_hu: float
    hardening: float
    """Share of the correction for beam hardening that fails: bone brightens the brain beside it."""
    undersize_hu: float
    """How far a head is too bright, HU, as the path of the rays through it nears 0: corrections
    are made for one size, and are too strong at the vertex."""
    starvation: float
    motion_mm: float
    """Shift during the rotation, mm; 0 for a patient who keeps still."""
    circle: bool
    """Whether pixels outside the scan circle are padded."""
    holder: str
    """"none", "cup" (head holder) or "table"."""
    turn_deg: tuple[float, float, float]
    """The head's rotation about x, y, z."""
    shift_mm: tuple[float, float]
    """The head's offset from the middle of the image (x, y)."""


def draw_scan(rng: np.random.Generator, options: PhantomOptions) -> Scan:
    """Settings drawn from the ranges above, where the options leave them open."""
    beside = SideStreams(rng)
    off_focal = beside.stream(OFF_FOCAL_BLUR)
    thicknesses, shares = zip(*THICKNESS_MM, strict=True)
    thickness = float(rng.choice(thicknesses, p=np.array(shares) / sum(shares)))
    pixel = PIXEL_MM.draw(rng) * 512 / options.matrix
    tilt = TILT_DEG.draw(rng) if rng.random() < 0.3 else 0.0
    kernel = str(rng.choice(list(KERNEL_SHARES), p=list(KERNEL_SHARES.values())))
    if options.slice_thickness_mm is not None:
        thickness = options.slice_thickness_mm
    kernel = options.kernel or kernel
    noise = NOISE_HU.draw(rng) * _thin_noise(thickness, RECONSTRUCTION.draw(rng))
    noise *= SHARP_NOISE if kernel == "sharp" else 1.0
    moving = float(rng.uniform(0.5, 2.0)) if rng.random() < 0.08 else 0.0
    hardening, starvation = HARDENING.draw(rng), STARVATION.draw(rng)
    if options.motion is not None:
        moving = max(moving, 0.8) if options.motion else 0.0
    return Scan(
        matrix=options.matrix,
        pixel_mm=options.pixel_spacing_mm or pixel,
        thickness_mm=thickness,
        spacing_mm=options.slice_spacing_mm or thickness,
        tilt_deg=tilt if options.tilt_deg is None else options.tilt_deg,
        kernel=kernel,
        blur_mm=BLUR_MM[kernel].draw(rng),
        edge=float(rng.uniform(0.0, 0.35)) if kernel != "soft" else 0.0,
        off_focal=OFF_FOCAL.draw(off_focal) * options.artefacts,
        off_focal_mm=OFF_FOCAL_MM.draw(off_focal),
        noise_hu=noise if options.noise_hu is None else options.noise_hu,
        hardening=hardening if options.artefacts else 0.0,
        undersize_hu=hardening * UNDERSIZE_HU.draw(beside.stream(UNDERSIZE)) * options.artefacts,
        starvation=starvation if options.artefacts and options.noise_hu != 0 else 0.0,
        motion_mm=moving,
        circle=bool(rng.random() < 0.25),
        holder=str(rng.choice(["none", "cup", "table"], p=[0.25, 0.6, 0.15])),
        turn_deg=(float(rng.normal(0, 4)), float(rng.normal(0, 3)), float(rng.normal(0, 5))),
        shift_mm=(float(rng.normal(0, 5)), float(rng.normal(0, 6))),
    )


def _thin_noise(thickness_mm: float, left: float) -> float:
    """How much noisier a slice is than one of 5 mm: it has fewer photons; `left` of that shows."""
    if thickness_mm >= THICK_MM:
        return 1.0
    return max(1.0, float((5.0 / thickness_mm) ** 0.5) * left)
