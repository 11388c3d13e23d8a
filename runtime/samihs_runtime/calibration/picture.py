"""The accepted clicks on one page, best score first: whether one of them is a hemorrhage after all,
only somebody who can read CT can tell."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_runtime.viewer_numbers import slice_name
from samihs_runtime.wording import counted
from samihs_runtime.writers.drawing import ct_panel, draw_contour, draw_prompt, view_of
from samihs_runtime.writers.lettering import AMBER, DIM, INK, PAGE, write_text

if TYPE_CHECKING:
    from samihs_runtime.answering import SliceAnswer
    from samihs_runtime.calibration.normal_clicks import NormalClick
    from samihs_runtime.series import CTSeries

MOST = 40
"""Tiles on the page."""
TILE, CAPTION, GAP, PAD, COLUMNS, HEADER = 300, 30, 12, 24, 5, 84


@dataclass
class AcceptedClicks:
    """Collects the answers that were accepted, and keeps pictures of the MOST best scores."""

    count: int = 0
    tiles: list[tuple[float, str, Image.Image]] = field(default_factory=list)

    def add(self, study: int, series: CTSeries, click: NormalClick, answer: SliceAnswer) -> None:
        """Draw an accepted answer on its slice."""
        self.count += 1
        if len(self.tiles) == MOST and answer.score <= self.tiles[-1][0]:
            return
        spot, hu = (click.x, click.y), series.hu[click.index]
        view = view_of(series, [click.index], [answer.mask], [spot], TILE)
        panel = draw_contour(ct_panel(hu, view), answer.mask, view, width=1.5)
        panel = draw_prompt(panel, Prompt((spot,), (FOREGROUND,)), view, size=5.0)
        where = slice_name(series, click.index)
        caption = f"study {study}   ·   {where}   ·   {answer.score:.2f}"
        self.tiles = sorted(
            [*self.tiles, (answer.score, caption, panel)], key=lambda tile: -tile[0]
        )[:MOST]

    def page(self, threshold: float, clicks: int) -> Image.Image:
        """The page, of ``clicks`` clicks in all."""
        rows = math.ceil(len(self.tiles) / COLUMNS)
        across = 2 * PAD + COLUMNS * TILE + (COLUMNS - 1) * GAP
        down = PAD + HEADER + rows * (TILE + CAPTION + GAP) + PAD
        page = Image.new("RGB", (across, down), PAGE)
        draw = ImageDraw.Draw(page)
        shown = "" if self.count <= MOST else f"; the {MOST} of the best score are shown"
        head = f"{self.count} of {counted(clicks, 'click')} accepted at {threshold:.3f}{shown}"
        write_text(draw, (PAD, PAD - 6), head, 28, INK)
        doubt = "Heads said to be without hemorrhage. Is any of these a hemorrhage after all?"
        write_text(draw, (PAD, PAD + 36), doubt, 18, AMBER)
        for number, (_, caption, panel) in enumerate(self.tiles):
            x = PAD + number % COLUMNS * (TILE + GAP)
            y = PAD + HEADER + number // COLUMNS * (TILE + CAPTION + GAP)
            page.paste(panel, (x + (TILE - panel.width) // 2, y + (TILE - panel.height) // 2))
            write_text(draw, (x + TILE / 2, y + TILE + 6), caption, 15, DIM, centred=True)
        return page
