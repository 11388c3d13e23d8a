"""Tables of ``operators.py``: where the time goes, and how close products come to peak rates."""

from __future__ import annotations

import math

from record import Record, Series
from tables import MACHINE, table

LEAST = 0.01
"""Minimum share of a run for an operator to get its own row."""
WHOLE_NUMBERS = ("Integer", "Quantize", "QLinear")
"""Parts of the names of ONNX Runtime's 8-bit products."""


def operators(record: Record) -> list[str]:
    """One table for each subject, with the slowest operator first."""
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


def share_of_run(record: Record, subject: str, *named: str) -> float:
    """Share of a run that the operators take whose names begin so."""
    chosen = [each for each in record.series if each.subject == subject]
    taken = sum(each.median for each in chosen if each.quantity.startswith(named))
    return taken / sum(each.median for each in chosen)


def share_of_rate(record: Record, subject: str, operator: str) -> float:
    """What an operator reaches of the rate of a large product of its type; NaN if not known."""
    taken, flop = record.find(subject, operator), record.settings["flop"].get(subject, {})
    return math.nan if taken is None else _reached(record, taken, flop.get(operator))[1]


def _time(seconds: float, whole: float) -> tuple[str, str]:
    return f"{1e3 * seconds:.4g}", f"{seconds / whole:.1%}"


def _rate(record: Record, taken: Series, flop: float | None) -> tuple[str, str]:
    """GFLOP/s, also as a share of the rate of a large product of the same type on this machine."""
    if not flop or taken.median <= 0:
        return "", ""
    reached, share = _reached(record, taken, flop)
    known = "" if math.isnan(share) else f"{share:.0%} ({_kind(taken)})"
    return f"{reached:.4g}", known


def _reached(record: Record, taken: Series, flop: float | None) -> tuple[float, float]:
    """GFLOP/s, and as a share of the machine's rate for that type; NaN where it is not known."""
    reached = flop / taken.median / 1e9 if flop else math.nan
    machine = record.find(MACHINE, f"matrix rate, {_kind(taken)}")
    return reached, math.nan if machine is None else reached / machine.median


def _kind(taken: Series) -> str:
    return "int8" if any(word in taken.quantity for word in WHOLE_NUMBERS) else "fp32"
