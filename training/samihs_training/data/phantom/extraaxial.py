"""Blood between skull and brain, and epidural hemorrhage."""

from __future__ import annotations

import numpy as np

from .arrays import Array, Points, sigmoid
from .bleed import ACUTE_HU, Bleed
from .layers import Layer
from .options import BleedType, Tissue
from .scene import Scene
from .skull import Skull
from .waves import Waves


class ExtraAxial(Bleed):
    """Blood between skull and brain: shared by subdural and epidural collections."""

    _layer: Layer
    _reach: float

    def push(self, p: Points, depth: Array, vault_depth: Array) -> tuple[Array, Array, Array]:
        """The brain under the collection moves away from the skull, and less the deeper it lies."""
        thick = np.maximum(self._layer.at(p), 0)
        step = thick * np.exp(-np.maximum(vault_depth - thick, 0) / self._reach)
        out = self._layer.skull.outward(p)
        return out.x * step, out.y * step, out.z * step


class Epidural(ExtraAxial):
    """A lens between skull and dura."""

    kind = BleedType.EPIDURAL

    def __init__(self, rng: np.random.Generator, skull: Skull, volume_ml: float) -> None:
        self.volume_ml = volume_ml
        side = rng.choice([-1.0, 1.0])
        direction = np.array(
            [side * rng.uniform(0.55, 1.0), rng.uniform(-0.75, 0.6), rng.uniform(-0.2, 0.7)]
        )
        thickness = float(np.clip(4.6 * volume_ml ** (1 / 3) * rng.uniform(0.75, 1.2), 2.5, 40))
        self._layer = Layer(rng, skull, direction, thickness, volume_ml, lens=True)
        self.centre = self._layer.centre
        self.heights = self._layer.heights
        self.hu = ACUTE_HU.draw(rng)
        self._spread = float(rng.uniform(1, 5))
        self._swirl = float(rng.uniform(8, 25)) if rng.random() < 0.35 else 0.0
        self._grain = Waves(rng, 14.0, 10)
        self._eddies = Waves(rng, 20.0, 8)
        self._reach = float(rng.uniform(18, 45))

    def paint(self, scene: Scene) -> None:
        """Fill the lens up to the bone."""
        p = scene.p
        lifted = scene.grid.lift(np.maximum(-scene.vault - self._layer.at(p), scene.inner - 2), 0.0)
        if lifted is None:
            return
        hu = self.hu + self._spread * self._grain.at(p)
        hu = hu - self._swirl * sigmoid(4 * (self._eddies.at(p) - 0.6))
        cover = lifted.below()
        value = scene.grid.values(hu, lifted.window)
        scene.canvas.blend(lifted.window, cover, value, Tissue.BLOOD)
        self._label(scene, lifted.window, cover)
