"""``REPORT.md`` and its pictures, made from ``benchmarks/results/*.json`` and nothing else.

    python benchmarks/report.py [--results DIR] [--out DIR]

Medians stand with their quartiles. A ratio is worked out round by round and is called faster or
slower only where both its quartiles are on that side of 1.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from accuracy_tables import accuracies
from record import RESULTS, Record, newest, ratios
from tables import EAGER, SCALE, quantities, table, unit_of

mpl.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
ACCURACIES = ("methods", "precisions")
"""Benchmarks whose samples are clicks (``accuracy.Tally``)."""


@dataclass(frozen=True)
class Target:
    """What a figure must reach."""

    text: str
    benchmark: str
    """Name of the record: ``peers-vit_b-cpu``."""
    value: Callable[[Record], float | None]
    """The figure; None where the record lacks it."""
    limit: float
    at_least: bool = True

    def met(self, figure: float) -> bool:
        """Whether the figure is on the right side of the limit."""
        return figure >= self.limit if self.at_least else figure <= self.limit


def ratio_of(subject: str, reference: str, quantity: str) -> Callable[[Record], float | None]:
    """Median over the rounds of reference / subject."""

    def value(record: Record) -> float | None:
        own, other = record.find(subject, quantity), record.find(reference, quantity)
        if own is None or other is None:
            return None
        return ratios(own.samples, other.samples).median

    return value


def median_of(quantity: str) -> Callable[[Record], float | None]:
    """Of the first subject that has the quantity."""

    def value(record: Record) -> float | None:
        return next((each.median for each in record.series if each.quantity == quantity), None)

    return value


TARGETS = (
    Target("ViT-B encode fp32, times SamPredictor eager", "peers-vit_b-cpu",
           ratio_of("samihs fp32", EAGER, "encode"), 2.0),
    Target("ViT-B encode int8, times SamPredictor eager", "peers-vit_b-cpu",
           ratio_of("samihs int8", EAGER, "encode"), 3.0),
    Target("ViT-B click, times SamPredictor.predict", "peers-vit_b-cpu",
           ratio_of("samihs fp32", EAGER, "click, 1 prompts"), 2.0),
    Target("ViT-B peak memory, eager's over ours", "peers-vit_b-cpu",
           ratio_of("samihs fp32", EAGER, "peak memory"), 1 / 0.7),
    Target("32 slices: cold command to the mask, s", "latency-cpu",
           median_of("cold, folder of 32, first mask"), 2.0, at_least=False),
    Target("cold command, one slice, s", "latency-cpu",
           median_of("cold, one slice"), 3.0, at_least=False),
    Target("a second click, s", "latency-cpu", median_of("click"), 0.1, at_least=False),
    Target("samihs-infer --help, s", "latency-cpu",
           median_of("cold, --help"), 0.4, at_least=False),
)  # fmt: skip


def write(results: Path, out: Path) -> Path:
    """The report of the newest record of each benchmark; returns its file."""
    records = newest(results.glob("*.json"))
    lines = ["# Benchmarks", "", "Made by `python benchmarks/report.py` from the result files.", ""]
    lines += ["## Targets", "", *_targets(records), ""]
    for name, record in records.items():
        lines += [*_section(name, record), ""]
        picture = _picture(name, record, out)
        if picture is not None:
            lines += [f"![{name}]({picture.relative_to(out).as_posix()})", ""]
    path = out / "REPORT.md"
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return path


def _targets(records: dict[str, Record]) -> list[str]:
    rows = []
    for target in TARGETS:
        record = records.get(target.benchmark)
        figure = target.value(record) if record is not None else None
        wanted = f"{'at least' if target.at_least else 'at most'} {target.limit:.3g}"
        if figure is None:
            rows.append((target.text, wanted, "", "not measured"))
        else:
            verdict = "met" if target.met(figure) else "**missed**"
            rows.append((target.text, wanted, f"{figure:.3g}", verdict))
    return table(("what", "target", "measured", ""), rows)


def _section(name: str, record: Record) -> list[str]:
    machine = record.machine
    where = f"{machine['processor']}, {machine['cores']} cores"
    where += "".join(f", {gpu}" for gpu in machine["gpus"])
    versions = ", ".join(f"{package} {version}" for package, version in record.versions.items())
    lines = [
        f"## {name}",
        "",
        f"`{record.command}` on {where}; {record.date[:10]}, commit {record.commit}. {versions}.",
        "",
    ]
    if record.benchmark == "scaling":
        lines += _exponents(record)
    elif record.benchmark in ACCURACIES:
        lines += accuracies(record)
    else:
        lines += quantities(record)
    lines += [f"- {subject}: not measured: {why}" for subject, why in record.not_measured.items()]
    return lines


def _exponents(record: Record) -> list[str]:
    rows = []
    for axis in dict.fromkeys(each.subject for each in record.series):
        points = [each for each in record.series if each.subject == axis]
        times = ", ".join(f"{each.quantity}: {1e3 * each.median:.4g}" for each in points)
        fit = exponent([(each.quantity, each.median) for each in points])
        rows.append((axis, times, "" if fit is None else f"{fit:.2f}"))
    return [*table(("axis", "median, ms", "exponent"), rows), ""]


def exponent(points: Iterable[tuple[str, float]]) -> float | None:
    """k of time = c n^k, by least squares of the logarithms; None where n is not a number."""
    try:
        pairs = [(math.log(float(n)), math.log(time)) for n, time in points]
    except ValueError:
        return None
    sizes, times = zip(*pairs, strict=True)
    return float(np.polyfit(sizes, times, 1)[0])


def _picture(name: str, record: Record, out: Path) -> Path | None:
    """Bars of each quantity that has several subjects; lines of a scaling; None for neither."""
    if record.benchmark == "scaling":
        figure = _lines(record)
    elif record.benchmark in (*ACCURACIES, "latency", "cost"):
        figure = _bars(record, [q for q in ("Dice, all", "start-up") if q in record.quantities()])
    else:
        figure = _bars(record, [q for q in record.quantities() if q != "memory"][:4])
    if figure is None:
        return None
    path = out / "plots" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path


def _bars(record: Record, shown: list[str]) -> plt.Figure | None:
    if not shown:
        return None
    figure, axes = plt.subplots(
        1, len(shown), figsize=(4 * len(shown), 3.2), layout="constrained", squeeze=False
    )
    for axis, quantity in zip(axes[0], shown, strict=True):
        chosen = [each for each in record.series if each.quantity == quantity]
        factor = SCALE[chosen[0].unit]
        middle = [factor * each.median for each in chosen]
        spread = [
            [abs(factor * q - m) for q in each.quartiles]
            for each, m in zip(chosen, middle, strict=True)
        ]
        axis.barh(
            [each.subject for each in chosen], middle, xerr=np.transpose(spread), color="#4878a8"
        )
        axis.invert_yaxis()
        axis.set_title(f"{quantity}, {unit_of(chosen[0])}".rstrip(", "), fontsize=9)
        axis.tick_params(labelsize=8, labelleft=axis is axes[0][0])
    return figure


def _lines(record: Record) -> plt.Figure:
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for name in dict.fromkeys(each.subject for each in record.series):
        points = [each for each in record.series if each.subject == name]
        if exponent([(each.quantity, each.median) for each in points]) is not None:
            sizes = [float(each.quantity) for each in points]
            axis.loglog(sizes, [each.median for each in points], "o-", label=name)
    axis.set_ylabel("seconds")
    axis.legend(fontsize=8)
    return figure


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    print(f"written  {write(options.results, options.out)}")


if __name__ == "__main__":
    main()
