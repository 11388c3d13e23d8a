"""How well masks agree with the ground truth at the same clicks, and how certain that is.

Every subject answers every click, so that any two can be compared click by click. All intervals
resample whole studies, because the slices of one patient are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from record import Record, Series

from samihs_runtime.intervals import Estimate, estimate
from samihs_training.data.clicks import Mask
from samihs_training.evaluation.metrics import mask_metrics

if TYPE_CHECKING:  # the report does not need them
    from samihs_training.data.clicks import Point
    from samihs_training.data.studies import StudySlice
    from samihs_training.data.targets import Target
    from samihs_training.evaluation.predictors import Predictor

MEASURES = {"Dice": "", "HD95": "mm", "volume error": "mL"}
"""Quantity -> unit. The volume error is that of the slice: predicted minus true area, times the
slice's extent along the normal."""
BENCHMARKS = ("mask-grid", "methods", "patients", "precisions", "propagation", "robustness")
"""Benchmarks whose samples are clicks, slices or lesions; ``methods-adaptation`` is one of
``methods``."""
ACCEPTED = "accepted"
"""Measure of benchmarks that use the score: 1 if it reaches its threshold, else 0."""
ALL = "all"
CLICKS = "click"
"""Subject of the series that give the study of each click."""


class Tally:
    """Dice, HD95 and volume error of several subjects, click by click."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, str, str], list[float]] = {}

    def add(self, study_slice: StudySlice, target: Target, masks: Mapping[str, Mask]) -> None:
        """Judge each subject's mask [rows, columns] of one click against the clicked lesion."""
        spacing = (study_slice.spacing_mm, study_slice.spacing_mm)
        kinds = (target.kind.name.lower(), ALL)
        self.judge(study_slice.study, kinds, masks, target.mask, spacing, study_slice.extent_mm)

    def judge(
        self,
        study: int,
        kinds: tuple[str, ...],
        masks: Mapping[str, Mask],
        truth: Mask,
        spacing_mm: tuple[float, float],
        extent_mm: float,
    ) -> None:
        """Judge each subject's mask [rows, columns] against ``truth``; counts in each of ``kinds``.

        ``spacing_mm``: between rows, between columns; ``extent_mm``: of the slice along its normal.
        """
        self.click(study, kinds)
        for subject, mask in masks.items():
            metrics = mask_metrics(mask, truth, spacing_mm)
            volume_error = metrics.area_error_mm2 * extent_mm / 1000  # mm3 -> mL
            values = (metrics.dice, metrics.hd95_mm, volume_error)
            for (measure, unit), value in zip(MEASURES.items(), values, strict=True):
                self.note(subject, measure, unit, kinds, value)

    def click(self, study: int, kinds: tuple[str, ...]) -> None:
        """Begin the next click, which counts in each of ``kinds``; the subjects' figures follow."""
        self.note(CLICKS, "study", "", kinds, study)

    def series(self) -> tuple[Series, ...]:
        """``Dice, subdural``, ``Dice, all``, ... of each subject; sample i belongs to click i."""
        return tuple(
            Series(subject, quantity, unit, tuple(values))
            for (subject, quantity, unit), values in self._taken.items()
        )

    def note(
        self, subject: str, measure: str, unit: str, kinds: tuple[str, ...], value: float
    ) -> None:
        """Add one figure of one subject for the current click."""
        for kind in kinds:
            self._taken.setdefault((subject, f"{measure}, {kind}", unit), []).append(value)


def judge(
    study_slice: StudySlice,
    predictors: Mapping[str, Predictor],
    tally: Tally,
    others: Callable[[Point], Mapping[str, Mask]] | None = None,
) -> None:
    """Judge all of them on every lesion of the slice; ``others``: masks at a click, by subject."""
    from samihs_training.data.studies import is_bleed

    targets = [each for each in study_slice.clicks if is_bleed(each)]
    clicks = [each.click for each in targets]
    answers = {name: each.answer(study_slice.hu, clicks) for name, each in predictors.items()}
    for number, target in enumerate(targets):
        masks = {name: each[number][0] for name, each in answers.items()}
        tally.add(study_slice, target, {**masks, **(others(target.click) if others else {})})


def is_accuracy(record: Record) -> bool:
    """Whether the record's samples are accuracies."""
    return record.benchmark.startswith(BENCHMARKS)


def mean_of(record: Record, subject: str, measure: str, kind: str) -> Estimate | None:
    """The mean over clicks with its 95 % interval over studies; None if it was not measured.

    There is no interval if the record does not hold the studies of the clicks.
    """
    series = _series(record, subject, measure, kind)
    return None if series is None else estimate(series, _studies(record, kind, len(series)))


def difference(
    record: Record, subject: str, reference: str, measure: str, kind: str
) -> Estimate | None:
    """Subject minus reference, click by click, with its 95 % interval over studies.

    Clicks without a value for either (HD95 of an empty mask) are not counted.
    """
    own, other = (_series(record, name, measure, kind) for name in (subject, reference))
    if own is None or other is None:
        return None
    differences = [mine - theirs for mine, theirs in zip(own, other, strict=True)]
    return estimate(differences, _studies(record, kind, len(differences)))


def _series(record: Record, subject: str, measure: str, kind: str) -> tuple[float, ...] | None:
    found = record.find(subject, f"{measure}, {kind}")
    return None if found is None else found.samples


def _studies(record: Record, kind: str, count: int) -> list[int]:
    """The study of each of ``count`` clicks; the same for all if the record does not hold it."""
    found = record.find(CLICKS, f"study, {kind}")
    return [0] * count if found is None else [int(each) for each in found.samples]
