"""Irregular rounded solids: hematomas, tumours, infarcts."""

from __future__ import annotations

import numpy as np

from .arrays import Array, Points, heights_of
from .shapes import Turned, Vector, ellipsoid, random_rotation
from .waves import Waves


class Blob:
    """One to three merged ellipsoids with a bumpy surface, of a given volume."""

    def __init__(
        self,
        rng: np.random.Generator,
        centre: Vector,
        volume_ml: float,
        roughness: float,
        elongation: float = 0.35,
        lobes: int = 1,
    ) -> None:
        """`roughness`: height of the bumps relative to the radius; `elongation`: spread of axes."""
        self.centre = centre
        self.radius = (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)  # mm
        axes = np.exp(rng.normal(0, elongation, 3))
        axes *= self.radius / np.prod(axes) ** (1 / 3)
        self._radii: Vector = (float(axes[0]), float(axes[1]), float(axes[2]))
        self._frame = Turned(centre, random_rotation(rng))
        self._bump = roughness * self.radius
        self._waves = Waves(rng, float(np.clip(1.5 * self.radius, 6, 60)), 10)
        self._small = Waves(rng, float(np.clip(0.6 * self.radius, 4, 20)), 8)
        self._lobes: list[tuple[Vector, float]] = []
        for _ in range(lobes - 1):
            shift = rng.normal(size=3)
            shift *= self.radius / np.linalg.norm(shift)
            self._lobes.append(((shift[0], shift[1], shift[2]), float(rng.uniform(0.4, 0.7))))
        # Bumps and lobes change the volume; scale the whole to the volume asked for.
        share = 1 + 0.55 * sum(size**3 for _, size in self._lobes) + 2.2 * roughness**2
        self._shrink = share ** (-1 / 3)
        self.reach = self.radius * (
            max(self._radii) / self.radius + 3 * roughness + (0.8 if self._lobes else 0.0)
        )

    def far_from(self, p: Points, margin: float) -> bool:
        """Whether all points lie more than `margin` mm outside and need no evaluation."""
        d2 = sum((c - np.float32(o)) ** 2 for c, o in zip(p, self.centre, strict=True))
        return bool(float(np.min(d2)) > (self.reach + margin) ** 2)

    def heights(self) -> tuple[float, float]:
        """Lowest and highest z of the solid, mm."""
        steps = np.linspace(-self.reach, self.reach, 21)
        z, y, x = np.meshgrid(*(steps + c for c in self.centre[::-1]), indexing="ij")
        p = Points(*(a.astype(np.float32) for a in (x, y, z)))
        return heights_of(p.z, self.distance(p) < 0)

    def distance(self, p: Points) -> Array:
        """Distance to the surface, mm, negative inside."""
        local = self._frame.local(p)
        a, b, c = (r * self._shrink for r in self._radii)
        solid = ellipsoid(local, (0.0, 0.0, 0.0), (a, b, c))
        for shift, size in self._lobes:
            r = self.radius * size * self._shrink
            solid = np.minimum(solid, ellipsoid(local, shift, (r, r, r)))
        return np.asarray(solid + self._bump * (0.9 * self._waves.at(p) + 0.2 * self._small.at(p)))

    def push(self, p: Points, strength: float) -> tuple[Array, Array, Array]:
        """Step back from where tissue is to where it was before the solid grew (dx, dy, dz), mm.

        Incompressible tissue around a sphere of volume V moves outward so that r^3 grows by V.
        """
        d = [c - np.float32(o) for c, o in zip(p, self.centre, strict=True)]
        r = np.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2) + 1e-3
        grown = np.float32(strength * self.radius**3)
        origin = np.cbrt(np.maximum(r**3 - grown, 0.02 * r**3))
        share = origin / r - 1
        return d[0] * share, d[1] * share, d[2] * share
