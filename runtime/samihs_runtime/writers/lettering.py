"""Colours and text of the pictures, in Pillow's own font, which is the same on every machine."""

from __future__ import annotations

import functools

from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]

PAGE: Colour = (15, 18, 23)
INK: Colour = (236, 239, 243)
DIM: Colour = (148, 157, 168)
AMBER: Colour = (255, 190, 92)
VERMILION: Colour = (255, 94, 58)
"""Contour: far from grey, and distinguishable from it in all common forms of colour blindness."""
SKY: Colour = (110, 200, 255)
"""Negative clicks."""


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font at a size in pixels."""
    return ImageFont.load_default(size)


def rimmed(
    draw: ImageDraw.ImageDraw,
    spot: tuple[float, float],
    text: str,
    size: int,
    colour: Colour = INK,
    anchor: str = "la",
) -> None:
    """Text with a dark rim, legible on any grey."""
    rim = 2 if size >= 14 else 1
    draw.text(
        spot, text, font=font(size), fill=colour, anchor=anchor,
        stroke_width=rim, stroke_fill=(0, 0, 0),
    )  # fmt: skip


def wrapped(draw: ImageDraw.ImageDraw, text: str, size: int, width: float) -> list[str]:
    """The text broken at spaces into lines of at most `width` pixels."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(longer, font=font(size)) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def write_text(
    draw: ImageDraw.ImageDraw,
    spot: tuple[float, float],
    text: str,
    size: int,
    colour: Colour = INK,
    *,
    centred: bool = False,
) -> None:
    """Plain text from its upper left (or upper middle). Pillow's font has no superscript two, so a
    small raised 2 is drawn instead."""
    pieces = text.split("²")
    raised = round(size * 0.6)
    two = draw.textlength("2", font=font(raised)) + 1
    lengths = [draw.textlength(piece, font=font(size)) for piece in pieces]
    x, y = spot
    if centred:
        x -= (sum(lengths) + two * (len(pieces) - 1)) / 2
    for position, (piece, length) in enumerate(zip(pieces, lengths, strict=True)):
        draw.text((x, y), piece, font=font(size), fill=colour)
        x += length
        if position < len(pieces) - 1:
            draw.text((x + 1, y), "2", font=font(raised), fill=colour)
            x += two


def square_cm(area_mm2: float) -> str:
    """An area as text, for :func:`write_text`."""
    return f"{area_mm2 / 100:.2f} cm²"
