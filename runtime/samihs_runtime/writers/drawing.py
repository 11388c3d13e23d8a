"""Drawing for the pictures: a CT panel in true proportions, contours and marks.

With numpy, scipy and Pillow; no plotting library. Everything is laid out in panel pixels, and a
stored pixel's centre ``(x, y)`` is at ``((x - left + 0.5) * scale_x, (y - top + 0.5) * scale_y)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from samihs_runtime.segmentation import FOREGROUND
from samihs_runtime.writers.lettering import INK, SKY, VERMILION, Colour

if TYPE_CHECKING:
    from pathlib import Path

    from samihs_runtime.segmentation import Prompt
    from samihs_runtime.series import CTSeries

Mask = NDArray[np.bool_]

WINDOW_CENTRE_HU, WINDOW_WIDTH_HU = 40.0, 80.0
"""The usual brain window."""
BODY_HU = -300.0
"""Above this is the head (and its rest), below it air."""
MARGIN_PX = 8
"""Margin in stored pixels around everything that must be visible."""
FILL_ALPHA = 0.07
HALO_ALPHA = 0.55
SUPERSAMPLING = 2


@dataclass(frozen=True)
class View:
    """The part of a slice that is shown, and its size on the page."""

    left: int
    top: int
    right: int
    """One past the last column."""
    bottom: int
    """One past the last row."""
    scale: tuple[float, float]
    """Panel pixels per stored pixel, along x and y."""

    @property
    def size(self) -> tuple[int, int]:
        """Panel width and height."""
        return (
            round((self.right - self.left) * self.scale[0]),
            round((self.bottom - self.top) * self.scale[1]),
        )

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Position of a stored pixel's centre in the panel."""
        return (x - self.left + 0.5) * self.scale[0], (y - self.top + 0.5) * self.scale[1]

    def crop(self, plane: NDArray[Any]) -> NDArray[Any]:
        """The shown part of an array [rows, columns]."""
        return plane[self.top : self.bottom, self.left : self.right]


def view_of(
    series: CTSeries,
    indices: Iterable[int],
    masks: Iterable[Mask],
    points: Iterable[tuple[float, float]],
    longest: int,
) -> View:
    """A view of the head on these slices that includes all masks and points, to scale in mm.

    Args:
        series: the series.
        indices: slices to be shown in this view.
        masks: masks that must be visible.
        points: stored pixels (x, y) that must be visible.
        longest: length of the longer side in panel pixels.
    """
    rows, columns = series.shape
    indices = list(indices)
    seen = np.any([series.hu[index] > BODY_HU for index in indices], axis=0)
    for mask in masks:
        seen |= mask
    for x, y in points:
        seen[min(max(round(y), 0), rows - 1), min(max(round(x), 0), columns - 1)] = True
    if not seen.any():
        seen[:] = True
    ys, xs = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    left, right = max(int(xs[0]) - MARGIN_PX, 0), min(int(xs[-1]) + 1 + MARGIN_PX, columns)
    top, bottom = max(int(ys[0]) - MARGIN_PX, 0), min(int(ys[-1]) + 1 + MARGIN_PX, rows)
    row_mm, column_mm = series.planes[indices[0]].spacing
    per_mm = longest / max((right - left) * column_mm, (bottom - top) * row_mm)
    return View(left, top, right, bottom, (column_mm * per_mm, row_mm * per_mm))


def ct_panel(hu: NDArray[Any], view: View) -> Image.Image:
    """The slice in the brain window, interpolated, as an RGB image."""
    part = Image.fromarray(np.ascontiguousarray(view.crop(hu), dtype=np.float32))
    smooth = np.asarray(part.resize(view.size, Image.Resampling.BICUBIC))
    low = WINDOW_CENTRE_HU - WINDOW_WIDTH_HU / 2
    grey = np.clip((smooth - low) / WINDOW_WIDTH_HU, 0.0, 1.0) * 255
    return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")


def draw_contour(panel: Image.Image, mask: Mask, view: View, width: float = 3.0) -> Image.Image:
    """The panel with the mask's outline: a bright line with a dark halo, and a faint fill.

    The line follows the half level between mask and background, and is never more than half a
    stored pixel from the mask's own edge.
    """
    from scipy import ndimage

    if not mask.any():
        return panel
    fine = (view.size[0] * SUPERSAMPLING, view.size[1] * SUPERSAMPLING)
    inside = _enlarged(view.crop(mask), view, fine)
    near = _neighbourhood(inside, margin=2 * math.ceil(width / 2 + 3))
    inside = inside[tuple(slice(SUPERSAMPLING * a, SUPERSAMPLING * b) for a, b in near)]
    outward = ndimage.distance_transform_edt(~inside)
    inward = ndimage.distance_transform_edt(inside)
    distance = (outward - inward) / SUPERSAMPLING  # panel pixels, negative inside
    (top, bottom), (left, right) = near
    part = panel.crop((left, top, right, bottom))
    colour = np.asarray(part, dtype=np.float32)
    layers: list[tuple[NDArray[Any], Colour, float]] = [
        (np.clip(0.5 - distance, 0, 1), VERMILION, FILL_ALPHA),
        (np.clip(width / 2 + 2.0 - np.abs(distance), 0, 1), (0, 0, 0), HALO_ALPHA),
        (np.clip(width / 2 + 0.5 - np.abs(distance), 0, 1), VERMILION, 1.0),
    ]
    for cover, ink, alpha in layers:
        small = Image.fromarray((cover * 255).astype(np.uint8))
        covered = np.asarray(small.resize(part.size, Image.Resampling.BOX))
        weight = covered[..., None] * (alpha / 255)
        colour = (colour * (1 - weight) + np.asarray(ink) * weight).astype(np.float32)
    drawn = panel.copy()
    drawn.paste(Image.fromarray(colour.round().astype(np.uint8)), (left, top))
    return drawn


