"""Which patients are tested together: folds by patient, and the authors' folds by slice."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samihs_runtime.errors import DataError, OutputError, UsageError
from samihs_training.output import write_output

SCHEMA = 1
AUTHORS_COLUMNS = ("img", "gt", "fold", "label")
_SLICE_NAME = re.compile(r"(?P<patient>.+?)[_-](?:slice)?\d+$", re.IGNORECASE)
_NO_PATIENT = frozenset({"slice", "image", "img", "im", "frame", "scan", "ct", "axial", "z"})
"""What names of slices begin with that do not say whose they are."""


@dataclass(frozen=True)
class Folds:
    """Case -> fold, 0 to ``count`` - 1; all cases of a patient have one."""

    count: int
    seed: int
    fold_of: dict[str, int]

    @property
    def sha256(self) -> str:
        """Hash of the table: equal if every case's fold is."""
        return hashlib.sha256(json.dumps(self.fold_of, sort_keys=True).encode()).hexdigest()

    def cases(self, fold: int) -> list[str]:
        """The cases tested in that fold, by name."""
        return sorted(name for name, each in self.fold_of.items() if each == fold)


@dataclass(frozen=True)
class SliceTable:
    """The authors' table: folds of slices, which patients may straddle."""

    folds_of: dict[str, frozenset[int]]
    """Patient -> every fold that holds a slice of theirs."""
    slices: int

    @property
    def leaking(self) -> list[str]:
        """Patients with slices in more than one fold, who are both trained and tested on."""
        return sorted(name for name, folds in self.folds_of.items() if len(folds) > 1)

    def describe(self) -> str:
        """One line for the report."""
        patients, leaking = len(self.folds_of), len(self.leaking)
        verdict = f"{leaking} of {patients} patients have slices in more than one fold"
        consequence = ": LEAKING, test and training share them" if leaking else ": no leak"
        return f"{self.slices} slices, {verdict}{consequence}"


def make_folds(
    volumes_ml: Mapping[str, float],
    patients: Mapping[str, str] | None = None,
    *,
    count: int = 5,
    seed: int = 0,
) -> Folds:
    """Folds by patient, stratified by lesion volume.

    Patients are sorted by volume and cut into groups of ``count``; each group is dealt to the folds
    in random order, so every fold has as many small and large lesions as the others, give or take
    one.

    Args:
        volumes_ml: case -> mL.
        patients: case -> patient; None: each case is one.
        count: number of folds.
        seed: the same seed gives the same folds.

    Raises:
        UsageError: fewer than two folds, or fewer patients than folds.
    """
    if count < 2:
        raise UsageError(f"folds: {count}; expected 2 or more")
    of_patient: dict[str, float] = defaultdict(float)
    for name, volume in volumes_ml.items():
        of_patient[patients[name] if patients else name] += volume
    if len(of_patient) < count:
        raise UsageError(f"{len(of_patient)} patients for {count} folds: expected one in each")
    rng = np.random.default_rng(seed)
    ordered = sorted(of_patient, key=lambda name: (of_patient[name], name))
    dealt: dict[str, int] = {}
    for start in range(0, len(ordered), count):
        run = ordered[start : start + count]
        dealt.update(zip(run, rng.permutation(count).tolist(), strict=False))
    fold_of = {name: dealt[patients[name] if patients else name] for name in sorted(volumes_ml)}
    return Folds(count, seed, fold_of)


def held_out(
    folds: Folds, fold: int, patients: Mapping[str, str], origin: Path | str
) -> frozenset[str]:
    """The cases that fold ``fold`` holds out.

    Args:
        folds: they must hold the cases of ``patients`` and no others.
        fold: which of them.
        patients: case -> patient.
        origin: what messages call the folds.

    Raises:
        UsageError: there is no such fold.
        DataError: a case has no fold, a case of the folds is not there, nobody is held out, or of
            a patient only some cases are.
    """
    if not 0 <= fold < folds.count:
        raise UsageError(f"fold {fold}: {origin} has folds 0 to {folds.count - 1}")
    for odd, words in (
        (patients.keys() - folds.fold_of.keys(), "has no fold for"),
        (folds.fold_of.keys() - patients.keys(), "gives a fold to cases that the data set lacks:"),
    ):
        if odd:
            first = ", ".join(sorted(odd)[:3])
            raise DataError(f"{origin} {words} {first} ({len(odd)} in all): make-folds again")
    chosen = frozenset(folds.cases(fold))
    if not chosen:
        raise DataError(f"{origin}: fold {fold} holds no patient")
    tested = {patients[name]: name for name in chosen}
    for name in sorted(patients.keys() - chosen):
        if patients[name] in tested:
            raise DataError(
                f"{origin}: {tested[patients[name]]} and {name} are scans of one patient, by their "
                f"PatientID, and fold {fold} holds out one of them only: make-folds again"
            )
    return chosen


def check_new(path: Path) -> None:
    """Raise the OutputError of :func:`write_folds` before the work begins."""
    if path.exists():
        raise OutputError(f"{path} exists: name another file, folds are not overwritten")


def write_folds(folds: Folds, path: Path) -> None:
    """Write them as JSON, whole or not at all.

    Raises:
        OutputError: the file is there already, or cannot be written.
    """
    check_new(path)
    content = {"schema": SCHEMA, "folds": folds.count, "seed": folds.seed}
    write_output(path, json.dumps({**content, "patients": folds.fold_of}, indent=1) + "\n")


def read_folds(path: Path) -> Folds:
    """Folds that :func:`write_folds` wrote.

    Raises:
        DataError: unreadable, or not such a file.
    """
    try:
        raw = json.loads(path.read_text())
        fold_of = {str(name): int(fold) for name, fold in raw["patients"].items()}
        folds = Folds(int(raw["folds"]), int(raw["seed"]), fold_of)
    except OSError as error:
        raise DataError(f"cannot read the folds {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no file of folds: make one with make-folds") from error
    if not set(fold_of.values()) <= set(range(folds.count)):
        raise DataError(f"{path}: a fold outside 0 to {folds.count - 1}")
    return folds


def read_slice_table(path: Path) -> SliceTable:
    """The authors' table (CSV: img, gt, fold, label), by patient.

    Raises:
        DataError: unreadable, a column is missing, or a fold is not a number; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [each for each in AUTHORS_COLUMNS if each not in (reader.fieldnames or ())]
            if missing:
                wanted = ", ".join(AUTHORS_COLUMNS)
                raise DataError(f"{path}: no column {', '.join(missing)}; expected {wanted}")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the slice table {path}: {error}") from error
    folds: dict[str, set[int]] = defaultdict(set)
    for line, row in enumerate(rows, 2):
        try:
            folds[patient_of(row["img"])].add(int(row["fold"]))
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}, line {line}: expected an image and a fold number") from error
    return SliceTable({name: frozenset(each) for name, each in folds.items()}, len(rows))


def patient_of(image: str) -> str:
    """The patient of a slice: what comes before the slice's number in its name (``049_12.png``), or
    its folder if the name says the slice only (``049/12.png``, ``049/slice_12.png``).

    Raises:
        ValueError: the name says the slice only, and is in no folder.
    """
    path = Path(image)
    match = _SLICE_NAME.fullmatch(path.stem)
    if match and match["patient"].lower() not in _NO_PATIENT:
        return match["patient"]
    if not path.parent.name:
        raise ValueError(image)
    return path.parent.name
