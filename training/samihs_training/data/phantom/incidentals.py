"""Findings that look like blood or hide it: calcification, vessels, infarcts, tumours, metal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .arrays import Points
from .blobs import Blob
from .options import Tissue
from .ranges import Range
from .scene import Scene
from .shapes import Vector, ellipsoid, tube
from .skull import Skull
from .waves import Waves

VESSEL_HU = Range(38, 56, "HU", "textbook: flowing blood 35 to 55 HU, by hematocrit")
DENSE_VESSEL_HU = Range(56, 75, "HU", "textbook: hyperdense artery or vein (clot), dehydration")
CALCIFICATION_HU = Range(90, 450, "HU", "textbook: above 100 HU, less with partial volume")
INFARCT_DROP_HU = Range(4, 18, "HU", "textbook: early 3 HU to old, close to CSF")
CATHETER_HU = Range(180, 500, "HU", "textbook: barium-loaded silicone")
SINUS_SIZE = Range(0.7, 1.7, "1", "textbook: superior sagittal sinus 4 to 12 mm wide", log=True)
METAL_HU = Range(3000, 8000, "HU", "textbook: beyond the 12-bit scale")


@dataclass(frozen=True)
class Rod:
    """A tube painted at full resolution: vessel, catheter."""

    path: tuple[Vector, ...]
    radii: tuple[float, ...]
    hu: float
    tissue: Tissue

    def paint(self, scene: Scene) -> None:
        """Paint it; only the pieces near the slice take time."""
        for i in range(len(self.path) - 1):
            a, b = np.array(self.path[i]), np.array(self.path[i + 1])
            middle = (a + b) / 2
            reach = float(np.linalg.norm(b - a)) / 2 + max(self.radii) + 1.0
            piece, radii = self.path[i : i + 2], self.radii[i : i + 2]
            scene.canvas.paint_around(
                (float(middle[0]), float(middle[1]), float(middle[2])),
                reach,
                partial(tube, path=piece, radii=radii),
                self.hu,
                self.tissue,
            )


@dataclass(frozen=True)
class Grain:
    """A small ellipsoid painted at full resolution: calcification, clip, coil."""

    centre: Vector
    radii: Vector
    hu: float
    tissue: Tissue

    def paint(self, scene: Scene) -> None:
        """Paint it; every pixel near it is evaluated."""
        scene.canvas.paint_around(
            self.centre,
            max(self.radii) + 0.5,
            lambda p: ellipsoid(p, self.centre, self.radii),
            self.hu,
            self.tissue,
        )


class Patch:
    """An infarct, a tumour or loose edema: a blob that shifts the brain's HU."""

    def __init__(
        self,
        rng: np.random.Generator,
        centre: Vector,
        volume_ml: float,
        shift: float,
        tissue: Tissue,
        floor_hu: float,
    ) -> None:
        self._blob = Blob(rng, centre, volume_ml, float(rng.uniform(0.1, 0.3)))
        self._shift = shift
        self._tissue = tissue
        self._floor = floor_hu
        self._soft = float(rng.uniform(1.0, 5.0))
        self._grain = Waves(rng, max(6.0, self._blob.radius * 0.7), 8)

    def paint(self, scene: Scene) -> None:
        """Shift the HU of brain tissue inside."""
        if self._blob.far_from(scene.p, self._soft + 2):
            return
        lifted = scene.grid.lift(self._blob.distance(scene.p), self._soft)
        if lifted is None:
            return
        window = lifted.window
        brain = scene.parenchyma[:, *window.index]
        cover = (1 - np.clip((lifted.middle / self._soft + 1) / 2, 0, 1)) * brain
        grain = scene.grid.values(self._grain.at(scene.p), window)
        part = scene.canvas.hu[:, *window.index]
        value = np.maximum(part + self._shift * (1 + 0.2 * grain), np.minimum(self._floor, part))
        scene.canvas.blend(window, cover, value, self._tissue)


