"""Tables of an accuracy benchmark: means of each subject, and differences from the first one."""

from __future__ import annotations

from accuracy import ACCEPTED, ALL, CLICKS, MEASURES, difference, mean_of
from record import Record
from tables import table

from samihs_runtime.intervals import Estimate

COLUMNS = {**MEASURES, ACCEPTED: ""}
"""Measure -> unit, for all measures that a record may hold."""


def accuracies(record: Record) -> list[str]:
    """Means of each subject and type of bleed, then differences from the first subject.

    With 95 % intervals over studies.
    """
    per, over = record.settings.get("per", "click"), record.settings.get("over", "studies")
    lines = [f"Means over {per}s, with 95 % intervals over {over}.", ""]
    subjects = list(dict.fromkeys(s.subject for s in record.series if s.subject != CLICKS))
    for measure, unit in _measured(record).items():
        kinds = [q.partition(", ")[2] for q in record.quantities() if q.startswith(f"{measure}, ")]
        head = f"{measure}, {unit}".rstrip(", ")
        rows = [
            (name, *(_interval(mean_of(record, name, measure, kind)) for kind in kinds))
            for name in subjects
        ]
        lines += [*table((head, *kinds), rows), ""]
    return lines + _differences(record, subjects)


def _differences(record: Record, subjects: list[str]) -> list[str]:
    """Each subject minus the first, sample by sample: far more precise than comparing two means."""
    first, *others = subjects
    measured = _measured(record)
    rows = [
        (name, *(_interval(difference(record, name, first, m, ALL), sign="+") for m in measured))
        for name in others
    ]
    head = tuple(f"{measure}, {unit}".rstrip(", ") for measure, unit in measured.items())
    per = record.settings.get("per", "click")
    return [*table((f"difference from {first}, same {per}s", *head), rows), ""]


def _measured(record: Record) -> dict[str, str]:
    """Measure -> unit, for those in the record."""
    there = {quantity.split(", ")[0] for quantity in record.quantities()}
    return {measure: unit for measure, unit in COLUMNS.items() if measure in there}


def _interval(found: Estimate | None, sign: str = "") -> str:
    if found is None or not found.count:
        return ""
    form = f"{sign}.3f"
    missing = f", {found.undefined} undefined" if found.undefined else ""
    return f"{found.mean:{form}} ({found.interval(form)}){missing}"
