"""Tables of ``operators.py``: where a run's time goes, how near products come to the machine."""

from __future__ import annotations

from record import Record, Series
from tables import MACHINE, table

LEAST = 0.01
"""Share of a run from which on an operator has a row of its own."""
WHOLE_NUMBERS = ("Integer", "Quantize", "QLinear")
"""In the names of ONNX Runtime's products of 8-bit numbers."""


def operators(record: Record) -> list[str]:
    """One table of each subject, the longest first."""
    lines = []
    for subject in dict.fromkeys(each.subject for each in record.series):
        if subject != MACHINE:
            lines += _table_of(record, subject)
    return lines


def _table_of(record: Record, subject: str) -> list[str]:
    chosen = [each for each in record.series if each.subject == subject]
    whole = sum(each.median for each in chosen)
    flop = record.settings["flop"].get(subject, {})
    rows, small = [], 0.0
    for each in sorted(chosen, key=lambda each: -each.median):
        if each.median < LEAST * whole:
            small += each.median
            continue
        rate = _rate(record, each, flop.get(each.quantity))
        rows.append((each.quantity, *_time(each.median, whole), *rate))
    rows += [("all others", *_time(small, whole), "", ""), ("all", *_time(whole, whole), "", "")]
    head = (subject, "ms", "share", "GFLOP/s", "of the machine's rate")
    return [*table(head, rows), ""]


def _time(seconds: float, whole: float) -> tuple[str, str]:
    return f"{1e3 * seconds:.4g}", f"{seconds / whole:.1%}"


def _rate(record: Record, taken: Series, flop: float | None) -> tuple[str, str]:
    """GFLOP/s, and as a share of what a large product reaches here in the same type."""
    if not flop or taken.median <= 0:
        return "", ""
    reached = flop / taken.median / 1e9
    whole_numbers = any(word in taken.quantity for word in WHOLE_NUMBERS)
    kind = "int8" if whole_numbers else "fp32"
    machine = record.find(MACHINE, f"matrix rate, {kind}")
    share = "" if machine is None else f"{reached / machine.median:.0%} ({kind})"
    return f"{reached:.4g}", share
