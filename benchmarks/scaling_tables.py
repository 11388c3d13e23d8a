"""Tables of ``scaling.py``: fitted exponents beside those of theory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

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
MEMORY = ", peak memory"
"""Follows the axis in the subject of a series of peaks."""
BEYOND = ("read a folder, slices", "encode, batch", "decode, prompts")
"""Axes whose peaks are what a size takes beyond the smallest, which ran before in that process."""
MEMORY_NOTES = (
    "peak memory of a folder, a batch or prompts is what they take beyond the smallest, which ran "
    "before in that process; so its exponent is that of n less the smallest, in theory 1. A batch "
    "is encoded slice by slice: what grows are embeddings and slices, after a first step that "
    "makes room for both",
    "peak memory of vit_b in torch holds torch and the weights, 0.6 GB whatever the image's size: "
    "below 2 for that",
)


def exponents(record: Record) -> list[str]:
    """A table of all axes, and why some leave theory."""
    rows = []
    for subject in dict.fromkeys(each.subject for each in record.series):
        points = [each for each in record.series if each.subject == subject]
        shown = ", ".join(
            f"{each.quantity}: {SCALE[each.unit] * each.median:.4g} {unit_of(each)}"
            for each in points
        )
        axis = subject.removesuffix(MEMORY)
        theory = str(THEORY[axis][0]) if axis in THEORY else ""
        costs = [(each.quantity, each.median) for each in points]
        if axis != subject and axis in BEYOND:
            costs, theory = beyond_the_first(costs), "1"
        fit = exponent(costs)
        rows.append((subject, shown, "" if fit is None else f"{fit:.2f}", theory))
    notes = [f"- {axis}: in theory {power}: {why}." for axis, (power, why) in THEORY.items()]
    notes += [f"- {note}." for note in MEMORY_NOTES]
    return [*table(("axis", "medians", "exponent", "theory"), rows), "", *notes, ""]


def beyond_the_first(costs: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """The others, each size less the first one's."""
    smallest = float(costs[0][0])
    return [(str(float(size) - smallest), cost) for size, cost in costs[1:]]


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
