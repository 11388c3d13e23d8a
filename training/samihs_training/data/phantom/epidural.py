"""Epidural hemorrhage: between the skull and the dura."""

from __future__ import annotations

import numpy as np

from .content import Content
from .extraaxial import ExtraAxial
from .layers import Layer
from .options import BleedType
from .ranges import Range
from .skull import Skull

STAGE_SHARES = {
    "acute": 0.6,  # textbook: two thirds are evenly dense
    "mixed": 0.25,  # textbook: a third is mixed, clot beside blood that has not clotted
    "subacute": 0.15,  # chosen: isodense ones, in anemia or some days old
}
VENOUS = 0.3  # share fed by a torn sinus or the diploe: chosen; textbook: 10 to 30 %
LENS_SHARE = Range(0.75, 1.2, "1", "chosen: an artery strips the dura off against its hold")
VENOUS_SHARE = Range(0.3, 0.6, "1", "chosen: low pressure, a thin layer along the bone")


class Epidural(ExtraAxial):
    """A lens fed by an artery, or a thinner layer fed by veins."""

    kind = BleedType.EPIDURAL
    strips_dura = True

    def __init__(self, rng: np.random.Generator, skull: Skull, volume_ml: float) -> None:
        self.volume_ml = volume_ml
        self.venous = bool(rng.random() < VENOUS)
        side = rng.choice([-1.0, 1.0])
        direction = np.array(
            [side * rng.uniform(0.55, 1.0), rng.uniform(-0.75, 0.6), rng.uniform(-0.35, 0.7)]
        )
        share = (VENOUS_SHARE if self.venous else LENS_SHARE).draw(rng)
        thickness = float(np.clip(4.6 * volume_ml ** (1 / 3) * share, 2.5, 40))
        self._layer = Layer(rng, skull, direction, thickness, volume_ml, lens=True)
        self.centre = self._layer.centre
        self.heights = self._layer.heights
        stage = str(rng.choice(list(STAGE_SHARES), p=list(STAGE_SHARES.values())))
        self.content = Content(rng, stage)
        self._reach = float(rng.uniform(18, 45))
