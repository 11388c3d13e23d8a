"""Subdural hemorrhage: over the convexity, along falx or tentorium."""

from __future__ import annotations

import numpy as np

from .arrays import Array, Points
from .bleed import Bleed
from .content import STAGE_SHARES, STAGES, Content
from .extraaxial import ExtraAxial
from .layers import Layer
from .options import BleedType
from .scene import Scene
from .skull import Skull
from .waves import Waves


class Subdural(ExtraAxial):
    """A crescent over one hemisphere."""

    kind = BleedType.SUBDURAL

    def __init__(
        self, rng: np.random.Generator, skull: Skull, volume_ml: float, side: float | None = None
    ) -> None:
        self.volume_ml = volume_ml
        self.side = float(rng.choice([-1.0, 1.0])) if side is None else side
        direction = np.array([self.side, rng.normal(0, 0.45), rng.uniform(-0.05, 0.75)])
        thickness = float(np.clip(3.4 * volume_ml ** (1 / 3) * rng.uniform(0.55, 1.4), 1.5, 30))
        self._layer = Layer(rng, skull, direction, thickness, volume_ml, lens=False)
        self.centre = self._layer.centre
        self.heights = self._layer.heights
        stages = STAGES if volume_ml > 6 else STAGES[:4]
        shares = np.array(STAGE_SHARES[: len(stages)])
        self.content = Content(rng, str(rng.choice(stages, p=shares / shares.sum())))
        self._reach = float(rng.uniform(30, 80))

    def _bounds(self, p: Points) -> Array:
        """The falx keeps a crescent over its own hemisphere."""
        return 1.2 - p.x * self._layer.side


class DuralSheet(Bleed):
    """A thin subdural layer on the falx or on the tentorium."""

    kind = BleedType.SUBDURAL

    def __init__(self, rng: np.random.Generator, skull: Skull, volume_ml: float) -> None:
        self.volume_ml = volume_ml
        self.on_falx = bool(rng.random() < 0.7)
        self.side = float(rng.choice([-1.0, 1.0]))
        self.thickness = float(np.clip(2.2 * volume_ml ** (1 / 3) * rng.uniform(0.7, 1.3), 1.5, 14))
        extent = (1000 * volume_ml / (np.pi * 0.6 * self.thickness)) ** 0.5
        self._extent = float(np.clip(extent, 8, 75))
        if self.on_falx:
            y = float(rng.choice([rng.uniform(-60, -25), rng.uniform(15, 70)]))
            high = skull.height * np.sqrt(max(0.05, 1 - (y / skull.half_length) ** 2))
            self.centre = (self.side * 0.5 * self.thickness, y, float(0.62 * high))
            lowest, highest = (-2.0 if y > 0 else -14.0), float(high)
        else:
            x = self.side * float(rng.uniform(18, 35))
            y = float(rng.uniform(32, 62))
            z = 4.0 - 0.52 * (abs(x) - 6) - 0.32 * max(y - 40, 0) + 0.5 * skull.floor
            self.centre = (x, y, z)
            lowest, highest = z - 20.0, z + 12.0
        # The tentorium descends by half of its reach to the side.
        reach = self._extent * (1.0 if self.on_falx else 0.5)
        middle = self.centre[2]
        self.heights = max(middle - reach, lowest), min(middle + reach, highest)
        self.content = Content(rng, str(rng.choice(["acute", "subacute"], p=[0.8, 0.2])))
        self._uneven = Waves(rng, 30.0, 6)

    def push(
        self, p: Points, depth: Array, vault_depth: Array
    ) -> tuple[Array, Array, Array] | None:
        """A layer on the falx pushes the hemisphere away from it."""
        if not self.on_falx:
            return None
        beside = np.clip(p.x * self.side, 0, None)
        step = np.maximum(self._thickness(p), 0) * np.exp(-beside / 18.0) * (p.x * self.side > 0)
        zero = np.zeros_like(step)
        return -self.side * step, zero, zero

    def _thickness(self, p: Points) -> Array:
        if self.on_falx:
            far2 = ((p.y - self.centre[1]) / 1.2) ** 2 + (p.z - self.centre[2]) ** 2
        else:
            far2 = ((p.y - self.centre[1]) / 1.2) ** 2 + (p.x - self.centre[0]) ** 2
        far = np.sqrt(far2) / self._extent
        profile = (1 - np.minimum(far, 1.0) ** 3) * (1 + 0.15 * self._uneven.at(p))
        return self.thickness * profile - 4.0 * np.maximum(far - 1, 0)

    def paint(self, scene: Scene) -> None:
        """Lay the blood on its sheet."""
        p, f = scene.p, scene.fields
        if self.on_falx:
            away = p.x * self.side - 0.6
            hang = -20.0 * np.ones_like(p.x)
            rim = (1 - np.sqrt(((p.y - 2) / 44) ** 2 + ((p.z - 4) / 29) ** 2)) * 29.0
            edge = np.maximum(np.maximum(rim, hang), -2.0 - p.z - 12 * (p.y < 0))
        else:
            away = f.tentorium - 0.6
            edge = np.maximum(f.tentorium_edge, 3.0 - p.x * self.side)
        field = np.maximum(np.maximum(-away, away - self._thickness(p)), edge)
        lifted = scene.grid.lift(np.maximum(field, scene.inner), 0.0)
        if lifted is None:
            return
        cover = lifted.below() * scene.within_dura(lifted.window)
        self.content.paint(self, scene, lifted, cover)
        self._label(scene, lifted.window, cover)
