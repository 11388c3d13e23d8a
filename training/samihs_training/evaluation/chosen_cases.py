"""Which cases of a data set a model is evaluated on: all, or those that a fold holds out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from samihs_runtime.errors import UsageError
from samihs_training.data.cases.case import CaseFiles, patients_of
from samihs_training.data.folds import Folds, held_out, read_folds
from samihs_training.evaluation.predictors import Predictor
from samihs_training.training_data import UNKNOWN


@dataclass(frozen=True)
class ChosenCases:
    """The cases to evaluate on."""

    files: list[CaseFiles]
    about: Mapping[str, Any]
    """For the summary: counts and hashes, without paths and names. ``trained_on`` is "no" if the
    model has seen none of these cases in training, otherwise "perhaps"."""


def chosen_cases(
    cases: list[CaseFiles], folds: Path | None, fold: int | None, predictor: Predictor
) -> ChosenCases:
    """All cases of a data set, or those held out in a fold.

    Raises:
        DataError: the folds are faulty.
        UsageError: the predictor was trained on that fold's patients, or only one of ``folds`` and
            ``fold`` is given.
    """
    first = cases[0]
    about: dict[str, Any] = {"layout": first.layout, "cases": len(cases)}
    if first.labels:
        about["labels"] = list(first.labels)
    trained = predictor.trained_on
    if trained.get(UNKNOWN):
        _note(
            f"{predictor.name} was trained on patients of whom nothing is recorded: it may have "
            "seen any of these cases, and of those that it has seen the numbers say nothing"
        )
    if folds is None and fold is None:
        if "cases" in trained:
            _note(
                f"{predictor.name} was trained on {trained['cases']} cases of a data set; the "
                "numbers say nothing about those: leave them out with --folds and --fold"
            )
        return ChosenCases(cases, {**about, "trained_on": "perhaps" if trained else "no"})
    if folds is None or fold is None:
        raise UsageError("give --folds and --fold together: which file, and which fold of it")
    read = read_folds(folds)
    chosen = held_out(read, fold, patients_of(cases), folds)
    about |= {
        "cases": len(chosen), "fold": fold, "folds": read.count, "folds_sha256": read.sha256,
        "trained_on": _trained_on(predictor, read, fold, folds),
    }  # fmt: skip
    return ChosenCases([case for case in cases if case.name in chosen], about)


def _trained_on(predictor: Predictor, folds: Folds, fold: int, path: Path) -> str:
    """Whether training has seen the patients of the fold: "no" or "perhaps".

    Raises:
        UsageError: it has.
    """
    trained, name = predictor.trained_on, predictor.name
    if "folds_sha256" not in trained:
        return "perhaps" if trained else "no"
    if trained["folds_sha256"] != folds.sha256:
        _note(
            f"{name} was trained with other folds: fold {fold} of {path} may hold patients it was "
            "trained on, about whom the numbers say nothing"
        )
        return "perhaps"
    if trained["fold"] != fold:
        raise UsageError(
            f"--fold {fold}: {name} was trained on these patients; by these folds it held out "
            f"fold {trained['fold']}"
        )
    return "perhaps" if trained.get(UNKNOWN) else "no"


def _note(text: str) -> None:
    click.echo(f"note: {text}", err=True)
