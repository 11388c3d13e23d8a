"""The ventricles: lateral with all horns, third, fourth."""

from __future__ import annotations

import numpy as np

from .arrays import Array, Points, smooth_max, smooth_min
from .ranges import Range
from .shapes import Vector, ellipsoid, tube

WIDTH_YOUNG = Range(0.45, 0.85, "1", "chosen: relative calibre of lateral ventricles at 20 years")
WIDTH_OLD = Range(0.9, 1.9, "1", "chosen: relative calibre of lateral ventricles at 90 years")
HYDROCEPHALUS = Range(1.6, 2.4, "1", "chosen: relative calibre with hydrocephalus")
ASYMMETRY = Range(-0.18, 0.18, "1", "textbook: ventricles differ mildly from side to side")

# Course of the left lateral ventricle, mm, and its radius at each station for calibre 1.
_FRONT_TO_BACK: tuple[Vector, ...] = (
    (10, -34, 8),
    (9, -22, 14),
    (10, -4, 20),
    (14, 14, 21),
    (22, 28, 14),
    (25, 42, 8),
    (22, 56, 6),
)
_BODY_RADII = (2.6, 4.2, 4.2, 4.6, 6.8, 4.2, 1.6)
_TEMPORAL: tuple[Vector, ...] = ((22, 28, 14), (31, 22, 0), (33, 4, -13), (30, -8, -17))
_TEMPORAL_RADII = (6.2, 3.4, 2.0, 1.4)


class Ventricles:
    """Size and shape of one ventricular system."""

    def __init__(self, rng: np.random.Generator, atrophy: float) -> None:
        young, old = WIDTH_YOUNG.draw(rng), WIDTH_OLD.draw(rng)
        self.calibre = young + (old - young) * atrophy
        self.hydrocephalus = bool(rng.random() < 0.06)
        if self.hydrocephalus:
            self.calibre = HYDROCEPHALUS.draw(rng)
        self.asymmetry = ASYMMETRY.draw(rng)
        self.third = float(
            np.clip(0.6 + 2.6 * (self.calibre - 0.4) * rng.uniform(0.6, 1.2), 0.7, 7)
        )
        self.septum = float(rng.uniform(0.5, 0.9))  # half thickness, mm

    def widen(self, share: float) -> None:
        """Blood in a ventricle stretches it: enlarge the calibre by `share`."""
        self.calibre *= 1 + share
        self.third *= 1 + share

    def distance(self, q: Points) -> Array:
        """Distance to the walls of all ventricles, mm, negative inside."""
        side = np.where(q.x > 0, 1 + self.asymmetry, 1 - self.asymmetry)
        calibre = self.calibre * side
        folded = Points(np.abs(q.x), q.y, q.z)
        scale = np.sqrt(calibre)  # stations move apart less than the calibre grows
        body = tube(folded, _FRONT_TO_BACK, _BODY_RADII, join=1.5) - 4.4 * (calibre - 1)
        horn = tube(folded, _TEMPORAL, _TEMPORAL_RADII, join=1.0) - 2.4 * (calibre - 1)
        lateral = smooth_min(body, horn, 2.0)
        caudate = ellipsoid(folded, (17.0, -21.0, 8.0), (6.0, 11.0, 10.0)) * (1 / scale)
        thalamus = ellipsoid(folded, (12.0, 10.0, 7.0), (8.0, 14.0, 9.0)) * (1 / scale)
        lateral = np.maximum(lateral, -np.minimum(caudate, thalamus))
        lateral = np.maximum(lateral, self.septum - folded.x)
        slit = np.abs(q.x) - self.third
        third = smooth_max(slit, (np.hypot((q.y - 1) / 15, (q.z - 1) / 10) - 1) * 10, 3.0)
        fourth = ellipsoid(
            q, (0.0, 33.0, -34.0), (5.0 + 2.2 * self.calibre, 2.8 + 2 * self.calibre, 10.0)
        )
        return np.asarray(np.minimum.reduce([lateral, third, fourth]))
