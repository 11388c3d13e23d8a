"""Markdown tables of samples: medians with their quartiles, ratios computed round by round.

A quantity of several subjects has its own table; quantities of a single subject share one.
"""

from __future__ import annotations

from record import Record, Series, ratios

EAGER = "SamPredictor eager fp32"
"""The subject of ``peers.py`` that the others are compared with."""
REFERENCE = "reference"
"""Setting that names the subject which the others are compared with."""
SCALE = {
    "": 1.0, "s": 1e3, "MB": 1.0, "mm": 1.0, "mm2": 1.0, "mL": 1.0, "x": 1.0,
    "GFLOP/s": 1.0, "GB/s": 1.0,
}  # fmt: skip
"""Unit -> factor applied for printing: seconds become milliseconds."""
COSTS = ("s", "MB")
"""Units for which less is better, so that a ratio makes sense."""
MACHINE = "this machine"
"""Subject of the rates from which floors are computed (``floors.py``)."""
FLOORS = {"s": "cold", "MB": "cold, peak memory"}
"""Unit -> the quantity of a process that only imports numpy (``latency.FLOOR``)."""


def quantities(record: Record) -> list[str]:
    """One table of all quantities that a single subject has, then one for each shared quantity."""
    by_quantity = {
        quantity: [each for each in record.series if each.quantity == quantity]
        for quantity in record.quantities()
    }
    single = [chosen[0] for chosen in by_quantity.values() if len(chosen) == 1]
    lines = _singles(single) if single else []
    for quantity, chosen in by_quantity.items():
        if len(chosen) > 1:
            lines += _compared(quantity, chosen, record.settings.get(REFERENCE))
    return lines


def _singles(chosen: list[Series]) -> list[str]:
    """Quantities of a single subject; cold commands also as multiples of the floor."""
    floors = {
        unit: each
        for unit, name in FLOORS.items()
        for each in chosen
        if (each.quantity, each.unit) == (name, unit)
    }
    rows = []
    for each in chosen:
        floor = floors.get(each.unit)
        cold = floor is not None and each is not floor and each.quantity.startswith("cold")
        # swapped, so that a number above 1 says how many times the floor
        times = verdict(ratios(floor.samples, each.samples)) if cold and floor else ""
        first, third = (SCALE[each.unit] * quartile for quartile in each.quartiles)
        median = f"{SCALE[each.unit] * each.median:.4g} {unit_of(each)}".rstrip()
        quartiles = f"{first:.4g} to {third:.4g}"
        cells = (each.quantity, each.subject, median, quartiles, str(len(each.samples)))
        rows.append((*cells, times) if floors else cells)
    head = ("quantity", "of", "median", "quartiles", "samples")
    name = next((f"times {each.subject}" for each in floors.values()), "")
    return [*table((*head, name) if floors else head, rows), ""]


def _compared(quantity: str, chosen: list[Series], named: str | None) -> list[str]:
    """A table of one quantity for every subject, compared with the one ``named`` if present."""
    costs = chosen[0].unit in COSTS  # ratios of Dice mean nothing
    reference = next((each for each in chosen if costs and each.subject == named), None)
    head = (quantity, f"median (quartiles), {unit_of(chosen[0])}".rstrip(", "), "n")
    rows = [(each.subject, spread(each), str(len(each.samples))) for each in chosen]
    if reference is None:
        return [*table(head, rows), ""]
    against = [
        "" if each is reference else verdict(ratios(each.samples, reference.samples))
        for each in chosen
    ]
    beside = [(*row, each) for row, each in zip(rows, against, strict=True)]
    return [*table((*head, f"{reference.subject} / this"), beside), ""]


def quantiles(record: Record) -> list[str]:
    """Slow clicks: a 95th percentile from 20 samples on, a 99th from 100 on."""
    rows = []
    for each in record.series:
        if each.quantity.startswith("click, ") and len(each.samples) >= 20:
            factor = SCALE[each.unit]
            p50, p95, p99 = (factor * each.quantile(share) for share in (0.5, 0.95, 0.99))
            last = f"{p99:.4g}" if len(each.samples) >= 100 else "too few samples"
            row = (each.quantity, each.subject, f"{p50:.4g}", f"{p95:.4g}", last)
            rows.append((*row, str(len(each.samples))))
    return [*table(("clicks, ms", "of", "p50", "p95", "p99", "n"), rows), ""] if rows else []


def floors(record: Record) -> list[str]:
    """Measured medians compared with the shortest time possible on this machine.

    For subjects whose work is in the record, at the rate of its type (``work`` in the settings:
    quantity -> subject -> ``flop``, ``bytes``, ``type``).
    """
    rows = []
    for quantity, of_subjects in record.settings.get("work", {}).items():
        for subject, work in of_subjects.items():
            each, kind = record.find(subject, quantity), work["type"]
            rate = record.find(MACHINE, f"matrix rate, {kind}")
            bandwidth = record.find(MACHINE, "memory bandwidth")
            if each is None or rate is None or bandwidth is None:
                continue
            computed, moved = (
                work["flop"] / rate.median / 1e6,
                work["bytes"] / bandwidth.median / 1e6,
            )
            floor = max(computed, moved)
            rows.append((
                quantity, subject,
                f"{work['flop'] / 1e9:.4g} at {rate.median:.4g}/s ({kind}): {computed:.4g} ms",
                f"{work['bytes'] / 1e6:.4g} at {1e3 * bandwidth.median:.4g}/s: {moved:.4g} ms",
                f"{1e3 * each.median:.4g}", _times(1e3 * each.median / floor),
            ))  # fmt: skip
    head = ("floors", "of", "GFLOP", "MB", "measured, ms", "times the floor")
    return [*table(head, rows), ""] if rows else []


def _times(floor: float) -> str:
    """Multiple of the floor; below 1 if the machine was slower while its rate was measured."""
    return f"{floor:.2f}" + ("" if floor >= 1 else ": faster than the rate that was measured")


def imports(record: Record) -> list[str]:
    """Where the start-up time of each command goes: packages by the time of their own modules."""
    rows = [
        (command, ", ".join(f"{package} {ms:.1f}" for package, ms in spent.items()))
        for command, spent in record.settings.get("imports_ms", {}).items()
    ]
    return [*table(("start-up", "longest imports, ms"), rows), ""] if rows else []


def stages(record: Record) -> list[str]:
    """Where a cold command's time goes, by its own report; the remainder belongs to no stage."""
    rows = [
        (command, ", ".join(f"{stage} {1e3 * each:.4g}" for stage, each in spent.items()))
        for command, spent in record.settings.get("stages_s", {}).items()
    ]
    return [*table(("stages", "medians, ms"), rows), ""] if rows else []


def spread(series: Series) -> str:
    """Median and quartiles: ``8.2 (8.0 to 8.5)``."""
    factor = SCALE[series.unit]
    first, third = (factor * each for each in series.quartiles)
    return f"{factor * series.median:.4g} ({first:.4g} to {third:.4g})"


def unit_of(series: Series) -> str:
    """The printed unit."""
    return "ms" if series.unit == "s" else series.unit


def verdict(ratio: Series) -> str:
    """The median ratio, and whether it is more than noise."""
    if len(ratio.samples) == 1:
        return f"{ratio.median:.2f} x, one sample"
    first, third = ratio.quartiles
    if first <= 1 <= third:
        return f"{ratio.median:.2f} x: within the noise"
    return f"{ratio.median:.2f} x"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """The lines of a table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]
