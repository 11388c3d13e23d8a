"""The brain in its undisplaced shape: cortex, sulci, deep nuclei, cisterns, falx, tentorium."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import Array, Points, sigmoid
from .ranges import Range
from .shapes import ellipsoid
from .skull import Skull
from .waves import Waves

GREY_HU = Range(34, 41, "HU", "textbook: grey matter 32 to 42 HU")
CONTRAST_HU = Range(5.5, 9.5, "HU", "textbook: grey minus white 5 to 10 HU")
CSF_HU = Range(2, 12, "HU", "textbook: CSF 0 to 15 HU")
DURA_HU = Range(42, 62, "HU", "textbook: dura denser than brain")
UNEVENNESS_HU = Range(0.4, 1.6, "HU", "chosen: by eye beside a real scan")
GYRUS_MM = Range(17, 25, "mm", "textbook: wavelength of two gyri, each 8 to 14 mm wide")
RIBBON_MM = Range(2.4, 3.6, "mm", "textbook: cortex 2 to 4 mm thick, plus blur")
SULCUS_YOUNG_MM = Range(0.1, 0.6, "mm", "chosen: half width of sulci at 20 years")
SULCUS_OLD_MM = Range(0.4, 1.6, "mm", "chosen: half width of sulci at 90 years")
SPACE_YOUNG_MM = Range(0.0, 0.6, "mm", "measured: no dark rim below the bone on two real heads")
SPACE_OLD_MM = Range(0.2, 3.0, "mm", "textbook: subarachnoid space with atrophy; measured as above")
LEUKOARAIOSIS_HU = Range(0, 9, "HU", "chosen: by eye beside a real scan")


@dataclass
class BrainFields:
    """Smooth functions of the brain at some points, distances in mm."""

    depth: Array
    """Below the inner surface of the skull."""
    sulcus: Array
    """Signed distance to the middle sheet of the nearest sulcus."""
    sulcus_floor: Array
    """Depth minus the depth at which the sulcus ends: below 0 where there is a sulcus."""
    fissure: Array
    """Signed distance to the interhemispheric sheet (x, displaced)."""
    fissure_floor: Array
    """Below 0 where hemispheres face each other."""
    falx_floor: Array
    """Below 0 where the falx hangs."""
    sylvian: Array
    """Distance to the surface of the Sylvian fissure."""
    tentorium: Array
    """Signed distance to the tentorium sheet, positive above."""
    tentorium_edge: Array
    """Below 0 where the tentorium extends."""
    cistern: Array
    """Distance to the basal cisterns."""
    stem: Array
    """Distance to the brain stem."""
    deep: Array
    """Distance to deep grey nuclei."""


class Brain:
    """Parameters of one brain and the functions that give its parts."""

    def __init__(self, rng: np.random.Generator, skull: Skull, age: float) -> None:
        self._skull = skull
        old = (age - 20) / 70  # 0 at 20 years, 1 at 90
        wide = float(np.clip(old + rng.normal(0, 0.18), 0, 1))
        self.atrophy = wide
        self.grey_hu = GREY_HU.draw(rng)
        self.white_hu = self.grey_hu - CONTRAST_HU.draw(rng)
        self.csf_hu = CSF_HU.draw(rng)
        self.dura_hu = DURA_HU.draw(rng)
        self.gyrus = GYRUS_MM.draw(rng)
        self.ribbon = RIBBON_MM.draw(rng)
        self.sulcus = _between(SULCUS_YOUNG_MM, SULCUS_OLD_MM, wide, rng)
        self.space = _between(SPACE_YOUNG_MM, SPACE_OLD_MM, wide, rng)
        self.leukoaraiosis = LEUKOARAIOSIS_HU.draw(rng) * max(0.0, old)
        self.unevenness = UNEVENNESS_HU.draw(rng)
        self.falx = float(rng.uniform(0.35, 0.85))  # half thickness, mm
        self.cistern_scale = 0.8 + 0.45 * wide + float(rng.uniform(-0.1, 0.15))
        self.sylvian_width = 0.7 + 2.6 * wide * float(rng.uniform(0.5, 1.2))
        self._gyri = Waves(rng, self.gyrus, 26)
        self._bend = [Waves(rng, 26.0, 8) for _ in range(3)]
        self._reach = Waves(rng, 30.0, 8)
        self._space = Waves(rng, 40.0, 6)
        self._folia = Waves(rng, 120.0, 4)
        self._tone = Waves(rng, 35.0, 6)

    def fields(self, q: Points, depth: Array, spacing: tuple[float, float] | None) -> BrainFields:
        """All fields at displaced points q, whose depth below the skull (mm) is known.

        `spacing`: distance in mm between neighbouring (planes, columns) of a regular grid, to turn
        the sulcal wave into a distance; None for scattered points, which use its mean slope.
        """
        ax = np.abs(q.x)
        fissure, fissure_floor, falx_floor = self._midline(q, depth)
        tentorium, edge = self._tentorium(q)
        return BrainFields(
            depth=depth,
            sulcus=self._sulcus(q, spacing),
            sulcus_floor=depth - (13.0 + 6.0 * self._reach.at(q)),
            fissure=fissure,
            fissure_floor=fissure_floor,
            falx_floor=falx_floor,
            sylvian=self._sylvian(q, ax),
            tentorium=tentorium,
            tentorium_edge=edge,
            cistern=self._cisterns(q),
            stem=self._stem(q),
            deep=self._nuclei(q, ax),
        )

    def space_width(self, q: Points) -> Array:
        """Width of the subarachnoid space over the convexity, mm: brain touches the dura in places,
        and lies off it in others, most of all in front of old brains."""
        front = 1 + 0.6 * self.atrophy * sigmoid(-(q.y + 20) / 12)
        return self.space * front * np.maximum(1 + 0.8 * self._space.at(q), 0.1)

    def is_fluid(self, q: Points, widened: float) -> Array:
        """Whether scattered points lie in sulci (widened by mm), fissures or cisterns; bool."""
        depth = -self._skull.inner(q)
        f = self.fields(q, depth, None)
        half = self.sulcus + widened
        petrous = 3.0 + 0.5 * np.maximum(np.abs(q.x) - 8, 0)
        cerebrum = np.maximum(f.tentorium, petrous - q.y) > 0
        furrow = (np.abs(f.sulcus) < half) & (f.sulcus_floor < 0)
        split = (np.abs(f.fissure) < 0.35 + 0.5 * half) & (f.fissure_floor < 0)
        space = depth < self.space_width(q) + widened
        open_space = (f.sylvian < widened) | (f.cistern < 0)
        return np.asarray((depth > 0.5) & (((furrow | split) & cerebrum) | space | open_space))

    def tone(self, q: Points) -> Array:
        """Slow unevenness of the parenchyma, HU."""
        return self.unevenness * self._tone.at(q)

    def _sulcus(self, q: Points, spacing: tuple[float, float] | None) -> Array:
        level = np.maximum(self._skull.level(q), 0.25)
        bent = [3.4 * wave.at(q) for wave in self._bend]
        surface = Points(*(c / level + b for c, b in zip(q, bent, strict=True)))
        wave = self._gyri.at(surface)
        floor = 2 * np.pi / self.gyrus * 0.6  # slope below this: the sheet is broken, not wide
        if spacing is None:
            return wave / (2 * np.pi / self.gyrus * 0.8)
        slope2 = np.full_like(wave, floor * floor)
        for axis, step in zip((0, 1, 2), (spacing[0], spacing[1], spacing[1]), strict=True):
            slope2 += (np.gradient(wave, axis=axis) / step) ** 2
        return wave / np.sqrt(slope2)

    def _midline(self, q: Points, depth: Array) -> tuple[Array, Array, Array]:
        # The callosum and what lies below it keep the hemispheres together.
        inside = np.sqrt(((q.y - 2) / 44) ** 2 + ((q.z - 4) / 29) ** 2)
        rim = (1 - inside) * 29.0
        below = 14.0 - (q.z + 0.25 * (q.y + 30))
        fissure_floor = np.maximum(rim, np.where(q.y > -30, below * 0.8, -5.0))
        shallow = depth - (26.0 + 16.0 * sigmoid((q.y - 20) / 10))
        falx_floor = np.maximum(np.maximum(fissure_floor, shallow), -2.0 - q.z - 12 * (q.y < 0))
        return q.x + 0.4 * self._space.at(q), fissure_floor, falx_floor

    def _tentorium(self, q: Points) -> tuple[Array, Array]:
        ax = np.abs(q.x)
        ridge = 8.0 - 0.52 * np.maximum(ax - 6, 0) - 0.32 * np.maximum(q.y - 40, 0)
        height = ridge + self._skull.floor * 0.5 - 4.0
        notch = 1 - np.sqrt((q.x / 19) ** 2 + ((q.y - 8) / 30) ** 2)
        petrous = 6.0 + 0.5 * np.maximum(ax - 8, 0)
        return (q.z - height) * 0.85, np.maximum(notch * 19, petrous - q.y)

    def _sylvian(self, q: Points, ax: Array) -> Array:
        width = self.sylvian_width
        insula = ax - (37.0 - 0.012 * (q.y - 2) ** 2)
        reach = np.maximum(np.abs(q.y - 0) - 21, np.abs(q.z - 4 - 0.2 * q.y) - 13)
        first = np.maximum(np.abs(insula) - width * (1 + 0.6 * self._reach.at(q)), reach)
        sheet = 0.8 * (q.z - 2) - 0.6 * (q.y + 6) + 2.5 * self._reach.at(q)
        second = np.maximum(np.abs(sheet) - 0.9 * width, np.maximum(36 - ax, np.abs(q.y) - 24))
        return np.asarray(np.minimum(first, second))

    def _cisterns(self, q: Points) -> Array:
        s = self.cistern_scale
        floor = 0.5 * self._skull.floor
        ax = np.abs(q.x)
        folded = Points(ax, q.y, q.z)
        star = ellipsoid(q, (0.0, -12.0, -19.0 + floor), (12 * s, 8 * s, 7 * s))
        arms = ellipsoid(folded, (15.0, -13.0, -16.0 + floor), (13 * s, 3.2 * s, 4 * s))
        stem = self._stem(q)
        width = 1.9 * s * (1 + 0.8 * self._reach.at(q)) + 1.3 * s * (q.y < 12)
        shell = np.maximum(stem - width, np.maximum(q.z + 5, -58 - q.z))
        quadrigeminal = ellipsoid(q, (0.0, 30.0, 1.0), (11 * s, 5 * s, 6 * s))
        magna = ellipsoid(q, (0.0, 62.0, -54.0 + floor), (13 * s, 9 * s, 9 * s))
        angle = ellipsoid(folded, (20.0, 14.0, -38.0 + floor), (8 * s, 5 * s, 7 * s))
        spaces = np.minimum.reduce([star, arms, shell, quadrigeminal, magna, angle])
        return np.maximum(spaces, -stem)

    def _stem(self, q: Points) -> Array:
        z = np.clip(q.z, -75, 0)
        pons = np.exp(-(((z + 32) / 12) ** 2))
        across = 13.0 + 5.0 * pons + 3.0 * sigmoid((z + 12) / 4)
        along = 9.5 + 4.0 * pons
        centre = 16.0 + 0.12 * (-20 - z)
        flat = np.hypot(q.x / across, (q.y - centre) / along)
        return np.asarray(np.maximum((flat - 1) * along, q.z - 4))

    def _nuclei(self, q: Points, ax: Array) -> Array:
        folded = Points(ax, q.y, q.z)
        thalamus = ellipsoid(folded, (10.5, 9.0, 5.0), (8.0, 13.0, 9.0))
        turned = Points(ax * 0.94 - (q.y + 2) * 0.34, ax * 0.34 + (q.y + 2) * 0.94, q.z)
        lentiform = ellipsoid(turned, (23.5, 6.5, 3.0), (6.0, 15.0, 10.0))
        caudate = ellipsoid(folded, (14.5, -21.0, 9.0), (5.0, 9.0, 10.0))
        return np.asarray(np.minimum.reduce([thalamus, lentiform, caudate]))

    def folia(self, q: Points) -> Array:
        """Ripple of the cerebellar folia, -1 to 1."""
        radius = np.sqrt(q.x**2 * 0.6 + (q.y - 22) ** 2 + (q.z + 30) ** 2)
        return np.asarray(np.sin(radius * (2 * np.pi / 4.6) + 2.5 * self._folia.at(q)))


def _between(young: Range, old: Range, share: float, rng: np.random.Generator) -> float:
    first, second = young.draw(rng), old.draw(rng)
    return first + (second - first) * share
