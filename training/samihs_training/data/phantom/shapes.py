"""Signed distances of simple solids (mm, negative inside), to first order near the surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .arrays import Array, Points, smooth_min

Vector = tuple[float, float, float]


def ellipsoid(points: Points, centre: Vector, radii: Vector) -> Array:
    """Distance to an axis-parallel ellipsoid."""
    scaled = [(p - c) / r for p, c, r in zip(points, centre, radii, strict=True)]
    level = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    slope = np.sqrt(sum((s / r) ** 2 for s, r in zip(scaled, radii, strict=True)))
    return (level - 1.0) * level / np.maximum(slope, 1e-4)


def capsule(
    points: Points, start: Vector, end: Vector, start_radius: float, end_radius: float
) -> Array:
    """Distance to a rod with round ends whose radius changes linearly from start to end."""
    axis = np.subtract(end, start)
    length2 = max(float(axis @ axis), 1e-6)
    dx, dy, dz = (p - np.float32(c) for p, c in zip(points, start, strict=True))
    along = np.clip((dx * axis[0] + dy * axis[1] + dz * axis[2]) / length2, 0.0, 1.0)
    away = np.sqrt(
        (dx - along * axis[0]) ** 2 + (dy - along * axis[1]) ** 2 + (dz - along * axis[2]) ** 2
    )
    return np.asarray(away - (start_radius + (end_radius - start_radius) * along))


def tube(
    points: Points, path: Sequence[Vector], radii: Sequence[float], join: float = 0.0
) -> Array:
    """Distance to a chain of capsules through `path`; `join` mm rounds the joints."""
    distance: Array | None = None
    for i in range(len(path) - 1):
        piece = capsule(points, path[i], path[i + 1], radii[i], radii[i + 1])
        if distance is None:
            distance = piece
        else:
            distance = smooth_min(distance, piece, join) if join else np.minimum(distance, piece)
    assert distance is not None  # every caller passes at least two points
    return distance


@dataclass(frozen=True)
class Turned:
    """A frame at `centre`, turned by `rotation` (rows are its axes in head coordinates)."""

    centre: Vector
    rotation: Array

    def local(self, points: Points) -> Points:
        """The points in this frame, mm."""
        d = [p - np.float32(c) for p, c in zip(points, self.centre, strict=True)]
        r = self.rotation.astype(np.float32)
        return Points(*(r[i, 0] * d[0] + r[i, 1] * d[1] + r[i, 2] * d[2] for i in range(3)))


def random_rotation(rng: np.random.Generator) -> Array:
    """A rotation matrix, uniform over all of them (float64 [3, 3])."""
    q = rng.normal(size=4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