def _enlarged(mask: Mask, view: View, fine: tuple[int, int]) -> Mask:
    """A view's mask [rows, columns] on the grid of ``fine`` (width, height) pixels.

    A single pixel may stay below the half level everywhere, if no fine pixel's centre is close
    enough to its own. So the fine pixel under each mask pixel's centre always belongs to the mask,
    and none vanishes.
    """
    soft = Image.fromarray(mask.astype(np.uint8) * 255)
    inside = np.asarray(soft.resize(fine, Image.Resampling.BILINEAR)) >= 128
    rows, columns = np.nonzero(mask)
    scale_x, scale_y = view.scale
    y = ((rows + 0.5) * scale_y * SUPERSAMPLING).astype(int)
    x = ((columns + 0.5) * scale_x * SUPERSAMPLING).astype(int)
    # The view's size is rounded to whole pixels, so the last centre may lie beyond it.
    inside[np.minimum(y, fine[1] - 1), np.minimum(x, fine[0] - 1)] = True
    return inside


def _neighbourhood(inside: Mask, margin: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(top, bottom), (left, right) of what is inside, with a margin, in panel pixels. Distances are
    needed only there; computing them elsewhere would take most of the drawing time."""
    ranges = []
    for axis in (0, 1):
        used = np.flatnonzero(inside.any(axis=1 - axis)) // SUPERSAMPLING
        end = inside.shape[axis] // SUPERSAMPLING
        ranges.append((max(int(used[0]) - margin, 0), min(int(used[-1]) + 1 + margin, end)))
    return ranges[0], ranges[1]


def draw_prompt(panel: Image.Image, prompt: Prompt, view: View, size: float = 11.0) -> Image.Image:
    """The panel with clicks as rings with ticks (white: lesion; sky: not lesion), and the box."""
    # On a separate layer, twice as fine, so that the CT beneath need not be resampled.
    marks = Image.new("RGBA", (panel.width * 2, panel.height * 2))
    draw = ImageDraw.Draw(marks)
    if prompt.box is not None:
        x0, y0, x1, y1 = (2 * value for value in _corners(prompt.box, view))
        x, y = (x0 + x1) / 2, (y0 + y1) / 2  # a small box has no room for the inner line
        within = (min(x0 + 2, x), min(y0 + 2, y), max(x1 - 2, x), max(y1 - 2, y))
        draw.rectangle((x0, y0, x1, y1), outline=(0, 0, 0), width=7)
        draw.rectangle(within, outline=INK, width=3)
    for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
        ink = INK if label == FOREGROUND else SKY
        centre_x, centre_y = (2 * value for value in view.place(x, y))
        for line, colour in ((9, (0, 0, 0)), (4, ink)):
            _ring(draw, centre_x, centre_y, 2 * size, line, colour, cross=label == FOREGROUND)
    layer = marks.resize(panel.size, Image.Resampling.BOX)
    return Image.alpha_composite(panel.convert("RGBA"), layer).convert("RGB")


def _ring(
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    radius: float,
    line: int,
    colour: Colour,
    *,
    cross: bool,
) -> None:
    """A ring with four outward ticks; a click on "not lesion" has a bar through it instead.

    The spot itself stays visible.
    """
    edge = radius + (line - 4) / 2
    draw.ellipse((x - edge, y - edge, x + edge, y + edge), outline=colour, width=line)
    if not cross:
        reach = radius * 0.55 + (line - 4) / 2
        draw.line((x - reach, y, x + reach, y), fill=colour, width=line)
        return
    near, far = radius, radius * 1.7 + (line - 4) / 2
    for along_x, along_y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        start = (x + along_x * near, y + along_y * near)
        draw.line((*start, x + along_x * far, y + along_y * far), fill=colour, width=line)


def _corners(
    box: tuple[float, float, float, float], view: View
) -> tuple[float, float, float, float]:
    x0, y0 = view.place(min(box[0], box[2]), min(box[1], box[3]))
    x1, y1 = view.place(max(box[0], box[2]), max(box[1], box[3]))
    return x0, y0, x1, y1


def save_png(picture: Image.Image, path: Path) -> None:
    """Save at zlib level 3: for a CT slice half the time of the default 6, and no larger a file."""
    picture.save(path, format="PNG", compress_level=3)
