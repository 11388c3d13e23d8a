"""What ``samihs-train check-data`` reports: every case of a data set, and all its faults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from samihs_runtime.errors import DataError, UsageError
from samihs_training.data.cases.case import CaseFiles, Volume
from samihs_training.data.cases.reading import read_case

AIR_BELOW_HU = -500.0
"""Every head CT shows air around the head."""
MOST_IN_AIR = 0.2
"""Share of a mask that may lie in air; of one that is inverted or misplaced, far more does."""
HIGHEST_HU = 32_767.0
MIN_BRIGHTEST_HU = 300.0
"""Every head CT shows bone."""


@dataclass(frozen=True)
class CaseReport:
    """One row of the table."""

    name: str
    slices: int
    positive_slices: int
    volume_ml: float
    faults: tuple[str, ...]
    """Each names the file; empty if all is well."""
    seen: frozenset[str] = frozenset()
    """See :attr:`Volume.seen`."""


def check_cases(cases: Iterable[CaseFiles]) -> Iterator[CaseReport]:
    """A report on each case; one that cannot be read is reported with that as its fault."""
    for case in cases:
        try:
            volume = read_case(case)
        except DataError as error:
            yield CaseReport(case.name, 0, 0, 0.0, (str(error),))
            continue
        bleeding = int((volume.labels > 0).any((1, 2)).sum())
        faults = tuple(faults_of(case, volume))
        yield CaseReport(case.name, len(volume.hu), bleeding, volume.volume_ml, faults, volume.seen)


def absent_labels(cases: Iterable[CaseFiles], seen: Iterable[frozenset[str]]) -> list[str]:
    """Labels that were named as hemorrhage, but are in none of the cases' masks.

    ``seen``: of each case (:attr:`Volume.seen`).
    """
    there = frozenset().union(*seen)
    named = dict.fromkeys(label for case in cases for label in case.labels)
    return [label for label in named if label not in there]


def check_labels(cases: Iterable[CaseFiles], seen: Iterable[frozenset[str]]) -> None:
    """Raise a UsageError if a label was named that no case of a whole data set has: it may be
    mistyped, and what was meant would be background."""
    if absent := absent_labels(cases, seen):
        raise UsageError(
            f"labels {', '.join(absent)}: in none of the masks; expected labels that these have: "
            "correct them, or leave them out"
        )


def read_checked(case: CaseFiles) -> Volume:
    """Read a case for training or evaluation.

    Raises:
        DataError: the case is faulty; gives its first fault.
    """
    volume = read_case(case)
    for fault in faults_of(case, volume):
        raise DataError(fault)
    return volume


def faults_of(case: CaseFiles, volume: Volume) -> Iterator[str]:
    """Everything wrong with the values of a case, in words that name the file."""
    if not np.isfinite(volume.hu).all():
        count = int((~np.isfinite(volume.hu)).sum())
        yield f"{case.image}: {count} values are NaN or infinite; expected HU everywhere"
    else:
        low, high = float(volume.hu.min()), float(volume.hu.max())
        windowed = case.layout == "pictures"  # neither air nor bone has kept its value
        if windowed and low == high:
            yield f"{case.image}, {case.name}: one grey value everywhere; expected slices of a head"
        marked = volume.hu[volume.labels > 0]
        in_air = float((marked <= (low if windowed else AIR_BELOW_HU)).mean()) if marked.size else 0
        if in_air > MOST_IN_AIR:
            yield (
                f"{case.mask}: {in_air:.0%} of it lies in air; expected hemorrhage in the head: "
                "it may be inverted, or turned another way than its scan"
            )
        if not windowed and (low > AIR_BELOW_HU or not MIN_BRIGHTEST_HU <= high <= HIGHEST_HU):
            yield (
                f"{case.image}: values of {low:g} to {high:g} are not HU; expected air below "
                f"{AIR_BELOW_HU:g}, bone above {MIN_BRIGHTEST_HU:g} and nothing above "
                f"{HIGHEST_HU:g}: give the scan without a window, rescaled to HU"
            )
    found = np.unique(volume.labels)
    odd = found[~np.isin(found, (0, 1))]
    if odd.size:
        named = ", ".join(f"{value:g}" for value in odd[:5])
        yield (
            f"{case.mask}: labels {named} beside 0 and 1; expected 1 for hemorrhage, else 0 (or "
            "255 for hemorrhage, and no 1): name those that are hemorrhage, as in --labels 1,2"
        )
