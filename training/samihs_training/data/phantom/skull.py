"""The braincase: inner surface of the skull, its floor with three fossae, and bone thickness."""

from __future__ import annotations

import numpy as np

from .arrays import Array, Points, ramp, sigmoid, smooth_max
from .ranges import Range
from .shapes import ellipsoid
from .waves import Waves

HALF_WIDTH = Range(63, 72, "mm", "textbook: inner cranial breadth 126 to 144 mm")
HALF_LENGTH = Range(78, 90, "mm", "textbook: inner cranial length 156 to 180 mm")
HEIGHT_ABOVE = Range(70, 82, "mm", "textbook: vault above the third ventricle")
DEPTH_BELOW = Range(62, 70, "mm", "textbook: foramen magnum below the third ventricle")
SQUARENESS = Range(2.05, 2.45, "1", "chosen: exponent of the superellipsoid, 2 is an ellipsoid")
EGG = Range(0.05, 0.2, "1", "textbook: frontal breadth below parietal breadth")
ASYMMETRY = Range(0.005, 0.02, "1", "chosen: relative ripple of the radius, plagiocephaly")
THICKNESS = Range(4.5, 8.5, "mm", "textbook: parietal bone, adults 4 to 9 mm")
TABLE_HU = Range(1100, 1700, "HU", "textbook: cortical bone above 1000 HU")
DIPLOE_HU = Range(350, 750, "HU", "textbook: cancellous bone 300 to 800 HU")
TABLE_MM = Range(1.0, 1.7, "mm", "textbook: inner and outer table 1 to 2 mm")
FLOOR_SHIFT = Range(-5, 5, "mm", "chosen: individual height of the skull base")


