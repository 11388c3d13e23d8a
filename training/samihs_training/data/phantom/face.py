"""What lies outside the braincase: skin, fat, muscle, orbits, sinuses, facial bones."""

from __future__ import annotations

from functools import partial

import numpy as np

from .arrays import Array, Points, sigmoid, smooth_min
from .canvas import Canvas, Grid
from .layers import Layer
from .options import Tissue
from .ranges import Range
from .shapes import Vector, capsule, ellipsoid, tube
from .skull import Skull
from .waves import Waves

SCALP = Range(3.5, 9.0, "mm", "textbook: scalp 3 to 10 mm")
SKIN_HU = Range(10, 50, "HU", "chosen: skin averaged with fat and air")
FAT_HU = Range(-115, -80, "HU", "textbook: fat -120 to -80 HU")
MUSCLE_HU = Range(48, 66, "HU", "textbook: muscle 45 to 70 HU")
BRUISED = 0.12  # share of heads with a hematoma of the scalp: blood, but not inside the skull
BRUISE_HU = Range(45, 75, "HU", "textbook: clotted blood, diluted by edema")
VITREOUS_HU = Range(5, 15, "HU", "textbook: close to water")
LENS_HU = Range(70, 110, "HU", "textbook: lens 70 to 120 HU")


class Face:
    """Soft tissue and facial bones of one head."""

    def __init__(self, rng: np.random.Generator, skull: Skull) -> None:
        self._skull = skull
        self.scalp = SCALP.draw(rng)
        self.skin_hu = SKIN_HU.draw(rng)
        self.fat_hu = FAT_HU.draw(rng)
        self.muscle_hu = MUSCLE_HU.draw(rng)
        self.bruise_hu = BRUISE_HU.draw(rng)
        self.vitreous_hu = VITREOUS_HU.draw(rng)
        self.lens_hu = LENS_HU.draw(rng)
        self.bruise = _draw_bruise(rng, skull) if rng.random() < BRUISED else None
        self.fatty = float(rng.uniform(0.05, 0.3))  # width of the fat planes between muscles
        self._scalp = Waves(rng, 60.0, 6)
        self._planes = Waves(rng, 30.0, 10)
        self._cells = Waves(rng, 9.0, 12)
        self._fine = Waves(rng, 7.0, 10)
        self._walls = float(rng.uniform(0.3, 0.9))  # bone between the mastoid's air cells

    def skin(self, p: Points) -> Array:
        """Distance to the skin, mm; below the skull base the head continues as face and neck."""
        skull = self._skull
        stretched = np.where(p.z < -12, -12 + (p.z + 12) * 0.42, p.z)
        narrowed = 1 + np.clip(-p.z - 30, 0, 60) * 0.0025
        q = Points(p.x * narrowed, p.y * narrowed, stretched)
        temporal = 7.0 * np.exp(-(((p.z + 12) / 24) ** 2)) * sigmoid(-(np.abs(p.y + 22) - 24) / 4)
        low = np.clip(-p.z - 10, 0, 20) * 0.35
        scalp = self.scalp * (1 + 0.2 * self._scalp.at(p)) + temporal + low
        head = skull.vault(q) - skull.bone_thickness(q) - scalp
        if self.bruise is not None:
            head = head - np.maximum(self.bruise.at(p), 0)
        nose = ellipsoid(p, (0.0, -skull.half_length - 10.0, -56.0), (13.0, 20.0, 24.0))
        front = ellipsoid(
            p, (0.0, -skull.half_length + 50.0, -62.0), (skull.half_width + 2.0, 56.0, 62.0)
        )
        return smooth_min(smooth_min(head, front, 6.0), nose, 6.0)

    def paint_soft(self, canvas: Canvas, grid: Grid, skin: Array) -> None:
        """Skin, fat and muscle of the whole head; bone and brain are painted over them."""
        canvas.paint(grid, skin, self.skin_hu, Tissue.SCALP)
        p = grid.points
        canvas.paint(grid, skin + 1.8, self.fat_hu, Tissue.FAT)
        vault = self._skull.vault(p) - self._skull.bone_thickness(p)
        temporal = np.exp(-(((p.z + 12) / 26) ** 2)) * sigmoid(-(np.abs(p.y + 18) - 24) / 4)
        galea = vault - 1.4 - 10.0 * temporal * (np.abs(p.x) > 35) - 0.5 * self._planes.at(p)
        planes = 5.0 * (self.fatty - np.abs(self._planes.at(p)))
        coat = 5.0 + 0.6 * self.scalp * (1 + 0.4 * self._scalp.at(p))
        deep = np.where(p.z < -18, np.maximum(skin + coat, planes), galea)
        muscle = np.maximum(np.minimum(galea, deep), skin + 2.5)
        canvas.paint(grid, muscle, self.muscle_hu, Tissue.MUSCLE)
        if self.bruise is not None:
            swollen = np.maximum(vault - 1.5 - self.bruise.at(p), skin + 2.0)
            canvas.paint(grid, swollen, self.bruise_hu, Tissue.SCALP_HEMATOMA)

    def paint_bones(self, canvas: Canvas, grid: Grid) -> None:
        """Facial bones, orbits and air spaces below the skull base."""
        p = grid.points
        if float(p.z.min()) > 12.0:
            return
        self._paint_orbits(canvas, grid)
        if float(p.z.min()) > -8.0:
            return
        length = self._skull.half_length
        bones = []
        for side in (-1.0, 1.0):
            cheek: list[Vector] = [
                (side * 42, -length + 14, -50),
                (side * 60, -40, -48),
                (side * 66, -8, -46),
            ]
            bones.append(tube(p, cheek, (5.0, 2.5, 3.0)))
            rim: list[Vector] = [
                (side * 48, -length + 12, -12),
                (side * 51, -length + 20, -30),
                (side * 44, -length + 12, -48),
            ]
            bones.append(tube(p, rim, (3.5, 3.5, 4.0)))
            wing: list[Vector] = [(side * 50, -length + 22, -30), (side * 40, -26, -32)]
            bones.append(tube(p, wing, (2.0, 3.0)))
            bones.append(ellipsoid(p, (side * 51, -4, -56), (9, 5, 16)))
            bones.append(ellipsoid(p, (side * 20, 26, -72), (10, 16, 9)))
        bone = np.minimum.reduce(bones)
        canvas.paint(grid, bone, 1000.0, Tissue.BONE)
        canvas.paint(grid, bone + 2.2, 500.0, Tissue.BONE)
        self._paint_air(canvas, grid)

    def _paint_orbits(self, canvas: Canvas, grid: Grid) -> None:
        p = grid.points
        front = -self._skull.half_length
        outside = 3.0 - self._skull.outer(p)
        for side in (-1.0, 1.0):
            eye = (side * 33.0, front + 9.0, -36.0)
            apex = (side * 14.0, front + 50.0, -32.0)
            cone = np.maximum(capsule(p, eye, apex, 18.0, 5.0), outside)
            canvas.paint(grid, cone - 1.5, 700.0, Tissue.BONE)
            canvas.paint(grid, cone, self.fat_hu, Tissue.FAT)
            for turn in (-1.0, 1.0):
                middle = (side * 24 + 12 * turn, front + 24, -34)
                canvas.paint(
                    grid,
                    tube(p, (eye, middle, apex), (1.0, 2.4, 1.5)),
                    self.muscle_hu,
                    Tissue.MUSCLE,
                )
            canvas.paint(grid, capsule(p, eye, apex, 2.0, 2.0), 30.0, Tissue.MUSCLE)
            canvas.paint(grid, ellipsoid(p, eye, (12.5, 12.5, 12.5)), 45.0, Tissue.EYE)
            canvas.paint(grid, ellipsoid(p, eye, (11.3, 11.3, 11.3)), self.vitreous_hu, Tissue.EYE)
            lens = (eye[0], eye[1] - 8.0, eye[2])
            canvas.paint_around(
                lens,
                6.0,
                partial(ellipsoid, centre=lens, radii=(4.5, 2.2, 4.5)),
                self.lens_hu,
                Tissue.LENS,
            )

    def _paint_air(self, canvas: Canvas, grid: Grid) -> None:
        p = grid.points
        front = -self._skull.half_length
        cells = self._cells.at(p)
        ethmoid = np.maximum(np.abs(p.x) - 11 - 1.5 * cells, np.abs(p.y - (front + 32)) - 24)
        ethmoid = np.maximum(ethmoid, np.abs(p.z + 48 - self._skull.floor) - 18)
        sphenoid = ellipsoid(p, (0.0, -16.0, -40.0 + self._skull.floor), (12, 12, 9))
        canvas.paint(grid, ethmoid, 250.0, Tissue.BONE)
        septa = 4.0 * (0.5 * self._walls - np.abs(self._fine.at(p)))
        canvas.paint(grid, np.maximum(ethmoid + 1.0, septa), -950.0, Tissue.AIR)
        canvas.paint(grid, sphenoid, -980.0, Tissue.AIR)
        for side in (-1.0, 1.0):
            maxilla = ellipsoid(p, (side * 29, front + 24, -68), (15, 17, 18))
            canvas.paint(grid, maxilla - 1.5, 600.0, Tissue.BONE)
            canvas.paint(grid, maxilla, -980.0, Tissue.AIR)
            mastoid = ellipsoid(p, (side * 56, 27, -40), (9, 14, 16)) + 2.5 * cells
            canvas.paint(grid, mastoid - 2.5, 900.0, Tissue.BONE)
            septa = 4.0 * (self._walls - np.abs(self._fine.at(p)))
            canvas.paint(grid, np.maximum(mastoid, septa), -700.0, Tissue.AIR)
            canal = capsule(p, (side * 74, 6, -40), (side * 47, 11, -39), 3.5, 2.5)
            canvas.paint(grid, canal, -980.0, Tissue.AIR)
            pinna = ellipsoid(p, (side * 80, 16, -38), (4, 15, 26))
            canvas.paint(grid, np.abs(pinna) - 1.3, 20.0, Tissue.SCALP)


def _draw_bruise(rng: np.random.Generator, skull: Skull) -> Layer:
    direction = np.array([rng.normal(), rng.normal(), rng.uniform(-0.1, 0.9)])
    thickness = float(rng.uniform(3, 14))
    return Layer(rng, skull, direction, thickness, float(rng.uniform(2, 30)), lens=True)
