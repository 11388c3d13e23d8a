"""Intraventricular hemorrhage."""

from __future__ import annotations

import numpy as np

from .arrays import Array, Points
from .bleed import ACUTE_HU, Bleed
from .options import BleedType, Tissue
from .scene import Scene
from .shapes import Vector
from .ventricles import Ventricles
from .waves import Waves


class Intraventricular(Bleed):
    """Blood in the ventricles: settled with a level, or a cast of a part."""

    kind = BleedType.INTRAVENTRICULAR

    def __init__(self, rng: np.random.Generator, ventricles: Ventricles, volume_ml: float) -> None:
        self._ventricles = ventricles
        ventricles.widen(float(rng.uniform(0.0, 0.35)) * min(1.0, volume_ml / 10))
        self.hu = ACUTE_HU.draw(rng)
        self.settled = bool(rng.random() < 0.6)
        self._seat: Vector = (
            (12.0, -20.0, 12.0),
            (-12.0, -20.0, 12.0),
            (0.0, 5.0, -2.0),
            (22.0, 28.0, 12.0),
            (-22.0, 28.0, 12.0),
            (0.0, 33.0, -34.0),
        )[int(rng.integers(6))]
        self._edge = Waves(rng, 14.0, 8)
        self._grain = Waves(rng, 9.0, 8)
        self._spread = float(rng.uniform(1, 6))
        self._one_sided = float(rng.choice([-1.0, 0.0, 1.0], p=[0.25, 0.5, 0.25]))
        self._fit(volume_ml)

    def _fit(self, volume_ml: float) -> None:
        step = 3.0
        axes = (np.arange(-48, 49, step), np.arange(-50, 75, step), np.arange(-48, 42, step))
        z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
        p = Points(*(a.astype(np.float32) for a in (x, y, z)))
        inside = self._ventricles.distance(p) < 0
        points = Points(p.x[inside], p.y[inside], p.z[inside])
        order = self._order(points, points.y)
        wanted = int(np.clip(volume_ml * 1000 / step**3, 3, 0.95 * order.size))
        chosen = np.argpartition(order, wanted - 1)[:wanted]
        self._limit = float(order[chosen].max())
        self.volume_ml = wanted * step**3 / 1000
        z_chosen = points.z[chosen]
        middle = chosen[np.argmin(np.abs(z_chosen - np.median(z_chosen)))]
        self.centre = (float(points.x[middle]), float(points.y[middle]), float(z_chosen.mean()))
        self.heights = float(z_chosen.min()), float(z_chosen.max())

    def _order(self, q: Points, low: Array) -> Array:
        """The order in which points fill, mm: the lowest first, or those nearest a clot's seat."""
        if self.settled:
            other = 25.0 * (q.x * self._one_sided < 0)
            return np.asarray(-low + other + 0.6 * self._edge.at(q))
        d = [a - b for a, b in zip(q, self._seat, strict=True)]
        return np.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2) + 3.0 * self._edge.at(q)

    def paint(self, scene: Scene) -> None:
        """Fill the chosen part of the ventricles."""
        order = self._order(scene.q, scene.gravity) - self._limit
        field = np.maximum(scene.ventricles, order)
        lifted = scene.grid.lift(field, 0.0)
        if lifted is None:
            return
        hu = self.hu + self._spread * self._grain.at(scene.q)
        value = scene.grid.values(hu, lifted.window)
        cover = lifted.below()
        scene.canvas.blend(lifted.window, cover, value, Tissue.BLOOD)
        self._label(scene, lifted.window, cover)