Incidental = Rod | Grain | Patch


def vessels(rng: np.random.Generator, skull: Skull, sinus: float) -> list[Incidental]:
    """Arteries of the base, deep veins and the dural sinuses; `sinus` scales the sinuses' radii."""
    hu = VESSEL_HU.draw(rng)
    f = skull.floor * 0.5

    def artery_hu() -> float:
        return DENSE_VESSEL_HU.draw(rng) if rng.random() < 0.05 else hu + float(rng.normal(0, 2))

    found: list[Incidental] = []
    wide = float(rng.uniform(0.8, 1.25))
    for side in (-1.0, 1.0):
        carotid = (
            (side * 11, -14, -30 + f),
            (side * 9, -15, -20 + f),
            (side * 15, -13, -16 + f),
            (side * 27, -11, -15 + f),
            (side * 37, -7, -11 + f),
        )
        radii = tuple(wide * r for r in (2.4, 2.2, 1.6, 1.4, 1.0))
        found.append(Rod(carotid, radii, artery_hu(), Tissue.VESSEL))
        x_sinus, z_sinus = side * 0.72 * skull.half_width, -14.0 + f
        transverse = (
            (0.0, skull.half_length - 4.0, z_sinus + 4),
            (side * 30, skull.half_length - 10.0, z_sinus),
            (x_sinus, 0.42 * skull.half_length, z_sinus - 6),
            (side * 0.66 * skull.half_width, 22.0, -42.0),
        )
        size = sinus * float(rng.uniform(2.0, 4.2))
        found.append(Rod(transverse, (size, size, size, size), hu + 6, Tissue.VESSEL))
    basilar = (
        (0.0, 0.0, -50.0 + f),
        (float(rng.normal(0, 2)), -1.0, -34.0 + f),
        (0.0, -1.0, -18.0 + f),
    )
    found.append(Rod(basilar, (1.7 * wide, 1.7 * wide, 1.6 * wide), artery_hu(), Tissue.VESSEL))
    straight = (
        (0.0, 28.0, 3.0),
        (0.0, 36.0, 7.0),
        (0.0, 0.66 * skull.half_length, 0.0),
        (0.0, skull.half_length - 4.0, -10.0),
    )
    radii = tuple(sinus * r for r in (1.2, 2.0, 2.0, 2.6))
    found.append(Rod(straight, radii, hu + 5, Tissue.VESSEL))
    angles = np.linspace(-1.0, 1.75, 9)
    path = tuple(
        (0.0, float((skull.half_length - 2.5) * np.sin(a)), float((skull.height - 2.5) * np.cos(a)))
        for a in angles
    )
    radii = tuple(sinus * np.linspace(1.2, 3.8, 9))
    found.append(Rod(path, radii, hu + 6, Tissue.VESSEL))
    return found


def calcifications(rng: np.random.Generator, skull: Skull, age: float) -> list[Incidental]:
    """Pineal, choroid plexus, basal ganglia, falx and carotid wall; more common with age."""
    found: list[Incidental] = []
    old = min(max((age - 15) / 50, 0.1), 1.0)

    def add(centre: Sequence[float], size: float, flat: float = 1.0) -> None:
        radii = size * np.exp(rng.normal(0, 0.25, 3)) * np.array([flat, 1, 1])
        spot = np.asarray(centre) + rng.normal(0, 0.8, 3) * (flat == 1.0)
        found.append(
            Grain(
                (float(spot[0]), float(spot[1]), float(spot[2])),
                (float(radii[0]), float(radii[1]), float(radii[2])),
                CALCIFICATION_HU.draw(rng),
                Tissue.CALCIFICATION,
            )
        )

    if rng.random() < 0.75 * old:
        for _ in range(int(rng.integers(1, 4))):
            add((0.0, 25.0, 1.0), float(rng.uniform(0.7, 2.4)))
    for side in (-1.0, 1.0):
        if rng.random() < 0.65 * old:
            for _ in range(int(rng.integers(1, 5))):
                add(
                    (side * 22.0, 28.0 + rng.normal(0, 2), 11.0 + rng.normal(0, 3)),
                    float(rng.uniform(0.7, 2.6)),
                )
        if rng.random() < 0.12 * old:
            for _ in range(int(rng.integers(1, 4))):
                add((side * 21.0, -2.0 + rng.normal(0, 4), 3.0), float(rng.uniform(0.8, 2.5)))
        if rng.random() < 0.5 * old:
            add((side * 10.5, -14.0, -25.0), float(rng.uniform(0.6, 1.4)))
    if rng.random() < 0.3 * old:
        y = float(rng.uniform(-60, 60))
        z = 0.75 * skull.height * np.sqrt(max(0.1, 1 - (y / skull.half_length) ** 2))
        add((0.3, y, z), float(rng.uniform(2.0, 6.0)), flat=0.3)
    return found


