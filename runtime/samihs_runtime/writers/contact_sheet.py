"""Every slice of the lesion with its contour, on one page. No patient identity."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from samihs_runtime.measurement import masks_by_slice
from samihs_runtime.viewer_numbers import slice_name, viewer_number
from samihs_runtime.writers.drawing import (
    View,
    ct_panel,
    draw_contour,
    save_png,
    view_of,
)
from samihs_runtime.writers.furniture import (
    GREYS_WIDTH,
    draw_directions,
    draw_grey_scale,
    draw_scale_bar,
)
from samihs_runtime.writers.lettering import (
    AMBER,
    DIM,
    INK,
    PAGE,
    VERMILION,
    font,
    square_cm,
    wrapped,
    write_text,
)

if TYPE_CHECKING:
    from samihs_runtime.measurement import Measurement
    from samihs_runtime.report import Report
    from samihs_runtime.segmentation import Lesion
    from samihs_runtime.series import CTSeries, SlicePlane

PAGE_WIDTH = 1500
PAD, GAP = 30, 14
MOST_COLUMNS = 5
MOST_TILES = 40
"""If there are more slices than this, they are thinned out evenly, and the page says so."""
CAPTION_PX = 30
FOOTER_SIZE, FOOTER_LINE = 18, 27
"""Font size and line spacing of the statement, in pixels."""
SCALES_PX = 64
"""Height of the grey scale in the header."""


def write_contact_sheet(
    series: CTSeries, lesion: Lesion, measurement: Measurement, report: Report, path: Path
) -> None:
    """Write the page as PNG.

    Raises:
        ValueError: the lesion has no slice with mask.
        OSError: the file cannot be written.
    """
    save_png(contact_sheet(series, lesion, measurement, report), path)


def contact_sheet(
    series: CTSeries, lesion: Lesion, measurement: Measurement, report: Report
) -> Image.Image:
    """The page: slices along the normal in reading order, the clicked one framed."""
    masks = masks_by_slice(lesion)
    if not masks:
        raise ValueError("contact sheet of a lesion without a mask: write the overlay alone")
    shown = _thinned(list(masks), lesion.clicked_slice)
    columns = _columns(len(shown))
    tile = (PAGE_WIDTH - 2 * PAD - (columns - 1) * GAP) // columns
    view = view_of(series, shown, masks.values(), [], tile)
    header = _header(series, lesion, measurement, len(shown))
    footer = _footer(report)
    page = _blank_page(view, columns, len(shown), len(header), len(footer))
    y = _draw_header(page, header)
    _draw_scales(page, view, series.planes[shown[0]])
    scores = {part.index: part.score for part in lesion.slices}
    areas = {each.index: each.area_mm2 for each in measurement.slices}
    for position, index in enumerate(shown):
        panel = draw_contour(ct_panel(series.hu[index], view), masks[index], view, width=2.0)
        if position == 0:  # once is enough: all slices of a series have the same orientation
            draw_directions(panel, series.planes[index], edge=5, size=15)
        corner = (
            PAD + (position % columns) * (tile + GAP) + (tile - view.size[0]) // 2,
            y + (position // columns) * (view.size[1] + CAPTION_PX + GAP),
        )
        named = viewer_number(series.sources[index])
        parts = (str(index), named, square_cm(areas[index]), f"{scores[index]:.2f}")
        text = "   ·   ".join(filter(None, parts))
        _place_tile(page, panel, corner, text, clicked=index == lesion.clicked_slice)
    _draw_footer(page, footer)
    return page


def _thinned(indices: list[int], clicked: int) -> list[int]:
    """At most MOST_TILES of the slices, evenly spaced, including both ends and the clicked one."""
    if len(indices) <= MOST_TILES:
        return indices
    picks = {indices[int(i)] for i in np.linspace(0, len(indices) - 1, MOST_TILES - 1).round()}
    return sorted(picks | ({clicked} & set(indices)))


def _columns(tiles: int) -> int:
    """Columns for as few rows as fit, filled as evenly as possible: 6 slices are 2 rows of 3."""
    rows = math.ceil(tiles / MOST_COLUMNS)
    return max(math.ceil(tiles / rows), 2)


def _header(
    series: CTSeries, lesion: Lesion, measurement: Measurement, shown: int
) -> list[tuple[str, int]]:
    count = len(measurement.slices)
    first, last = measurement.slices[0].index, measurement.slices[-1].index
    head = f"{measurement.volume_ml:.1f} mL on {count} slices ({first} to {last})"
    thinned = "" if shown == count else f"   ·   {shown} of {count} shown"
    detail = (
        f"clicked on {slice_name(series, lesion.clicked_slice)}, framed   ·   below each: slice, "
        "as viewers count it, area, score   "
        f"·   brain window 80 / 40 HU{thinned}"
    )
    return [(head, 30), (detail, 18)]


def _draw_header(page: Image.Image, header: list[tuple[str, int]]) -> int:
    """Draw the header's lines; returns where the tiles start."""
    draw = ImageDraw.Draw(page)
    y = PAD - 6
    for position, (text, size) in enumerate(header):
        write_text(draw, (PAD, y), text, size, DIM if position else INK)
        y += round(size * 1.5)
    return y + 10


def _footer(report: Report) -> list[str]:
    """The whole statement, on as many lines as needed: its end says "not for clinical use"."""
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    return wrapped(ruler, report.statement, FOOTER_SIZE, PAGE_WIDTH - 2 * PAD)


def _draw_footer(page: Image.Image, lines: list[str]) -> None:
    draw = ImageDraw.Draw(page)
    for above, line in enumerate(reversed(lines)):
        y = page.height - PAD - above * FOOTER_LINE
        draw.text((PAD, y), line, font=font(FOOTER_SIZE), fill=AMBER, anchor="ls")


def _draw_scales(page: Image.Image, view: View, plane: SlicePlane) -> None:
    """Scale bar and grey scale, once for all tiles, at the upper right."""
    greys = (PAGE_WIDTH - PAD - GREYS_WIDTH, PAD - 4)
    draw_grey_scale(page, greys, SCALES_PX)
    bar = (greys[0] - 330.0, PAD + SCALES_PX - 10.0)
    draw_scale_bar(ImageDraw.Draw(page), bar, 230.0, view, plane)


def _blank_page(
    view: View, columns: int, tiles: int, header_lines: int, footer_lines: int
) -> Image.Image:
    rows = math.ceil(tiles / columns)
    header = 45 + 27 * (header_lines - 1) + 10
    body = rows * (view.size[1] + CAPTION_PX + GAP)
    footer = 20 + (footer_lines - 1) * FOOTER_LINE
    return Image.new("RGB", (PAGE_WIDTH, PAD + header + body + PAD + footer), PAGE)


def _place_tile(
    page: Image.Image, panel: Image.Image, corner: tuple[int, int], text: str, *, clicked: bool
) -> None:
    page.paste(panel, corner)
    draw = ImageDraw.Draw(page)
    x, y = corner
    if clicked:
        frame = (x - 3, y - 3, x + panel.width + 2, y + panel.height + 2)
        draw.rectangle(frame, outline=VERMILION, width=3)
    middle = x + panel.width / 2
    ink = INK if clicked else DIM
    write_text(draw, (middle, y + panel.height + 8), text, 17, ink, centred=True)
