"""Pictures of a record: bars for quantities of several subjects, lines for scaling.

Times and memory are shown as medians with quartiles, accuracies as means with 95 % intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from accuracy import CLICKS, is_accuracy, mean_of
from record import Record, Series
from scaling_tables import MEMORY, exponent
from tables import SCALE, unit_of

mpl.use("Agg")
from matplotlib import pyplot as plt

SHOWN: dict[str, tuple[str, ...]] = {
    "robustness": ("Dice, all", "accepted, all"),
    "mask-grid": ("Dice, all",),
    "latency": (),
    "operators": (),
    "peers": ("encode", "click, 1 prompt", "peak memory", "cold start"),
    "methods": ("Dice, all", "HD95, all"),
    "precisions": ("Dice, all", "HD95, all"),
    "cost": ("start-up", "start-up, peak memory", "size on disk", "installation"),
}
"""Benchmark (up to a hyphen) -> quantities in its picture; for any other, the first four."""
MOST = 4
INCHES_PER_BAR, INCHES_OF_FRAME = 0.26, 0.9


@dataclass(frozen=True)
class Bar:
    """The bar of one subject; low and high are NaN if unknown."""

    name: str
    middle: float
    low: float
    high: float


def picture(name: str, record: Record, out: Path) -> Path | None:
    """Draw it into ``out/plots``; None if there is nothing to compare."""
    figure = _lines(record) if record.benchmark == "scaling" else _bars(record)
    if figure is None:
        return None
    path = out / "plots" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path


def _bars(record: Record) -> plt.Figure | None:
    """One frame below the other, because subjects' names are long."""
    names = (record.benchmark, record.benchmark.partition("-")[0])
    wanted = next((SHOWN[each] for each in names if each in SHOWN), tuple(record.quantities()))
    frames = {each: _bars_of(record, each) for each in wanted}
    frames = {quantity: bars for quantity, bars in frames.items() if len(bars) > 1}
    frames = dict(list(frames.items())[:MOST])
    if not frames:
        return None
    heights = [INCHES_OF_FRAME + INCHES_PER_BAR * len(bars) for bars in frames.values()]
    figure, axes = plt.subplots(
        len(frames), 1, figsize=(8, sum(heights)), layout="constrained", squeeze=False,
        height_ratios=heights,
    )  # fmt: skip
    what = "mean and 95 % interval" if is_accuracy(record) else "median and quartiles"
    for axis, (quantity, bars) in zip(axes[:, 0], frames.items(), strict=True):
        unit = unit_of(record.beside(quantity)[0])
        _frame(axis, f"{f'{quantity}, {unit}'.rstrip(', ')}: {what}", bars)
    return figure


def _bars_of(record: Record, quantity: str) -> list[Bar]:
    """One bar for each subject."""
    if not is_accuracy(record):
        return [_median(each) for each in record.beside(quantity)]
    measure, _, kind = quantity.partition(", ")
    subjects = [each.subject for each in record.beside(quantity) if each.subject != CLICKS]
    means = {name: mean_of(record, name, measure, kind) for name in subjects}
    return [
        Bar(name, each.mean, each.low, each.high)
        for name, each in means.items()
        if each is not None and each.count
    ]


def _median(series: Series) -> Bar:
    """The median with its quartiles, in the printed unit."""
    factor = SCALE[series.unit]
    low, high = series.quartiles
    return Bar(series.subject, factor * series.median, factor * low, factor * high)


def _frame(axis: plt.Axes, title: str, bars: list[Bar]) -> None:
    """Draw each bar with its interval and its value."""
    middle = [each.middle for each in bars]
    # without an interval, no error bar is drawn
    ends = [(each.middle - each.low, each.high - each.middle) for each in bars]
    drawn = axis.barh(
        [each.name for each in bars], middle, xerr=np.nan_to_num(np.transpose(ends)),
        color="#7ba3cc", error_kw={"linewidth": 0.8},
    )  # fmt: skip
    axis.bar_label(drawn, [_short(each) for each in middle], fontsize=7, padding=3)
    axis.margins(x=0.12)
    axis.invert_yaxis()
    axis.set_title(title, fontsize=9, loc="left")
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _short(value: float) -> str:
    """Three digits, without an exponent for large values."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _lines(record: Record) -> plt.Figure:
    """Times beside memory, for axes with numeric values."""
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
