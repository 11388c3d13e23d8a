"""Types and small elementwise helpers shared by the phantom modules."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
"""float32 unless a docstring says otherwise."""


class Points(NamedTuple):
    """Points in head coordinates, mm: x to the patient's left, y to the back, z to the top.

    The three arrays share one shape, usually [planes, rows, columns]. The origin lies near the
    foramina of Monro, in the middle plane.
    """

    x: Array
    y: Array
    z: Array

    def moved(self, dx: Array, dy: Array, dz: Array) -> Points:
        """The points displaced by (dx, dy, dz) mm."""
        return Points(self.x + dx, self.y + dy, self.z + dz)


def sigmoid(value: Array) -> Array:
    """Logistic function, safe for large arguments."""
    return 0.5 * (1.0 + np.tanh(0.5 * value))


def ramp(value: Array, width: float) -> Array:
    """1 where `value` is well below 0, 0 well above, linear over `width` around 0."""
    return np.clip(0.5 - value / width, 0.0, 1.0)


def smooth_max(a: Array, b: Array, radius: float) -> Array:
    """Maximum with its crease rounded over `radius` (mm, if a and b are distances)."""
    return 0.5 * (a + b + np.sqrt((a - b) ** 2 + radius * radius))


def smooth_min(a: Array, b: Array, radius: float) -> Array:
    """Minimum with its crease rounded over `radius` (mm, if a and b are distances)."""
    return 0.5 * (a + b - np.sqrt((a - b) ** 2 + radius * radius))


def heights_of(z: Array, taken: Array) -> tuple[float, float]:
    """Lowest and highest `z` of the points that are `taken`; of all points if none is."""
    chosen = z[taken] if taken.any() else z
    return float(chosen.min()), float(chosen.max())
