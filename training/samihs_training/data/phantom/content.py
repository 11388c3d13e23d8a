"""What fills a collection between skull and brain: blood of any age, levels, septa."""

from __future__ import annotations

import numpy as np

from .arrays import Array, sigmoid
from .bleed import ACUTE_HU, SUBACUTE_HU, Bleed
from .canvas import Lifted
from .options import Tissue
from .ranges import Range
from .scene import Scene
from .waves import Waves

CHRONIC_HU = Range(8, 28, "HU", "textbook: chronic subdural 0 to 30 HU")
MEMBRANE_HU = Range(32, 52, "HU", "chosen: septa and membranes, near brain")
STAGES = ("acute", "mixed", "subacute", "chronic", "septated", "layered")
STAGE_SHARES = (0.27, 0.08, 0.17, 0.2, 0.18, 0.1)  # chronic ones must be well represented


class Content:
    """HU inside a collection: even, swirled, settled in a level, or in compartments."""

    def __init__(self, rng: np.random.Generator, stage: str) -> None:
        self.stage = stage
        ranges = {
            "acute": ACUTE_HU,
            "mixed": ACUTE_HU,
            "subacute": SUBACUTE_HU,
            "chronic": CHRONIC_HU,
            "septated": CHRONIC_HU,
            "layered": CHRONIC_HU,
        }
        self.hu = ranges[stage].draw(rng)
        self._spread = float(rng.uniform(0.5, 3.0))
        self._swirl = float(rng.uniform(15, 35)) if stage == "mixed" else 0.0
        self._low_hu = float(rng.uniform(38, 68)) if stage == "layered" else self.hu
        self._sharp = float(rng.uniform(1.0, 6.0))  # mm over which a level turns
        self._level = float(rng.uniform(-15, 25))  # mm behind the collection's centre
        self._grain = Waves(rng, 16.0, 8)
        self._walls = Waves(rng, float(rng.uniform(22, 45)), 10)
        self._differ = float(rng.uniform(0, 7)) if stage == "septated" else 0.0
        self.septum = float(rng.uniform(0.5, 1.3)) if stage == "septated" else 0.0  # half, mm
        lined = stage in ("chronic", "septated", "layered") and rng.random() < 0.5
        self.lining = float(rng.uniform(0.6, 1.4)) if lined else 0.0  # mm, inner membrane
        self.membrane_hu = MEMBRANE_HU.draw(rng)

    def paint(self, bleed: Bleed, scene: Scene, lifted: Lifted, cover: Array) -> None:
        """HU and labels of the collection that `cover` outlines."""
        p, grid, canvas = scene.p, scene.grid, scene.canvas
        grain = self._grain.at(p)
        hu = self.hu + self._spread * grain - self._swirl * sigmoid(3 * (grain - 0.4))
        if self.stage == "layered":
            low = scene.gravity - scene.gravity_of(bleed.centre) - self._level
            hu = hu + (self._low_hu - self.hu) * sigmoid(low / self._sharp)
        walls = self._walls.at(p) if self.septum else None
        if walls is not None:
            hu = hu + self._differ * np.tanh(walls * 4)
        window = lifted.window
        canvas.blend(window, cover, grid.values(hu, window), Tissue.BLOOD)
        thin = np.zeros_like(cover)
        if walls is not None:
            spacing = grid.step * grid.pixel
            slope = np.sqrt(
                np.gradient(walls, axis=1) ** 2 + np.gradient(walls, axis=2) ** 2 + 1e-3
            )
            sheet = grid.lift_to(walls / slope * spacing, window)
            thin = sheet.within(self.septum) * cover
        if self.lining:
            rim = (lifted.middle > -self.lining) & (lifted.middle < 0.5)
            thin = np.maximum(thin, rim * cover)
        if walls is not None or self.lining:
            canvas.blend(window, thin, self.membrane_hu, Tissue.MEMBRANE)
