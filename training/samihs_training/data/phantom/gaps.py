"""Narrow openings through the bone of the vault (sutures, fractures), and how they are painted.

A gap is a sheet that stands across the bone. Its functions are evaluated at twice the resolution
of the coarse grid, and only in the rectangle of the slice where the gap meets bone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .arrays import Array, Points
from .canvas import Lifted, Window
from .options import Tissue
from .scene import Scene

LOWEST_MM = -30.0  # below this level lies the skull base, whose gaps are not modelled
_KEPT = (Tissue.AIR, Tissue.METAL, Tissue.CATHETER)  # what a gap does not replace


@dataclass(frozen=True)
class Course:
    """Where a gap runs, at some points; fields share the points' shape."""

    sheet: Array
    """Signed distance to its mean sheet, mm."""
    sway: Array
    """Its deviation from that sheet on the outer table, mm."""
    width: Array
    """Half its width there, mm, or a measure from which `Gap.half_width` computes it."""


class Gap(ABC):
    """One narrow opening through the bone."""

    filling_hu: float
    rim_hu: float
    """HU of the dense bone along both sides."""
    rim_mm: float
    """Width of that bone on either side, mm; 0 for none."""
    label: Tissue | None = None
    """What it is in the label maps; bone when None, as a line too thin to be outlined."""

    @abstractmethod
    def near(self, p: Points) -> Array:
        """Whether the gap may show at points in bone; bool, cheap to compute."""

    @abstractmethod
    def course(self, p: Points) -> Course:
        """The gap's functions at points near it."""

    def sway_share(self, across: Array) -> Array | float:
        """Share of the sway `across` the bone: 0 on its inner surface, 1 on its outer."""
        return 1.0

    def half_width(self, width: Array, across: Array) -> Array:
        """Half width, mm, from `Course.width` and the place across the bone."""
        return width


def paint_gaps(gaps: Sequence[Gap], scene: Scene) -> None:
    """Open every gap that meets the slice's bone."""
    p = scene.p
    if not gaps or float(p.z.max()) < LOWEST_MM:
        return
    shell = np.nonzero((scene.inner > -1.5) & (scene.outer < 1.5) & (p.z > LOWEST_MM))
    if shell[0].size == 0:
        return
    points = Points(*(c[shell] for c in p))
    for gap in gaps:
        near = gap.near(points)
        if near.any():
            _paint(gap, scene, _window(scene, shell[1][near], shell[2][near]))


def _window(scene: Scene, rows: Array, columns: Array) -> Window:
    """The pixels around some coarse points, starting on a coarse point as `Grid.lift` needs."""
    whole, step = scene.grid.window, scene.grid.step
    r0, c0 = max(int(rows.min()) - 1, 0) * step, max(int(columns.min()) - 1, 0) * step
    r1, c1 = (int(rows.max()) + 1) * step + 1, (int(columns.max()) + 1) * step + 1
    return Window(
        whole.r0 + r0,
        min(whole.r0 + r1, whole.r1),
        whole.c0 + c0,
        min(whole.c0 + c1, whole.c1),
    )


def _paint(gap: Gap, scene: Scene, window: Window) -> None:
    canvas, grid = scene.canvas, scene.grid
    inner, outer = grid.planes(scene.inner, window), grid.planes(scene.outer, window)
    fine = canvas.grid(window, max(1, grid.step // 2))
    course = gap.course(fine.points)
    across = np.clip(inner / np.maximum(inner - outer, 0.5), 0.0, 1.0)
    field = fine.planes(course.sheet, window)
    field = field + gap.sway_share(across) * fine.planes(course.sway, window)
    half = gap.half_width(fine.planes(course.width, window), across)
    half = 0.5 * (half[1:] + half[:-1])
    lifted = Lifted(window, _unit_slope(field, scene), grid.pixel)
    bone = Lifted(window, outer, grid.pixel).below()
    bone = bone * (1 - Lifted(window, inner, grid.pixel).below())
    bone = bone * ~np.isin(canvas.tissues[window.index], _KEPT)
    before = canvas.hu[:, *window.index].mean(axis=0)
    if gap.rim_mm:
        rim = lifted.within(half + np.float32(gap.rim_mm)) * (half > 0.05) * bone
        spongy = np.maximum(canvas.hu[:, *window.index], gap.rim_hu)
        canvas.blend(window, rim, spongy)
    cover = lifted.within(half) * bone
    canvas.blend(window, cover, gap.filling_hu, gap.label)
    canvas.opened.append((window, before - canvas.hu[:, *window.index].mean(axis=0)))


def _unit_slope(field: Array, scene: Scene) -> Array:
    """The field as a distance: a sheet that sways is steeper than the mean sheet."""
    pixel = scene.grid.pixel
    between = float(np.diff(scene.canvas.plane.offsets).mean())
    slope2 = (np.diff(field, axis=0).mean(axis=0) / between) ** 2
    middle = field.mean(axis=0)
    if min(middle.shape) > 1:
        down, right = np.gradient(middle, pixel)
        slope2 = slope2 + down**2 + right**2
    return np.asarray(field / np.sqrt(np.maximum(slope2, 1.0)))
