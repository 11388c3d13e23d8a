"""Subarachnoid hemorrhage."""

from __future__ import annotations

import numpy as np

from .arrays import Array, Points, heights_of, sigmoid
from .bleed import Bleed
from .brain import Brain
from .options import BleedType, Tissue
from .ranges import Range
from .scene import Scene
from .sites import convexity_site
from .skull import Skull
from .waves import Waves

SAH_HU = Range(46, 75, "HU", "textbook: blood mixed with CSF, above grey matter")


class Subarachnoid(Bleed):
    """Blood in sulci, fissures and cisterns: thin, following the brain's surface."""

    kind = BleedType.SUBARACHNOID

    def __init__(
        self, rng: np.random.Generator, skull: Skull, brain: Brain, volume_ml: float
    ) -> None:
        self.volume_ml = volume_ml
        self.basal = bool(rng.random() < 0.5)
        if self.basal:
            self.centre = (float(rng.normal(0, 12)), float(rng.normal(-10, 8)), -12.0)
        else:
            self.centre = convexity_site(rng, skull, 0.88)
        self.hu = SAH_HU.draw(rng)
        self._widen = float(rng.uniform(0.35, 1.1))  # mm
        self._patch = Waves(rng, float(np.clip(9 * volume_ml ** (1 / 3), 14, 40)), 10)
        self._grain = Waves(rng, 12.0, 8)
        self._fit(rng, brain)

    def _fit(self, rng: np.random.Generator, brain: Brain) -> None:
        """The radius, mm, within which the subarachnoid space holds the volume asked for.

        Points scattered evenly over radii find the share of CSF around the centre.
        """
        samples, largest = 6000, 75.0
        far = np.sort(rng.uniform(0, largest, samples))
        unit = rng.normal(size=(3, samples))
        unit *= far / np.linalg.norm(unit, axis=0)
        p = Points(*((u + c).astype(np.float32) for u, c in zip(unit, self.centre, strict=True)))
        fluid = brain.is_fluid(p, self._widen)
        volume = np.cumsum(fluid * 4 * np.pi * far**2) * (largest / samples) / 1000  # mL
        order = int(np.searchsorted(volume, self.volume_ml))
        self.volume_ml = min(self.volume_ml, float(volume[-1]))
        self._radius = float(max(far[min(order, samples - 1)], 5.0))
        self.heights = heights_of(p.z, fluid & (self._region(p) < 0))

    def _region(self, p: Points) -> Array:
        """Below 0 where blood has spread, mm."""
        d = [a - b for a, b in zip(p, self.centre, strict=True)]
        far = np.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2)
        return far - self._radius * (1 + 0.25 * self._patch.at(p))

    def widen_sulci(self, p: Points) -> Array:
        """Blood holds sulci open."""
        return self._widen * sigmoid(-self._region(p) / 2.0)

    def paint(self, scene: Scene) -> None:
        """Replace CSF by blood within the region."""
        lifted = scene.grid.lift(self._region(scene.p), 2.0)
        if lifted is None:
            return
        window = lifted.window
        soft = 1 - np.clip((lifted.middle + 2.0) / 4.0, 0, 1)
        cover = scene.csf[:, *window.index] * soft * scene.within_dura(window)
        value = scene.grid.values(self.hu + 4.0 * self._grain.at(scene.p), window)
        scene.canvas.blend(window, cover, value, Tissue.BLOOD)
        self._label(scene, window, cover)
