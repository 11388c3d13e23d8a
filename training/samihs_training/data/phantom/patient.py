"""One patient: head, brain, bleeds and incidental findings, all drawn from one seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .arrays import Array, Points
from .bleed import VOLUMES, Bleed
from .brain import Brain
from .epidural import Epidural
from .face import Face
from .fractures import Fracture, draw_fracture
from .gaps import Gap
from .incidentals import (
    SINUS_SIZE,
    Incidental,
    calcifications,
    hardware,
    lesions,
    vessels,
)
from .intraparenchymal import Intraparenchymal
from .intraventricular import Intraventricular
from .options import BleedType, PhantomOptions
from .ranges import Range
from .skull import Skull
from .streams import DURA, FRACTURES, SINUSES, SUTURES, SideStreams
from .subarachnoid import Subarachnoid
from .subdural import DuralSheet, Subdural
from .sutures import Suture, draw_sutures
from .ventricles import Ventricles
from .waves import Waves

AGE = Range(18, 95, "years", "chosen: adults")
DURA_MM = Range(0.4, 1.1, "mm", "textbook: dura 0.3 to 0.8 mm thick, and the veins along it")
WARP_MM = Range(1.0, 2.6, "mm", "chosen: individual and left-right differences of the brain")
WITHOUT_BLEED = 0.12  # share of patients without bleeding when the mix is left to chance
BILATERAL = 0.12  # share of subdural collections with another over the other hemisphere
ON_DURA = 0.15  # share of subdural collections on falx or tentorium: chosen
LARGEST_ON_DURA_ML = 40.0  # chosen: what a sheet there holds
COUNT_SHARES = (0.62, 0.25, 0.13)  # one, two, three bleeds
TYPE_SHARES = {
    BleedType.INTRAPARENCHYMAL: 0.26,
    BleedType.INTRAVENTRICULAR: 0.13,
    BleedType.SUBARACHNOID: 0.17,
    BleedType.SUBDURAL: 0.30,
    BleedType.EPIDURAL: 0.14,
}


class Patient:
    """Everything about one head that does not depend on how it is scanned."""

    def __init__(self, rng: np.random.Generator, options: PhantomOptions) -> None:
        beside = SideStreams(rng)
        drawn_age = AGE.draw(rng)
        self.age = drawn_age if options.age_years is None else options.age_years
        self.skull = Skull(rng)
        self.face = Face(rng, self.skull)
        self.brain = Brain(rng, self.skull, self.age)
        self.ventricles = Ventricles(rng, self.brain.atrophy)
        self._warp = [(WARP_MM.draw(rng), Waves(rng, 75.0, 6)) for _ in range(3)]
        self.bleeds = self._draw_bleeds(rng, options)
        self.dura_mm = DURA_MM.draw(beside.stream(DURA))
        sinus = SINUS_SIZE.draw(beside.stream(SINUSES))
        self.incidentals = self._draw_incidentals(rng, options, sinus)
        self.sutures: list[Suture] = []
        self.fracture: Fracture | None = None
        if options.bone_detail:
            self.sutures = draw_sutures(beside.stream(SUTURES), self.skull, self.age)
            self.fracture = draw_fracture(
                beside.stream(FRACTURES), self.skull, self.face.bruise, self.bleeds
            )

    @property
    def gaps(self) -> list[Gap]:
        """All narrow openings of the skull, in the order in which they are painted."""
        lines = self.fracture.lines if self.fracture is not None else ()
        return [*self.sutures, *lines]

    def displaced(self, p: Points, depth: Array, vault_depth: Array) -> Points:
        """Where the tissue at p would lie in a symmetric head without any mass, mm.

        `depth` below the inner surface of the skull, `vault_depth` below the vault alone, mm.
        """
        damped = np.clip(depth / 10.0, 0, 1)
        q = p.moved(*(np.float32(size) * wave.at(p) * damped for size, wave in self._warp))
        total = [np.zeros_like(p.x) for _ in range(3)]
        for bleed in self.bleeds:
            push = bleed.push(p, depth, vault_depth)
            if push is not None:
                for axis in range(3):
                    total[axis] += push[axis]
        return q.moved(*total)

    def effacement(self, p: Points) -> Array:
        """0 to 1: how far the masses close the sulci around each point."""
        closed = np.zeros_like(p.x)
        for bleed in self.bleeds:
            if bleed.kind in (BleedType.SUBARACHNOID, BleedType.INTRAVENTRICULAR):
                continue
            size = (bleed.volume_ml * 1000) ** (1 / 3)
            d = [a - b for a, b in zip(p, bleed.centre, strict=True)]
            far = np.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2)
            strength = min(1.0, bleed.volume_ml / 35)
            closed = np.maximum(closed, strength * np.exp(-((far / (1.6 * size + 12)) ** 2)))
        return closed

    def swelling(self, p: Points) -> Array:
        """mm that blood adds to the half width of sulci."""
        total = np.zeros_like(p.x)
        for bleed in self.bleeds:
            widened = bleed.widen_sulci(p)
            if widened is not None:
                total = np.maximum(total, widened)
        return total

    def _draw_bleeds(self, rng: np.random.Generator, options: PhantomOptions) -> list[Bleed]:
        kinds: Sequence[BleedType]
        if options.bleeds is not None:
            kinds = options.bleeds
        elif rng.random() < WITHOUT_BLEED:
            kinds = ()
        else:
            types = list(TYPE_SHARES)
            count = int(rng.choice([1, 2, 3], p=COUNT_SHARES))
            picked = rng.choice(len(types), count, p=list(TYPE_SHARES.values()))
            kinds = [types[int(i)] for i in picked]
            if BleedType.SUBDURAL in kinds and rng.random() < BILATERAL:
                kinds = [*kinds, BleedType.SUBDURAL]
        drawn: list[Bleed] = []
        for kind in kinds:
            # A second collection over the convexity lies over the other hemisphere.
            sides = [-b.side for b in drawn if isinstance(b, Subdural)]
            drawn.append(self._draw_bleed(rng, kind, options, sides[0] if sides else None))
        return drawn

    def _draw_bleed(
        self,
        rng: np.random.Generator,
        kind: BleedType,
        options: PhantomOptions,
        side: float | None,
    ) -> Bleed:
        volumes = VOLUMES[kind]
        if options.volume_range_ml is not None:
            volumes = volumes.clipped(*options.volume_range_ml)
        volume = volumes.draw(rng)
        if kind is BleedType.INTRAPARENCHYMAL:
            return Intraparenchymal(rng, self.skull, volume)
        if kind is BleedType.INTRAVENTRICULAR:
            return Intraventricular(rng, self.ventricles, volume)
        if kind is BleedType.SUBARACHNOID:
            return Subarachnoid(rng, self.skull, self.brain, volume)
        if kind is BleedType.EPIDURAL:
            return Epidural(rng, self.skull, volume)
        if rng.random() < ON_DURA and volumes.low <= LARGEST_ON_DURA_ML:
            return DuralSheet(rng, self.skull, min(volume, LARGEST_ON_DURA_ML))
        return Subdural(rng, self.skull, volume, side)

    def _draw_incidentals(
        self, rng: np.random.Generator, options: PhantomOptions, sinus: float
    ) -> list[Incidental]:
        found = vessels(rng, self.skull, sinus)
        if options.distractors:
            found += calcifications(rng, self.skull, self.age)
            found += lesions(rng, self.skull, self.age)
            found += hardware(rng, self.skull)
        return found
