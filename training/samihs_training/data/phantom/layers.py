"""Extra-axial collections: where between skull and brain, and how thick, a layer of blood lies."""

from __future__ import annotations

import numpy as np

from .arrays import Array, Points, heights_of
from .skull import Skull
from .waves import Waves

GLARE_MM = 0.7  # measured: how much of a layer the bone's blur hides, in the masks as to the eye
_SAMPLES = 6000  # directions used to measure a layer's volume: one per about 12 mm2 of skull


def _directions() -> Array:
    """Evenly spread unit vectors (Fibonacci lattice), float32 [samples, 3]."""
    i = np.arange(_SAMPLES) + 0.5
    polar = np.arccos(1 - 2 * i / _SAMPLES)
    turn = np.pi * (1 + 5**0.5) * i
    return np.stack(
        [np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], 1
    ).astype(np.float32)


class Layer:
    """Thickness of a collection over the inner surface of the skull.

    Crescent (subdural): long and of even thickness, thinning at its ends, kept off the middle line.
    Lens (epidural): short and steep, thickest in the middle.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        skull: Skull,
        direction: Array,
        thickness: float,
        volume_ml: float,
        lens: bool,
    ) -> None:
        self.skull = skull
        self._lens = lens
        self.thickness = thickness
        unit = (direction / np.linalg.norm(direction)).astype(np.float32)
        self.side = 1.0 if unit[0] >= 0 else -1.0
        ray = Points(*(np.full(1, 60 * c, np.float32) for c in unit))
        self._centre = (60 * unit / skull.level(ray)).astype(np.float32)
        along = np.array([0, 1, 0]) - unit[1] * unit
        along /= np.linalg.norm(along)
        turn = rng.uniform(-0.4, 0.4)
        up = np.cross(unit, along)
        self._along = (np.cos(turn) * along + np.sin(turn) * up).astype(np.float32)
        self._up = np.cross(unit, self._along).astype(np.float32)
        self._aspect = float(rng.uniform(0.8, 1.25) if lens else rng.uniform(1.1, 2.2))
        self._wobble = Waves(rng, 45.0, 6)
        self._uneven = Waves(rng, 38.0, 6)
        self._unevenness = 0.06 if lens else 0.13
        self._tip = float(rng.uniform(2.5, 5.0))  # how late a crescent thins toward its ends
        self.extent = (900 * volume_ml / (np.pi * 0.6 * thickness)) ** 0.5
        self._fit(volume_ml)
        self.centre: tuple[float, float, float] = tuple(float(c) for c in self._centre)  # type: ignore[assignment]

    def at(self, p: Points) -> Array:
        """Thickness under the skull at each point's direction, mm; negative beyond the edge."""
        return self._over(p, np.maximum(self.skull.level(p), 0.2))

    def _over(self, p: Points, level: Array) -> Array:
        s = [c / level - o for c, o in zip(p, self._centre, strict=True)]
        a = s[0] * self._along[0] + s[1] * self._along[1] + s[2] * self._along[2]
        b = s[0] * self._up[0] + s[1] * self._up[1] + s[2] * self._up[2]
        long, short = self.extent * self._aspect**0.5, self.extent / self._aspect**0.5
        far = np.sqrt((a / long) ** 2 + (b / short) ** 2)
        behind = (p.x * self._centre[0] + p.y * self._centre[1] + p.z * self._centre[2]) < 0
        far = np.where(behind, 2.0, far * (1 + 0.12 * self._wobble.at(p)))
        inside = 1 - np.minimum(far, 1.0) ** (2.0 if self._lens else self._tip)
        profile = inside if self._lens else inside**0.7
        uneven = 1 + self._unevenness * self._uneven.at(p)
        return np.asarray(self.thickness * profile * uneven - 3.0 * np.maximum(far - 1, 0))

    def _fit(self, volume_ml: float) -> None:
        """Scale the extent (and, if the skull is too small, the thickness) to the volume."""
        unit = _directions()
        ray = Points(*(60 * unit[:, i] for i in range(3)))
        scale = 1 / self.skull.level(ray)
        surface = Points(*(c * scale for c in ray))
        normal = self.skull.outward(surface)
        cosine = sum(n * unit[:, i] for i, n in enumerate(normal))
        radius2 = surface.x**2 + surface.y**2 + surface.z**2
        area = 4 * np.pi / _SAMPLES * radius2 / np.maximum(cosine, 0.3)
        height, _ = self.skull.floor_height(surface)
        area = area * (surface.z > height)
        if not self._lens:
            area = area * (surface.x * self.side > 1.5)
        one = np.ones(_SAMPLES, np.float32)
        wanted = volume_ml * 1000
        limit = 55.0 if self._lens else 95.0
        for _ in range(4):
            thick = np.maximum(self._over(surface, one) - GLARE_MM, 0)
            # A layer under a curved skull holds less than area times thickness.
            volume = float((area * thick * (1 - thick / np.sqrt(radius2))).sum())
            ratio = wanted / max(volume, 1.0)
            grown = self.extent * float(np.clip(ratio, 0.3, 3.0)) ** 0.5
            if grown > limit:
                self.thickness *= float(np.clip(ratio, 0.5, 2.0)) ** 0.8
                grown = min(self.extent, limit)
            self.extent = grown
        visible = self._over(surface, one) > GLARE_MM
        self.heights = heights_of(surface.z, visible & (area > 0))