class Skull:
    """Shape of one skull; distances in mm, negative inside the braincase."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.half_width = HALF_WIDTH.draw(rng)
        self.half_length = HALF_LENGTH.draw(rng)
        self.height = HEIGHT_ABOVE.draw(rng)
        self.depth = DEPTH_BELOW.draw(rng)
        self.squareness = SQUARENESS.draw(rng)
        self.egg = EGG.draw(rng)
        self.ripple = ASYMMETRY.draw(rng)
        self.thickness = THICKNESS.draw(rng)
        self.table_hu = TABLE_HU.draw(rng)
        self.diploe_hu = DIPLOE_HU.draw(rng)
        self.table = TABLE_MM.draw(rng)
        self.floor = FLOOR_SHIFT.draw(rng)
        self.sinus = float(rng.uniform(0.0, 1.3))  # size of the frontal sinus, 0 where aplastic
        self._shape = Waves(rng, 110.0, 6)
        self._bumps = Waves(rng, 28.0, 8)
        self._floor_bumps = Waves(rng, 26.0, 8)
        self._thick = Waves(rng, 60.0, 8)
        self._diploe = Waves(rng, 9.0, 12)

    def level(self, p: Points) -> Array:
        """1 on the inner surface of the vault, 0 at the origin, proportional along each ray."""
        e = np.float32(self.squareness)
        y = p.y / np.float32(self.half_length)
        x = p.x / (np.float32(self.half_width) * (1 + self.egg * np.clip(y, -1, 1)))
        z = p.z / np.where(p.z > 0, np.float32(self.height), np.float32(self.depth))
        radius = 1 + np.float32(self.ripple) * self._shape.at(p)
        return (np.abs(x) ** e + np.abs(y) ** e + np.abs(z) ** e) ** (1 / e) / radius

    def outward(self, p: Points) -> Points:
        """Unit vectors from the middle outward, normal to the vault near it."""
        a = p.x / np.float32(self.half_width**2)
        b = p.y / np.float32(self.half_length**2)
        c = p.z / np.where(p.z > 0, np.float32(self.height**2), np.float32(self.depth**2))
        length = np.sqrt(a * a + b * b + c * c) + 1e-6
        return Points(a / length, b / length, c / length)

    def vault(self, p: Points) -> Array:
        """Distance to the inner surface of the vault, crest and protuberance included."""
        level = self.level(p)
        x, y = p.x / np.float32(self.half_width), p.y / np.float32(self.half_length)
        z = p.z / np.where(p.z > 0, np.float32(self.height), np.float32(self.depth))
        ellipse2 = x * x + y * y + z * z + np.float32(1e-6)
        slope = np.sqrt(
            (x / self.half_width) ** 2 + (y / self.half_length) ** 2 + (z / self.height) ** 2
        )
        distance = (level - 1) * ellipse2 / np.maximum(slope * np.sqrt(ellipse2), 1e-9)
        ends = sigmoid((np.abs(y) - 0.62) / 0.05)
        crest = 4.5 * np.exp(-((p.x / 4.0) ** 2)) * ends * sigmoid(-(p.z - 4) / 8.0)
        return np.asarray(distance + crest + 0.4 * self._bumps.at(p))

    def floor_height(self, p: Points) -> tuple[Array, Array]:
        """Height of the skull base under each point and the thickness of its bone, mm."""
        ax = np.abs(p.x)
        y = p.y
        sphenoid = -16.0 - 0.5 * np.maximum(ax - 8, 0)  # edge of the lesser wing
        petrous = 3.0 + 0.5 * np.maximum(ax - 8, 0)  # crest of the petrous bone
        orbit_roof = 9.0 * np.exp(-(((ax - 32) / 13) ** 2)) * np.exp(-(((y + 52) / 22) ** 2))
        front = -22.0 - 4.0 * np.exp(-((p.x / 7) ** 2)) + orbit_roof
        middle = np.where(ax < 9, -24.0, np.maximum(-24.0 - 3.0 * (ax - 9), -43.0))
        middle = np.maximum(middle, np.minimum(-18.0 - 1.5 * (y - sphenoid), -18.0))
        middle = np.maximum(middle, -25.0 - 1.2 * np.maximum(petrous - y, 0))
        back = np.maximum(-25.0 - 2.4 * np.maximum(y - petrous, 0), -64.0)
        in_front = sigmoid((sphenoid - y) / 2.0)
        behind = sigmoid((y - petrous) / 1.2)
        height = front * in_front + behind * back + (1 - in_front - behind) * middle
        pyramid = np.exp(-(((y - petrous) / 8) ** 2)) * sigmoid((ax - 10) / 2) * 16.0
        clivus = np.exp(-((p.x / 11) ** 2) - ((y + 2) / 14) ** 2) * 12.0
        bumps = 1.8 * self._floor_bumps.at(p)
        return height + bumps + np.float32(self.floor), 2.6 + pyramid + clivus

    def inner(self, p: Points, vault: Array | None = None) -> Array:
        """Distance to the inner surface of the braincase: vault (computed if not given), base."""
        height, _ = self.floor_height(p)
        return smooth_max(self.vault(p) if vault is None else vault, 0.75 * (height - p.z), 2.0)

    def bone_thickness(self, p: Points) -> Array:
        """Thickness of the vault, mm."""
        ax = np.abs(p.x) / np.float32(self.half_width)
        temporal = np.exp(-(((p.z + 14) / 24) ** 2)) * np.clip(2.5 * ax - 1.25, 0, 1)
        y = p.y / np.float32(self.half_length)
        ends = 0.45 * np.clip(np.abs(y) - 0.6, 0, 0.4) / 0.4
        brow = 5.0 * np.exp(-(((p.z + 14) / 16) ** 2) - (p.x / 26) ** 2)
        brow = brow * sigmoid((-y - 0.75) / 0.08)
        variation = 1 + 0.11 * self._thick.at(p)
        return self.thickness * variation * (1 - 0.5 * temporal) * (1 + ends) + brow

    def outer(self, p: Points, vault: Array | None = None) -> Array:
        """Distance to the outer surface of the skull bone, base included."""
        vault = self.vault(p) if vault is None else vault
        height, thickness = self.floor_height(p)
        base = 0.75 * (height - p.z) - thickness
        bone = smooth_max(vault - self.bone_thickness(p), base, 2.0)
        foramen = np.hypot(p.x / 15.0, (p.y - 26.0) / 18.0) - 1.0  # foramen magnum
        hole = np.where(p.z < -45, foramen * 15.0, 20.0)
        return np.where(hole < 0, np.maximum(bone, -hole), bone)

    def diploe(self, p: Points) -> Array:
        """HU of the spongy bone, with its coarse texture."""
        return self.diploe_hu * (1 + 0.3 * self._diploe.at(p))

    def frontal_sinus(self, p: Points) -> Array:
        """Distance to the air of the frontal sinuses (they lie inside the frontal bone)."""
        y = -(self.half_length + 4.0)
        left = ellipsoid(p, (11.0, y, -16.0), (12 * self.sinus + 1, 5.0, 14 * self.sinus + 1))
        right = ellipsoid(p, (-10.0, y, -15.0), (10 * self.sinus + 1, 5.0, 12 * self.sinus + 1))
        air = np.minimum(left, right)
        walls = np.maximum(self.outer(p) + 1.2, 1.2 - self.inner(p))
        return np.maximum(air, walls)


def bone_hu(inner: Array, outer: Array, table: float, table_hu: float, diploe: Array) -> Array:
    """HU across the bone: dense tables on both faces (distances in mm), spongy between."""
    tables = np.maximum(ramp(inner - table, 1.0), ramp(-outer - table, 1.0))
    return diploe + (table_hu - diploe) * tables
