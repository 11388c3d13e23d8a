"""What ``samihs-evaluate`` measured of a checkpoint, for the manifest of its bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from samihs_runtime.errors import ExportError
from samihs_training.checkpoint import LoadedAdapters


def figures_of(
    evaluation: Path | None,
    checkpoint: Path,
    base: Path,
    loaded: LoadedAdapters,
    *,
    mirrored: bool,
) -> dict[str, Any]:
    """The summary named, or the one beside the checkpoint; empty where there is none.

    Of one beside the checkpoint that was measured with the mirrored slice where the bundle has
    none, or the other way round, only the score threshold is taken, with a warning.

    Raises:
        ExportError: no readable summary, or one of other weights than these.
    """
    path = evaluation or checkpoint.with_name("evaluation.json")
    if evaluation is None and not path.is_file():
        return {}
    figures, weights = _read(path)
    measure = f"samihs-evaluate --checkpoint {checkpoint} --base {base} --out FOLDER"
    measure += " --mirror" if mirrored else ""
    ours = hashes(loaded)
    measured = {name: weights[name] for name in ours if name in weights}
    if not measured:  # an older summary
        _warn(
            f"{path} does not say on which weights it was measured; unless on these, measure "
            f"again: {measure}"
        )
    elif measured != ours:
        raise ExportError(
            f"{path} was measured on other weights than {checkpoint} on {base}: run {measure} and "
            "give its summary.json as --evaluation"
        )
    if (weights.get("mirrored") == "yes") == mirrored:
        return figures
    with_or_without = "without" if mirrored else "with"
    problem = f"{path} was measured {with_or_without} the mirrored slice"
    if evaluation is not None:
        raise ExportError(f"{problem}, this bundle is not: run {measure} and give its summary.json")
    _warn(f"{problem}: its threshold is taken, its figures are not; measure: {measure}")
    return {"score_threshold": figures["score_threshold"]}


def hashes(loaded: LoadedAdapters) -> dict[str, str]:
    """As evaluations and manifests name the weights."""
    return {"base_sha256": loaded.base_sha256, "adapters_sha256": loaded.adapter_sha256}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        figures: dict[str, Any] = json.loads(path.read_text())
        float(figures["score_threshold"])
        return figures, dict(figures.get("weights", {}))
    except OSError as error:
        raise ExportError(f"cannot read the evaluation {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path} is no summary.json of samihs-evaluate") from error


def _warn(message: str) -> None:
    click.echo(f"warning: {message}", err=True)