def lesions(rng: np.random.Generator, skull: Skull, age: float) -> list[Incidental]:
    """Old and recent infarcts, lacunes, tumours: dark and bright areas that are not blood."""
    found: list[Incidental] = []
    if rng.random() < 0.10 + 0.12 * (age > 60):
        volume = float(np.exp(rng.uniform(np.log(1.0), np.log(90.0))))
        found.append(
            Patch(rng, _site(rng, skull), volume, -INFARCT_DROP_HU.draw(rng), Tissue.INFARCT, 6.0)
        )
    for _ in range(int(rng.poisson(0.7 * max(0.0, (age - 45) / 40)))):
        centre = (
            float(rng.choice([-1, 1]) * rng.uniform(8, 28)),
            float(rng.normal(-2, 12)),
            float(rng.uniform(-2, 24)),
        )
        found.append(
            Patch(
                rng,
                centre,
                float(rng.uniform(0.04, 0.7)),
                -float(rng.uniform(8, 20)),
                Tissue.INFARCT,
                8.0,
            )
        )
    if rng.random() < 0.07:
        centre = _site(rng, skull)
        volume = float(np.exp(rng.uniform(np.log(0.8), np.log(40.0))))
        found.append(
            Patch(rng, centre, 3.0 * volume, -float(rng.uniform(5, 12)), Tissue.EDEMA, 12.0)
        )
        found.append(Patch(rng, centre, volume, float(rng.uniform(-3, 16)), Tissue.TUMOUR, 5.0))
    return found


def hardware(rng: np.random.Generator, skull: Skull) -> list[Incidental]:
    """A ventricular catheter, an aneurysm clip or coil, all of them rare."""
    found: list[Incidental] = []
    if rng.random() < 0.06:
        side = float(rng.choice([-1.0, 1.0]))
        entry = (
            (side * 30.0, -45.0, skull.height * 0.82)
            if rng.random() < 0.6
            else (side * 42.0, 50.0, skull.height * 0.55)
        )
        tip = (side * 5.0, -12.0, 8.0)
        found.append(Rod((entry, tip), (1.3, 1.3), CATHETER_HU.draw(rng), Tissue.CATHETER))
    if rng.random() < 0.035:
        centre = (float(rng.normal(0, 14)), -13.0, -14.0)
        found.append(
            Grain(
                centre,
                (1.2, 5.0, 2.0) if rng.random() < 0.5 else (4.0, 4.0, 3.5),
                METAL_HU.draw(rng),
                Tissue.METAL,
            )
        )
    return found


def _site(rng: np.random.Generator, skull: Skull) -> Vector:
    direction = np.array([rng.normal(), rng.normal(), rng.uniform(-0.2, 0.9)])
    unit = direction / np.linalg.norm(direction)
    s = 60 * rng.uniform(0.35, 0.92)
    ray = Points(*(np.full(1, 60 * c, np.float32) for c in unit))
    unit = unit * s / float(skull.level(ray)[0])
    return (float(unit[0]), float(unit[1]), float(unit[2]))
