"""Pictures of a record: bars of quantities that several subjects have, lines of a scaling."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from record import Record, Series
from scaling_tables import MEMORY, exponent
from tables import SCALE, unit_of

mpl.use("Agg")
from matplotlib import pyplot as plt

SHOWN: dict[str, tuple[str, ...]] = {
    "robustness": ("Dice, all",),  # accepted or not: its median says nothing
    "latency": (),
    "operators": (),
    "peers": ("encode", "click, 1 prompt", "peak memory", "cold start"),
    "methods": ("Dice, all", "HD95, all"),
    "precisions": ("Dice, all", "HD95, all"),
    "cost": ("start-up", "start-up, peak memory", "size on disk", "installation"),
}
"""Benchmark (up to a hyphen) -> what its picture shows; the first four of any other."""
MOST = 4
INCHES_PER_BAR, INCHES_OF_FRAME = 0.26, 0.9


def picture(name: str, record: Record, out: Path) -> Path | None:
    """Draw it into ``out/plots``; None where there is nothing to see side by side."""
    figure = _lines(record) if record.benchmark == "scaling" else _bars(record)
    if figure is None:
        return None
    path = out / "plots" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path


def _bars(record: Record) -> plt.Figure | None:
    """One frame below the other: subjects' names are long."""
    wanted = SHOWN.get(record.benchmark.partition("-")[0], tuple(record.quantities()))
    frames = {each: record.beside(each) for each in wanted}
    frames = {quantity: chosen for quantity, chosen in frames.items() if len(chosen) > 1}
    frames = dict(list(frames.items())[:MOST])
    if not frames:
        return None
    heights = [INCHES_OF_FRAME + INCHES_PER_BAR * len(chosen) for chosen in frames.values()]
    figure, axes = plt.subplots(
        len(frames), 1, figsize=(8, sum(heights)), layout="constrained", squeeze=False,
        height_ratios=heights,
    )  # fmt: skip
    for axis, (quantity, chosen) in zip(axes[:, 0], frames.items(), strict=True):
        _frame(axis, quantity, chosen)
    return figure


def _frame(axis: plt.Axes, quantity: str, chosen: list[Series]) -> None:
    """Medians with their quartiles, and the figure beside each bar."""
    factor = SCALE[chosen[0].unit]
    defined = [_defined(each) for each in chosen]
    middle = [factor * each.median for each in defined]
    spread = [
        [abs(factor * q - m) for q in each.quartiles]
        for each, m in zip(defined, middle, strict=True)
    ]
    names = [each.subject for each in chosen]
    bars = axis.barh(
        names, middle, xerr=np.transpose(spread), color="#7ba3cc", error_kw={"linewidth": 0.8}
    )
    axis.bar_label(bars, [_short(each) for each in middle], fontsize=7, padding=3)
    axis.margins(x=0.12)
    axis.invert_yaxis()
    title = f"{quantity}, {unit_of(chosen[0])}".rstrip(", ")
    axis.set_title(f"{title}: median and quartiles", fontsize=9, loc="left")
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _short(value: float) -> str:
    """Three digits, and never an exponent for a large one."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _defined(series: Series) -> Series:
    """Without samples that have no value: HD95 of an empty mask."""
    return replace(series, samples=tuple(each for each in series.samples if each == each))


def _lines(record: Record) -> plt.Figure:
    """Times beside memory, where the axis is of numbers."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, unit, label in zip(axes, ("s", "MB"), ("seconds", "peak memory, MB"), strict=True):
        for name in dict.fromkeys(each.subject for each in record.series if each.unit == unit):
            points = [each for each in record.series if each.subject == name]
            if exponent([(each.quantity, each.median) for each in points]) is not None:
                sizes = [float(each.quantity) for each in points]
                short = name.removesuffix(MEMORY)
                axis.loglog(sizes, [each.median for each in points], "o-", label=short)
        axis.set_ylabel(label)
        axis.set_xlabel("slices, batch, prompts or pixels")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    return figure
