"""The accepted clicks on one page, best score first: whether one of them is a hemorrhage after all,
only somebody who can read CT can tell."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_runtime.viewer_numbers import slice_name
from samihs_runtime.wording import counted
from samihs_runtime.writers.drawing import View, ct_panel, draw_contour, draw_prompt
from samihs_runtime.writers.lettering import AMBER, DIM, INK, PAGE, write_text

if TYPE_CHECKING:
    from samihs_runtime.answering import SliceAnswer
    from samihs_runtime.calibration.normal_clicks import NormalClick
    from samihs_runtime.series import CTSeries

Mask = NDArray[np.bool_]
MOST = 40
"""Tiles on the page."""
AROUND_MM = 90.0
"""Side of the square around the click that a tile shows, twice: plain and with the outline."""
PANEL, CAPTION, GAP, PAD, COLUMNS, HEADER = 220, 30, 14, 24, 3, 84


@dataclass
class AcceptedClicks:
    """Collects the answers that were accepted, and keeps pictures of the MOST best scores."""

    count: int = 0
    tiles: list[tuple[float, str, Image.Image]] = field(default_factory=list)

    def add(self, study: int, series: CTSeries, click: NormalClick, answer: SliceAnswer) -> None:
        """Draw an accepted answer, and what is seen without it."""
        self.count += 1
        if len(self.tiles) == MOST and answer.score <= self.tiles[-1][0]:
            return
        view = _around(series, click)
        plain = ct_panel(series.hu[click.index], view)
        drawn = draw_contour(plain, answer.mask & _shown(answer, view), view, width=1.5)
        prompt = Prompt(((click.x, click.y),), (FOREGROUND,))
        tile = Image.new("RGB", (2 * PANEL, PANEL), PAGE)
        tile.paste(plain, (0, 0))
        tile.paste(draw_prompt(drawn, prompt, view, size=4.0), (PANEL, 0))
        where = slice_name(series, click.index)
        caption = f"study {study}   ·   {where}   ·   {answer.score:.2f}"
        self.tiles = sorted(
            [*self.tiles, (answer.score, caption, tile)], key=lambda each: -each[0]
        )[:MOST]

    def page(self, threshold: float, clicks: int) -> Image.Image:
        """The page, of ``clicks`` clicks in all."""
        rows = math.ceil(len(self.tiles) / COLUMNS)
        across = 2 * PAD + COLUMNS * 2 * PANEL + (COLUMNS - 1) * GAP
        down = PAD + HEADER + rows * (PANEL + CAPTION + GAP) + PAD
        page = Image.new("RGB", (across, down), PAGE)
        draw = ImageDraw.Draw(page)
        shown = "" if self.count <= MOST else f"; the {MOST} of the best score are shown"
        head = f"{self.count} of {counted(clicks, 'click')} accepted at {threshold:.3f}{shown}"
        write_text(draw, (PAD, PAD - 6), head, 28, INK)
        doubt = (
            "Heads said to be without hemorrhage: is any of these a hemorrhage after all?   ·   "
            f"{AROUND_MM:g} mm around each click   ·   brain window 80 / 40 HU"
        )
        write_text(draw, (PAD, PAD + 36), doubt, 18, AMBER)
        for number, (_, caption, tile) in enumerate(self.tiles):
            x = PAD + number % COLUMNS * (2 * PANEL + GAP)
            y = PAD + HEADER + number // COLUMNS * (PANEL + CAPTION + GAP)
            page.paste(tile, (x, y))
            write_text(draw, (x + PANEL, y + PANEL + 6), caption, 15, DIM, centred=True)
        return page


def _around(series: CTSeries, click: NormalClick) -> View:
    """AROUND_MM around the click, or less at the edge of the image."""
    rows, columns = series.shape
    row_mm, column_mm = series.planes[click.index].spacing
    down, across = AROUND_MM / 2 / row_mm, AROUND_MM / 2 / column_mm
    scale = (PANEL / AROUND_MM * column_mm, PANEL / AROUND_MM * row_mm)
    return View(
        left=max(round(click.x - across), 0),
        top=max(round(click.y - down), 0),
        right=min(round(click.x + across), columns),
        bottom=min(round(click.y + down), rows),
        scale=scale,
    )


def _shown(answer: SliceAnswer, view: View) -> Mask:
    """What of the slice is in the view, [rows, columns]."""
    shown = np.zeros(answer.mask.shape, dtype=bool)
    shown[view.top : view.bottom, view.left : view.right] = True
    return shown
