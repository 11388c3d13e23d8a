"""One slice of one patient while it is painted: the fields on its grid and the covers so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .arrays import Array, Points
from .brain import BrainFields
from .canvas import Canvas, Grid, Window


@dataclass
class Scene:
    """What the painters of a slice share. Fields are [planes, h, w] on `grid`, in mm."""

    canvas: Canvas
    grid: Grid
    """Coarse points over the head."""
    vault: Array
    """Distance to the inner surface of the vault alone (the skull without its base)."""
    inner: Array
    """Distance to the inner surface of the skull, negative inside."""
    outer: Array
    """Distance to the outer surface of the bone."""
    q: Points
    """Where the tissue at each point was before anything displaced it."""
    fields: BrainFields
    """Distances that shape the displaced brain."""
    ventricles: Array
    """Distance to the walls of the displaced ventricles."""
    down: tuple[float, float, float]
    """Unit vector of gravity in head coordinates (toward the back of a supine patient)."""
    effacement: Array
    """0 to 1: how far swelling closes the sulci."""
    swelling: Array
    """mm added to the half width of sulci that blood fills."""
    dura_hu: float
    dura_mm: float
    """Thickness of the dura that lines the skull, mm."""
    csf: Array = field(default_factory=lambda: np.zeros(0, np.float32))
    """Cover of sulci, fissures and cisterns, [segments, matrix, matrix]."""
    parenchyma: Array = field(default_factory=lambda: np.zeros(0, np.float32))
    """Cover of brain tissue, [segments, matrix, matrix]."""
    lining: Array = field(default_factory=lambda: np.zeros(0, np.float32))
    """Cover of the dura that lines the skull, [segments, matrix, matrix]."""

    @property
    def p(self) -> Points:
        """Head coordinates of the grid."""
        return self.grid.points

    def within_dura(self, window: Window) -> Array:
        """Share of each pixel that the lining of the skull leaves to what lies within it."""
        return 1 - self.lining[:, *window.index]

    @property
    def gravity(self) -> Array:
        """How low each point lies, mm: blood settles where it is large."""
        p = self.grid.points
        return p.x * self.down[0] + p.y * self.down[1] + p.z * self.down[2]

    def gravity_of(self, point: tuple[float, float, float]) -> float:
        """How low one point lies, mm."""
        return sum(a * b for a, b in zip(point, self.down, strict=True))
