"""Tables of ``scaling.py``: fitted exponents beside the theoretical ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from record import Record
from tables import SCALE, table, unit_of

THEORY = {
    "read a folder, slices": (1, "each slice is read and decoded alone; the checks of the series "
                              "are made once, which flattens the curve for small folders"),
    "encode, batch": (1, "slices share no work; below 1 if a single slice leaves cores idle"),
    "decode, prompts": (1, "as above: prompts share only the embedding"),
    "vit_b in torch, image size": (2, "tokens grow with the square of the side, and windowed "
                                   "blocks with the tokens; attention in the four global blocks "
                                   "grows with the square of the tokens (exponent 4), which shows "
                                   "from 1024 on; padding to windows of 14 costs half as much "
                                   "again at 256"),
}  # fmt: skip
"""Axis -> theoretical exponent of its time and memory, and why a measured one may deviate."""
MEMORY = ", peak memory"
"""Suffix of the axis in the subject of a series of peaks."""
BEYOND = ("read a folder, slices", "encode, batch", "decode, prompts")
"""Axes whose peaks are what a size takes beyond the smallest, which runs first in the process."""
MEMORY_NOTES = (
    "peak memory of a folder, a batch or prompts is what they take beyond the smallest size, which "
    "runs first in the same process; its exponent is therefore that of n minus the smallest n, in "
    "theory 1. A batch is encoded slice by slice: only embeddings and slices grow, after a first "
    "step that makes room for both",
    "peak memory of vit_b in torch includes torch and the weights, 0.6 GB at any image size, which "
    "keeps its exponent below 2",
)


def exponents(record: Record) -> list[str]:
    """A table of all axes, and why some deviate from theory."""
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
    """The costs without the first one, with the first size subtracted from each size."""
    smallest = float(costs[0][0])
    return [(str(float(size) - smallest), cost) for size, cost in costs[1:]]


def exponent(points: Iterable[tuple[str, float]]) -> float | None:
    """k in cost = c n^k, by least squares of the logarithms.

    None if n is not a number, a cost is not above 0, or there are fewer than two points.
    """
    try:
        pairs = [(math.log(float(n)), math.log(cost)) for n, cost in points]
    except ValueError:
        return None
    if len(pairs) < 2:
        return None
    sizes, costs = zip(*pairs, strict=True)
    return float(np.polyfit(sizes, costs, 1)[0])
