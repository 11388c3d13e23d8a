"""The clicked slice with the contour, the click and the result. No patient identity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from samihs_runtime.measurement import masks_by_slice
from samihs_runtime.viewer_numbers import slice_name
from samihs_runtime.writers.drawing import (
    WINDOW_CENTRE_HU,
    WINDOW_WIDTH_HU,
    ct_panel,
    draw_contour,
    draw_prompt,
    save_png,
    view_of,
)
from samihs_runtime.writers.furniture import draw_furniture
from samihs_runtime.writers.lettering import (
    AMBER,
    DIM,
    INK,
    PAGE,
    Colour,
    square_cm,
    wrapped,
    write_text,
)

if TYPE_CHECKING:
    from samihs_runtime.measurement import Measurement
    from samihs_runtime.report import Report
    from samihs_runtime.segmentation import Lesion
    from samihs_runtime.series import CTSeries

PANEL_PX = 960
PAD = 28


def write_overlay(
    series: CTSeries, lesion: Lesion, measurement: Measurement, report: Report, path: Path
) -> None:
    """Write the picture as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    save_png(overlay_image(series, lesion, measurement, report), path)


def overlay_image(
    series: CTSeries, lesion: Lesion, measurement: Measurement, report: Report
) -> Image.Image:
    """The picture: the clicked slice in the brain window, its contour and clicks, a caption."""
    index = lesion.clicked_slice
    mask = masks_by_slice(lesion).get(index, np.zeros(series.shape, dtype=bool))
    box = report.prompt.box
    corners = () if box is None else (box[:2], box[2:])
    view = view_of(series, [index], [mask], (*report.prompt.points, *corners), PANEL_PX)
    panel = draw_contour(ct_panel(series.hu[index], view), mask, view)
    panel = draw_prompt(panel, report.prompt, view)
    draw_furniture(panel, series, index, view)
    lines = caption(series, lesion, measurement, report)
    return _page(panel, lines)


def caption(
    series: CTSeries, lesion: Lesion, measurement: Measurement, report: Report
) -> list[tuple[str, int, Colour]]:
    """The lines below the picture: text, size, colour."""
    index = lesion.clicked_slice
    place = "the only slice"
    if len(series) > 1:
        place = f"{slice_name(series, index)} of 0 to {len(series) - 1}"
    where = (
        f"{place}   ·   "
        f"window {WINDOW_WIDTH_HU:g} / {WINDOW_CENTRE_HU:g} HU   ·   {report.bundle_name}"
    )
    here = next((each for each in measurement.slices if each.index == index), None)
    if here is None:
        head = f"No hemorrhage found at this click   ·   score {lesion.score:.2f}"
        return [(head, 30, INK), (where, 18, DIM), (report.statement, 18, AMBER)]
    head = (
        f"{measurement.volume_ml:.1f} mL   ·   {square_cm(here.area_mm2)} on this slice   ·   "
        f"score {lesion.score:.2f}"
    )
    detail = (
        f"{len(measurement.slices)} slice{'s' * (len(measurement.slices) > 1)}   ·   "
        f"largest diameter {measurement.largest_diameter_mm:.0f} mm   ·   "
        f"{measurement.mean_hu:.0f} ± {measurement.sd_hu:.0f} HU"
    )
    return [
        (head, 30, INK),
        (detail, 20, INK),
        (where, 18, DIM),
        (report.statement, 18, AMBER),
    ]


def _page(panel: Image.Image, lines: list[tuple[str, int, Colour]]) -> Image.Image:
    """Panel above, caption below, on a dark page of at least the width that captions need."""
    width = max(panel.width, 720) + 2 * PAD
    ruler = ImageDraw.Draw(panel)
    broken = [
        (part, size, colour)
        for text, size, colour in lines
        for part in wrapped(ruler, text, size, width - 2 * PAD)
    ]
    height = PAD + panel.height + 18 + sum(round(size * 1.5) for _, size, _ in broken) + PAD - 8
    page = Image.new("RGB", (width, height), PAGE)
    page.paste(panel, ((width - panel.width) // 2, PAD))
    draw = ImageDraw.Draw(page)
    y = PAD + panel.height + 18
    for text, size, colour in broken:
        write_text(draw, (PAD, y), text, size, colour)
        y += round(size * 1.5)
    return page
