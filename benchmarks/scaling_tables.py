"""Tables of ``scaling.py``: fitted exponents beside those of theory."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from record import Record
from tables import SCALE, table, unit_of

THEORY = {
    "read a folder, slices": (1, "each slice is read and decoded alone; checks of the series are "
                              "paid once, which flattens small folders"),
    "encode, batch": (1, "no slice shares work with another; below 1 where a single one leaves "
                      "cores idle"),
    "decode, prompts": (1, "as above: prompts share the embedding alone"),
    "vit_b in torch, image size": (2, "the tokens grow as the square of the side, windowed blocks "
                                   "as the tokens; the four global blocks' attention grows as "
                                   "their square (exponent 4), which shows from 1024 on; windows "
                                   "of 14 are padded, which at 256 costs half as much again"),
}  # fmt: skip
"""Axis -> exponent of its time and of its memory, and what moves a measured one from it."""


def exponents(record: Record) -> list[str]:
    """A table of all axes, and why some leave theory."""
    rows = []
    for axis in dict.fromkeys(each.subject for each in record.series):
        points = [each for each in record.series if each.subject == axis]
        shown = ", ".join(
            f"{each.quantity}: {SCALE[each.unit] * each.median:.4g} {unit_of(each)}"
            for each in points
        )
        fit = exponent([(each.quantity, each.median) for each in points])
        theory = THEORY.get(axis.partition(", peak")[0])
        rows.append((
            axis, shown, "" if fit is None else f"{fit:.2f}", str(theory[0]) if theory else "",
        ))  # fmt: skip
    notes = [f"- {axis}: in theory {power}: {why}." for axis, (power, why) in THEORY.items()]
    return [*table(("axis", "medians", "exponent", "theory"), rows), "", *notes, ""]


def exponent(points: Iterable[tuple[str, float]]) -> float | None:
    """k of cost = c n^k, by least squares of the logarithms.

    None where n is not a number, a cost is not above 0, or there are fewer than two points.
    """
    try:
        pairs = [(math.log(float(n)), math.log(cost)) for n, cost in points]
    except ValueError:
        return None
    if len(pairs) < 2:
        return None
    sizes, costs = zip(*pairs, strict=True)
    return float(np.polyfit(sizes, costs, 1)[0])
