"""Scale bar, grey scale and direction letters of a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from samihs_runtime.writers.drawing import WINDOW_CENTRE_HU, WINDOW_WIDTH_HU, View
from samihs_runtime.writers.lettering import DIM, INK, rimmed

if TYPE_CHECKING:
    from samihs_runtime.series import CTSeries, SlicePlane

BAR_LENGTHS_MM = (50, 20, 10, 5, 1)
GREYS_WIDTH = 10


def draw_furniture(panel: Image.Image, series: CTSeries, index: int, view: View) -> None:
    """Draw scale bar, grey scale in HU and the patient's directions, in place."""
    draw = ImageDraw.Draw(panel)
    plane = series.planes[index]
    draw_scale_bar(draw, (20.0, panel.height - 24.0), panel.width / 3, view, plane)
    draw_grey_scale(panel, (panel.width - 20 - GREYS_WIDTH, panel.height - 24 - 130), 130)
    draw_directions(panel, plane, edge=12, size=20)


def draw_directions(panel: Image.Image, plane: SlicePlane, edge: int, size: int) -> None:
    """Draw the letters of :func:`patient_orientation` and their opposites at the edges."""
    draw = ImageDraw.Draw(panel)
    middle_x, middle_y = panel.width / 2, panel.height / 2
    right, down = patient_orientation(plane)
    rimmed(draw, (edge, middle_y), _opposite(right), size, anchor="lm")
    rimmed(draw, (panel.width - edge, middle_y), right, size, anchor="rm")
    rimmed(draw, (middle_x, edge), _opposite(down), size, anchor="ma")
    rimmed(draw, (middle_x, panel.height - edge), down, size, anchor="md")


def draw_scale_bar(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    longest: float,
    view: View,
    plane: SlicePlane,
) -> None:
    """Draw a bar of a round number of mm, at most ``longest`` pixels, to the right of a corner."""
    per_mm = view.scale[0] / plane.spacing[1]
    bar_mm = next((mm for mm in BAR_LENGTHS_MM if mm * per_mm < longest), BAR_LENGTHS_MM[-1])
    x0, y0, length = *corner, bar_mm * per_mm
    draw.rectangle((x0 - 1, y0 - 1, x0 + length + 1, y0 + 4), fill=(0, 0, 0))
    draw.rectangle((x0, y0, x0 + length, y0 + 3), fill=INK)
    rimmed(draw, (x0, y0 - 8), f"{bar_mm} mm", 17, anchor="ls")


def draw_grey_scale(page: Image.Image, corner: tuple[int, int], height: int) -> None:
    """Draw the window's greys with their HU to the left."""
    draw = ImageDraw.Draw(page)
    x0, y0 = corner
    ramp = np.linspace(255, 0, height).round().astype(np.uint8)
    draw.rectangle((x0 - 1, y0 - 1, x0 + GREYS_WIDTH, y0 + height), outline=DIM)
    greys = Image.fromarray(np.repeat(ramp[:, None], GREYS_WIDTH, axis=1)).convert("RGB")
    page.paste(greys, (x0, y0))
    low = WINDOW_CENTRE_HU - WINDOW_WIDTH_HU / 2
    rimmed(draw, (x0 - 8, y0 + 2), f"{low + WINDOW_WIDTH_HU:g} HU", 15, anchor="rm")
    rimmed(draw, (x0 - 8, y0 + height - 2), f"{low:g}", 15, anchor="rm")


def patient_orientation(plane: SlicePlane) -> tuple[str, str]:
    """The patient directions of rows and columns: PatientOrientation (PS3.3 C.7.6.1.1.1), with only
    the main direction of each."""
    return _letter(plane.row_direction), _letter(plane.column_direction)


def _letter(direction: tuple[float, float, float]) -> str:
    """A vector's main direction in the patient: LPS, so +x is left, +y posterior, +z head."""
    axis = int(np.argmax(np.abs(direction)))
    return ("LR", "PA", "HF")[axis][0 if direction[axis] > 0 else 1]


def _opposite(letter: str) -> str:
    return dict(zip("LRPAHF", "RLAPFH", strict=True))[letter]
