"""One slice as a stack of thin segments, painted by implicit functions with partial volume.

Smooth functions are evaluated on a coarse grid of points (about 1.8 mm) on a few planes through the
slice, interpolated to pixels, and only then cut at their surface. Between two neighbouring planes
the function is taken as linear, which gives the share of the segment inside in closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .arrays import Array, Points
from .options import Tissue

COARSE_MM = 1.8  # structures painted on the coarse grid are at least 4 mm across, or sheets
SEGMENT_MM = 2.6  # longest segment: curved surfaces are close to flat over this length


@dataclass(frozen=True)
class SlicePlane:
    """The pixels of one slice in head coordinates: pixel (r, c) lies at origin + c*u + r*v."""

    origin: Array
    """Centre of pixel (0, 0) in the middle of the slice, mm, float64 [3]."""
    u: Array
    """Step from one column to the next, mm, float64 [3]."""
    v: Array
    """Step from one row to the next, mm, float64 [3]."""
    normal: Array
    """Unit vector across the slice, float64 [3]."""
    thickness: float
    """mm."""
    matrix: int
    """Rows and columns."""

    @property
    def spacing(self) -> float:
        """Pixel size, mm."""
        return float(np.linalg.norm(self.u))

    @property
    def offsets(self) -> Array:
        """Distances of the planes of evaluation from the middle of the slice, mm [planes]."""
        segments = max(1, int(np.ceil(self.thickness / SEGMENT_MM)))
        return np.linspace(-self.thickness / 2, self.thickness / 2, segments + 1)

    def points(self, rows: Array, columns: Array) -> Points:
        """Head coordinates of a grid of pixels on every plane, float32 [planes, rows, columns]."""
        r = rows[None, :, None]
        c = columns[None, None, :]
        s = self.offsets[:, None, None]
        return Points(
            *(
                (self.origin[i] + c * self.u[i] + r * self.v[i] + s * self.normal[i]).astype(
                    np.float32
                )
                for i in range(3)
            )
        )


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels: rows r0 to r1 and columns c0 to c1, ends not included."""

    r0: int
    r1: int
    c0: int
    c1: int

    @property
    def index(self) -> tuple[slice, slice]:
        """The rectangle as an index into [rows, columns]."""
        return slice(self.r0, self.r1), slice(self.c0, self.c1)


class Lifted:
    """A function on the pixels of a window: its mean and its change over each segment."""

    def __init__(self, window: Window, planes: Array, pixel: float) -> None:
        self.window = window
        self.middle = 0.5 * (planes[1:] + planes[:-1])  # [segments, rows, columns]
        self._width = np.abs(planes[1:] - planes[:-1]) + np.float32(pixel)

    def below(self, level: float | Array = 0.0) -> Array:
        """Share of each pixel's segment where the function (a distance, mm) is below `level`."""
        return np.asarray(np.clip(0.5 - (self.middle - level) / self._width, 0.0, 1.0))

    def within(self, half_width: float | Array) -> Array:
        """Share of each pixel's segment closer than `half_width` mm to the zero level (a sheet)."""
        return self.below(half_width) - self.below(-np.asarray(half_width, np.float32))


