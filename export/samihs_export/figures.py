"""What ``samihs-evaluate`` measured for a checkpoint, for the manifest of its bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from samihs_runtime.bundle.entries import THRESHOLDS
from samihs_runtime.errors import ExportError, UsageError
from samihs_training.checkpoints.checkpoint import LoadedAdapters

DEFAULT_THRESHOLD = 0.5
"""For a checkpoint that was not evaluated: a guess; for the shipped one, five times too high."""
_THRESHOLD_DIGITS = 3


@dataclass(frozen=True)
class Figures:
    """What was measured for a checkpoint, and the score below which its masks are refused."""

    accuracy: Mapping[str, Any] = field(default_factory=dict)
    """As ``samihs-evaluate`` wrote it for phantoms; under ``patients`` as it wrote it for a data
    set. Empty if nothing was measured."""
    score_threshold: float = DEFAULT_THRESHOLD
    threshold_is: str = "not measured"
    """``measured``, ``given`` or ``not measured``, for the manifest and the model card."""


def figures_of(
    evaluation: Path | None,
    checkpoint: Path,
    base: Path,
    loaded: LoadedAdapters,
    *,
    mirrored: bool,
    score_threshold: float | None = None,
) -> Figures:
    """Figures of the given summary, or of the one beside the checkpoint; with neither, a warning.

    A summary of a data set has no score threshold. If one is given, the threshold and the figures
    of phantoms are those beside the checkpoint, if there are any.

    If the summary beside the checkpoint was measured with the mirrored slice and the bundle does
    not use it, or the other way round, only its score threshold is used, with a warning. If it was
    measured on other weights, such as another checkpoint of that folder, it is not used at all.

    Args:
        evaluation: ``summary.json``; ``evaluation.json`` beside the checkpoint if None.
        checkpoint: the adapters, for messages and to find that file.
        base: for messages.
        loaded: the checkpoint; the summary must be of its weights.
        mirrored: whether the bundle answers for each slice's mirror image as well.
        score_threshold: replaces the measured one, 0 to 1.

    Raises:
        ExportError: no readable summary, ``evaluation`` is one of other weights, or a score
            threshold that would be used is none, such as a percentage.
        UsageError: ``score_threshold`` is not a number from 0 to 1.
    """
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise UsageError(f"--score-threshold {score_threshold}: expected a number from 0 to 1")
    measure = f"samihs-evaluate --checkpoint {checkpoint} --base {base} --out FOLDER"
    measure += " --mirror" if mirrored else ""
    beside = checkpoint.with_name("evaluation.json")
    phantoms: Mapping[str, Any] = {}
    patients: Mapping[str, Any] = {}
    for path, named in ((evaluation, True), (beside, False)):
        if path is None or (not named and (phantoms or not path.is_file())):
            continue
        found = _accuracy(path, loaded, measure, mirrored, named=named)
        if _of_data_set(found):
            patients = patients or found
        else:
            phantoms = found
            if phantoms and score_threshold is None:
                _check_threshold(path, phantoms, measure)
    accuracy = {**phantoms, **({"patients": patients} if patients else {})}
    if score_threshold is not None:
        return Figures(accuracy, score_threshold, "given")
    threshold, origin = DEFAULT_THRESHOLD, Figures.threshold_is
    if phantoms:  # an older summary does not say where its threshold comes from
        threshold = _rounded(phantoms)
        origin = str(phantoms.get("score_threshold_is", "measured"))
    if origin == Figures.threshold_is:
        lacking = "no score threshold" if accuracy else "nothing"
        _warn(
            f"{lacking} was measured for {checkpoint}: masks that score below {threshold} will be "
            f"refused. This is a guess and may refuse many good ones; run {measure}, copy its "
            f"summary.json to {beside}, or set --score-threshold"
        )
    return Figures(accuracy, threshold, origin)


def hashes(loaded: LoadedAdapters) -> dict[str, str]:
    """The weights' hashes, with the names they have in evaluations and manifests."""
    return {"base_sha256": loaded.base_sha256, "adapters_sha256": loaded.adapter_sha256}


def _accuracy(
    path: Path, loaded: LoadedAdapters, measure: str, mirrored: bool, *, named: bool
) -> dict[str, Any]:
    """The summary, checked against the weights; empty if nothing in it may be used. If the user
    ``named`` it, a mismatch is an error instead of a warning."""
    figures, weights = _read(path)
    ours = hashes(loaded)
    measured = {name: weights[name] for name in ours if name in weights}
    if not measured:  # an older summary
        _warn(
            f"{path} does not say on which weights it was measured; unless on these, measure "
            f"again: {measure}"
        )
    elif measured != ours:
        problem = f"{path} was measured on other weights than these adapters on their base"
        if named:
            raise ExportError(f"{problem}: run {measure} and give its summary.json as --evaluation")
        _warn(f"{problem}: it is not used; measure: {measure}")
        return {}
    if (weights.get("mirrored") == "yes") == mirrored:
        return figures
    with_or_without = "without" if mirrored else "with"
    problem = f"{path} was measured {with_or_without} the mirrored slice"
    if named:
        raise ExportError(f"{problem}, this bundle is not: run {measure} and give its summary.json")
    _warn(f"{problem}: its threshold is taken, its figures are not; measure: {measure}")
    kept = ("score_threshold", "score_threshold_is")
    return {name: figures[name] for name in kept if name in figures}


def _of_data_set(figures: Mapping[str, Any]) -> bool:
    """Whether ``samihs-evaluate --data`` wrote it, which measures no score threshold."""
    return "by_patient" in figures and "score_threshold" not in figures


def _check_threshold(path: Path, figures: Mapping[str, Any], measure: str) -> None:
    """Refuse a threshold that no bundle may have, such as a percentage."""
    low, high = THRESHOLDS
    if not low <= _rounded(figures) <= high:
        raise ExportError(
            f"{path}: score_threshold is {figures['score_threshold']}, expected {low:g} to "
            f"{high:g}: measure again ({measure}), or set --score-threshold"
        )


def _rounded(figures: Mapping[str, Any]) -> float:
    return round(float(figures["score_threshold"]), _THRESHOLD_DIGITS)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The summary, and the hashes of the weights that it was measured on."""
    try:
        figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(figures, allow_nan=False)  # as the manifest will be written
        weights = dict(figures.get("weights", {}))
        if not _of_data_set(figures):
            float(figures["score_threshold"])
    except OSError as error:
        raise ExportError(f"cannot read the evaluation {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ExportError(f"{path} is no summary.json of samihs-evaluate ({error})") from error
    return figures, weights


def _warn(message: str) -> None:
    click.echo(f"warning: {message}", err=True)
