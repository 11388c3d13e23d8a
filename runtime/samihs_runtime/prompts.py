"""What the user typed after ``--point``, ``--negative``, ``--box`` and ``--slice``, checked.

Points are ``x,y[,z]``: zero-based column, row and slice of the stored image, pixel centres at
integers. Slices count in the order of :class:`~samihs_runtime.series.CTSeries`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from samihs_runtime.errors import PromptError
from samihs_runtime.geometry import is_inside
from samihs_runtime.segmentation import BACKGROUND, FOREGROUND, Prompt


@dataclass(frozen=True)
class Request:
    """One lesion to look for: a prompt, and the slice it was drawn on if that is known."""

    prompt: Prompt
    slice_index: int | None = None


def parse_request(
    points: Sequence[str],
    negatives: Sequence[str] = (),
    box: str | None = None,
    slice_index: int | None = None,
) -> Request:
    """The options' texts as one request.

    Raises:
        PromptError: a text that is not a point or box, or two different slices in one request.
    """
    clicks = [(text, FOREGROUND) for text in points] + [(text, BACKGROUND) for text in negatives]
    parsed = [(_point(text), label) for text, label in clicks]
    slices = {z for (_, _, z), _ in parsed if z is not None}
    if slice_index is not None:
        slices.add(slice_index)
    if len(slices) > 1:
        named = ", ".join(str(index) for index in sorted(slices))
        raise PromptError(f"the clicks name different slices ({named}): one lesion, one slice")
    if not points and box is None:
        raise PromptError("nothing was clicked: give a point x,y[,z] or a box x0,y0,x1,y1")
    prompt = Prompt(
        points=tuple((x, y) for (x, y, _), _ in parsed),
        labels=tuple(label for _, label in parsed),
        box=None if box is None else _box(box),
    )
    return Request(prompt, next(iter(slices), None))


def check_prompt(prompt: Prompt, rows: int, columns: int) -> None:
    """Refuse a prompt that is empty or lies outside the slice.

    Raises:
        PromptError: the message names the point and the slice's bounds.
    """
    if len(prompt.points) != len(prompt.labels):
        raise PromptError(
            f"{len(prompt.points)} points with {len(prompt.labels)} labels: give one per point"
        )
    if not prompt.points and prompt.box is None:
        raise PromptError("the prompt is empty: give a point or a box")
    for label in prompt.labels:
        if label not in (FOREGROUND, BACKGROUND):
            raise PromptError(f"point label {label}: expected 1 (foreground) or 0 (background)")
    for x, y in prompt.points:
        _check_point("point", x, y, rows, columns)
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        _check_point("box corner", x0, y0, rows, columns)
        _check_point("box corner", x1, y1, rows, columns)
        if not (x0 < x1 and y0 < y1):
            raise PromptError(f"box {x0:g},{y0:g},{x1:g},{y1:g}: expected x0 < x1 and y0 < y1")


def _check_point(what: str, x: float, y: float, rows: int, columns: int) -> None:
    if not is_inside(x, y, (rows, columns)):
        raise PromptError(
            f"{what} {x:g},{y:g} lies outside the image of {columns} columns and {rows} rows: "
            f"expected x (column) 0 to {columns - 1} and y (row) 0 to {rows - 1}",
            reason="outside_image",
        )


def check_inside(request: Request, shape: tuple[int, int], slices: int) -> None:
    """Refuse clicks outside the series.

    Args:
        request: what was asked.
        shape: (rows, columns) of a slice.
        slices: how many slices there are.

    Raises:
        PromptError: names what is outside, and the valid range.
    """
    check_prompt(request.prompt, *shape)
    if request.slice_index is not None:
        check_slice(request.slice_index, slices)


def check_slice(index: int, slices: int) -> None:
    """Refuse a slice index that a series of ``slices`` slices does not have.

    Raises:
        PromptError: names those that it has.
    """
    if not 0 <= index < slices:
        raise PromptError(
            f"slice {index} is out of range: this series has 0 to {slices - 1}",
            reason="no_such_slice",
        )


def numbers(text: str, counts: tuple[int, ...], form: str) -> list[float]:
    """Finite numbers separated by commas; PromptError if their number is not in ``counts``."""
    try:
        parsed = [float(part) for part in text.split(",")]
    except ValueError:
        parsed = []
    if len(parsed) not in counts or not all(math.isfinite(number) for number in parsed):
        raise PromptError(f"{text!r} is not of the form {form}")
    return parsed


def _point(text: str) -> tuple[float, float, int | None]:
    x, y, *rest = numbers(text, (2, 3), "x,y or x,y,z (column, row, slice; zero-based)")
    if not rest:
        return x, y, None
    if not rest[0].is_integer():
        raise PromptError(f"the slice in {text!r} is {rest[0]:g}: a whole number was expected")
    return x, y, int(rest[0])


def _box(text: str) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = numbers(text, (4,), "x0,y0,x1,y1 (columns and rows, zero-based)")
    if x1 <= x0 or y1 <= y0:
        raise PromptError(f"the box {text!r} is empty: x0 < x1 and y0 < y1 were expected")
    return x0, y0, x1, y1
