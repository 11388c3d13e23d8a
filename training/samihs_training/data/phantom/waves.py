"""Smooth random fields: sums of plane waves, defined everywhere in space by a few numbers."""

from __future__ import annotations

import numpy as np

from .arrays import Array, Points


class Waves:
    """A stationary random field with zero mean and unit variance.

    A sum of plane waves needs no grid, has no preferred axis, and gives the same value at the same
    point in whichever slice: this makes slices and volumes one model.
    """

    def __init__(self, rng: np.random.Generator, wavelength: float, count: int = 12) -> None:
        """`wavelength` in mm (components spread +-30 % around it); `count` plane waves."""
        direction = rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        number = 2 * np.pi / wavelength * rng.uniform(0.75, 1.3, size=(count, 1))
        self._vectors = (direction * number).astype(np.float32)  # rad/mm
        self._phases = rng.uniform(0, 2 * np.pi, size=count).astype(np.float32)
        self._scale = np.float32(np.sqrt(2.0 / count))

    def at(self, points: Points) -> Array:
        """Values at the points, same shape."""
        total = np.zeros(points.x.shape, np.float32)
        angle, part = np.empty_like(total), np.empty_like(total)
        for (kx, ky, kz), phase in zip(self._vectors, self._phases, strict=True):
            # In place: half of a slice's time goes into these few operations.
            np.multiply(points.x, kx, out=angle)
            np.multiply(points.y, ky, out=part)
            angle += part
            np.multiply(points.z, kz, out=part)
            angle += part
            angle += phase
            total += np.cos(angle, out=part)
        total *= self._scale
        return total