class Grid:
    """Coarse points over a window of the slice, and the interpolation from them to pixels."""

    def __init__(self, plane: SlicePlane, window: Window, step: int) -> None:
        self.step = step
        self.window = window
        self.pixel = plane.spacing
        self._rows = -(-(window.r1 - 1 - window.r0) // step) + 1
        self._columns = -(-(window.c1 - 1 - window.c0) // step) + 1
        self.points = plane.points(
            window.r0 + step * np.arange(self._rows), window.c0 + step * np.arange(self._columns)
        )

    def lift(self, field: Array, level: float | None = None) -> Lifted | None:
        """Interpolate a coarse field [planes, h, w] to the pixels of the window.

        With `level`, only to the rectangle where the field falls below it: None if it never does.
        """
        a0, a1, b0, b1 = 0, self._rows, 0, self._columns
        if level is not None:
            near = np.any(field < level + self.step * self.pixel * 0.75, axis=0)
            rows = np.flatnonzero(near.any(axis=1))
            if rows.size == 0:
                return None
            columns = np.flatnonzero(near.any(axis=0))
            a0, a1 = max(rows[0] - 1, 0), min(rows[-1] + 2, self._rows)
            b0, b1 = max(columns[0] - 1, 0), min(columns[-1] + 2, self._columns)
        window = Window(
            self.window.r0 + a0 * self.step,
            min(self.window.r0 + (a1 - 1) * self.step + 1, self.window.r1),
            self.window.c0 + b0 * self.step,
            min(self.window.c0 + (b1 - 1) * self.step + 1, self.window.c1),
        )
        return self.lift_to(field, window)

    def lift_to(self, field: Array, window: Window) -> Lifted:
        """Interpolate a coarse field to a window that `lift` chose."""
        return Lifted(window, self.planes(field, window), self.pixel)

    def values(self, field: Array, window: Window) -> Array:
        """Mean of a coarse field over each segment at the pixels of a window [segments, h, w]."""
        return self.planes(0.5 * (field[1:] + field[:-1]), window)

    def planes(self, field: Array, window: Window) -> Array:
        """A coarse field on every plane at the pixels of a window of `lift` [planes, h, w]."""
        a0 = (window.r0 - self.window.r0) // self.step
        b0 = (window.c0 - self.window.c0) // self.step
        a1 = a0 - (-(window.r1 - 1 - window.r0) // self.step) + 1
        b1 = b0 - (-(window.c1 - 1 - window.c0) // self.step) + 1
        part = np.ascontiguousarray(field[:, a0:a1, b0:b1], np.float32)
        if self.step == 1:
            return part
        down = _interpolation(window.r1 - window.r0, a1 - a0, self.step)
        across = _interpolation(window.c1 - window.c0, b1 - b0, self.step)
        return np.asarray(down @ part @ across.T)


@lru_cache(maxsize=512)
def _interpolation(fine: int, coarse: int, step: int) -> Array:
    """Catmull-Rom weights from samples every `step` pixels to every pixel, float32 [fine, coarse].

    Cubic, because linear interpolation leaves facets in the surfaces cut from the fields.
    """
    position = np.arange(fine) / step
    left = np.minimum(position.astype(int), max(coarse - 2, 0))
    t = position - left
    weights = (
        0.5 * (-t + 2 * t**2 - t**3),
        0.5 * (2 - 5 * t**2 + 3 * t**3),
        0.5 * (t + 4 * t**2 - 3 * t**3),
        0.5 * (-(t**2) + t**3),
    )
    matrix = np.zeros((fine, coarse), np.float32)
    for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
        np.add.at(matrix, (np.arange(fine), np.clip(left + offset, 0, coarse - 1)), weight)
    return matrix


class Canvas:
    """HU of each segment of a slice and the label maps, painted from back to front."""

    def __init__(self, plane: SlicePlane) -> None:
        self.plane = plane
        segments = plane.offsets.size - 1
        shape = (plane.matrix, plane.matrix)
        self.hu = np.full((segments, *shape), -1000.0, np.float32)
        self.tissues = np.zeros(shape, np.uint8)
        self.bleeds = np.zeros(shape, np.uint8)
        self.opened: list[tuple[Window, Array]] = []
        """HU that gaps took from the bone [rows, columns of the window]."""

    def grid(self, window: Window, step: int | None = None) -> Grid:
        """Points over a window, every `step` pixels (about COARSE_MM apart when None)."""
        return Grid(self.plane, window, step or max(1, round(COARSE_MM / self.plane.spacing)))

    def around(self, centre: Array | tuple[float, float, float], radius: float) -> Grid | None:
        """Every pixel within `radius` mm of a point, or None where the slice does not reach it."""
        plane = self.plane
        offset = np.asarray(centre, float) - plane.origin
        if abs(float(offset @ plane.normal)) > radius + plane.thickness / 2:
            return None
        reach = radius / plane.spacing + 1
        column = float(offset @ plane.u) / plane.spacing**2
        row = float(offset @ plane.v) / plane.spacing**2
        r0, r1 = int(max(row - reach, 0)), int(min(row + reach + 2, plane.matrix))
        c0, c1 = int(max(column - reach, 0)), int(min(column + reach + 2, plane.matrix))
        if r1 - r0 < 2 or c1 - c0 < 2:
            return None
        return self.grid(Window(r0, r1, c0, c1), step=1)

    def paint(
        self, grid: Grid, field: Array, value: float | Array, tissue: Tissue | None = None
    ) -> None:
        """Fill the solid where `field` [planes, h, w] is below 0 with `value` HU."""
        lifted = grid.lift(field, level=0.0)
        if lifted is not None:
            self.blend(lifted.window, lifted.below(), value, tissue)

    def paint_around(
        self,
        centre: tuple[float, float, float],
        radius: float,
        distance: Callable[[Points], Array],
        value: float,
        tissue: Tissue,
    ) -> None:
        """Fill a small solid, evaluated at every pixel near its centre."""
        grid = self.around(centre, radius)
        if grid is not None:
            self.paint(grid, distance(grid.points), value, tissue)

    def blend(
        self, window: Window, cover: Array, value: float | Array, tissue: Tissue | None = None
    ) -> None:
        """Mix `value` HU in by `cover` (0 to 1) [segments, rows, columns]; label the majority."""
        part = self.hu[:, *window.index]
        part += cover * (value - part)
        if tissue is not None:
            self.tissues[window.index][cover.mean(axis=0) > 0.5] = tissue
