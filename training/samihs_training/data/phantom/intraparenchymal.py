"""Intraparenchymal hemorrhage."""

from __future__ import annotations

import numpy as np

from .arrays import Array, Points, sigmoid
from .bleed import ACUTE_HU, SUBACUTE_HU, Bleed
from .blobs import Blob
from .options import BleedType, Tissue
from .ranges import Range
from .scene import Scene
from .sites import moved_inward, parenchymal_site
from .skull import Skull
from .waves import Waves

EDEMA_DROP_HU = Range(6, 16, "HU", "textbook: edema 5 to 20 HU below brain")
LEAST_HU = 42.0  # a subacute hematoma darker than this is lost in grey matter


class Intraparenchymal(Bleed):
    """A hematoma in the brain, with edema around it, uneven inside, sometimes with a level."""

    kind = BleedType.INTRAPARENCHYMAL

    def __init__(self, rng: np.random.Generator, skull: Skull, volume_ml: float) -> None:
        self.volume_ml = volume_ml
        small = volume_ml < 3
        radius = (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
        self.centre = moved_inward(parenchymal_site(rng, skull), skull, 0.85 * radius)
        lobes = 1 if small else int(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15]))
        self._blob = Blob(rng, self.centre, volume_ml, float(rng.uniform(0.05, 0.2)), lobes=lobes)
        self.heights = self._blob.heights()
        late = rng.random() < 0.22
        self.hu = max((SUBACUTE_HU if late else ACUTE_HU).draw(rng), LEAST_HU)
        self._soft = float(rng.uniform(1.5, 4.0)) if late else float(rng.uniform(0.3, 1.2))  # mm
        self._spread = float(rng.uniform(1.0, 6.0))  # HU
        self._swirl = float(rng.uniform(8, 25)) if rng.random() < 0.3 else 0.0  # HU
        self._level = rng.random() < 0.08 and not small
        self._level_at = float(rng.uniform(-0.3, 0.3)) * self._blob.radius
        self._rim = float(rng.uniform(0.08, 0.5)) * self._blob.radius + float(rng.uniform(0.5, 3))
        self._rim_drop = EDEMA_DROP_HU.draw(rng)
        self._mass = float(rng.uniform(0.35, 0.85))
        self._grain = Waves(rng, max(5.0, 0.8 * self._blob.radius), 10)
        self._eddies = Waves(rng, max(7.0, 1.1 * self._blob.radius), 8)

    def push(self, p: Points, depth: Array, vault_depth: Array) -> tuple[Array, Array, Array]:
        """Tissue gives way in all directions, less so next to the skull."""
        dx, dy, dz = self._blob.push(p, self._mass)
        damped = np.clip(depth / 14.0, 0, 1)
        return dx * damped, dy * damped, dz * damped

    def paint(self, scene: Scene) -> None:
        """Edema first, then blood over it."""
        p = scene.p
        if self._blob.far_from(p, 2 * self._rim + 2):
            return
        distance = self._blob.distance(p)
        rim = distance - self._rim * (1 + 0.35 * self._eddies.at(p))
        lifted = scene.grid.lift(rim, 1.5)
        if lifted is None:
            return
        window = lifted.window
        brain = scene.parenchyma[:, *window.index]
        soft = 1 - np.clip((lifted.middle + 2.0) / 4.0, 0, 1)
        part = scene.canvas.hu[:, *window.index]
        drop = part - self._rim_drop
        scene.canvas.blend(window, soft * brain, drop)
        edema = (soft * brain).mean(axis=0) > 0.5
        scene.canvas.tissues[window.index][edema] = Tissue.EDEMA
        self._paint_blood(scene, distance)

    def _paint_blood(self, scene: Scene, distance: Array) -> None:
        p = scene.p
        solid = np.maximum(distance, 0.6 + scene.inner)
        lifted = scene.grid.lift(solid, self._soft)
        if lifted is None:
            return
        hu = self.hu + self._spread * self._grain.at(p)
        hu = hu - self._swirl * sigmoid(4 * (self._eddies.at(p) - 0.7))
        if self._level:
            low = scene.gravity - scene.gravity_of(self.centre) - self._level_at
            hu = hu - 28.0 * sigmoid(-low / 1.2)
        field = scene.grid.values(hu, lifted.window)
        cover = np.clip(0.5 - lifted.middle / (2 * self._soft), 0, 1) * lifted.below(self._soft)
        cover *= scene.within_dura(lifted.window)
        scene.canvas.blend(lifted.window, cover, field, Tissue.BLOOD)
        self._label(scene, lifted.window, cover)
