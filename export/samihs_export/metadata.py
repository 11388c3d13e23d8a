"""What a bundle records about how its model was made, from the checkpoint's checked description."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from samihs_export.figures import DEFAULT_THRESHOLD, Figures, hashes
from samihs_runtime.bundle.entries import WindowRule
from samihs_runtime.errors import CheckpointError
from samihs_runtime.report import installed_version
from samihs_training.checkpoints.checkpoint import LoadedAdapters
from samihs_training.methods import Method, describe_method
from samihs_training.prompts import prompt_rule


@dataclass(frozen=True)
class BundleMetadata:
    """What a bundle records about itself, beyond what follows from the model and its parity."""

    name: str
    version: str
    training_data: str
    window: WindowRule
    intended_use: str = (
        "Research and demonstration of click-prompted segmentation of intracranial hemorrhage on "
        "non-contrast head CT. Not for clinical use."
    )
    score_threshold: float = DEFAULT_THRESHOLD
    plausible_hu: tuple[float, float] = (10.0, 110.0)
    """Mean HU of a spot that may be blood: acute blood has 50 to 90, a chronic collection as little
    as 10; calcification and bone have more. Brain lies within the range: there the score decides.
    """
    method: Mapping[str, Any] = field(default_factory=lambda: {"adapters": "none"})
    """How SAM was adapted: the method's name and options."""
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def metadata_of(loaded: LoadedAdapters, name: str, figures: Figures) -> BundleMetadata:
    """The adapter checkpoint's description of its training, in the form of the bundle.

    Args:
        loaded: the checkpoint.
        name: the name of the bundle or of the adapter set.
        figures: of ``samihs-evaluate``, with the score threshold.

    Raises:
        CheckpointError: its description lacks something that a bundle must state, or is invalid.
    """
    about = loaded.description
    optional: dict[str, Any] = {}
    if "plausible_hu" in about:
        optional["plausible_hu"] = _plausible_hu(about["plausible_hu"])
    return BundleMetadata(
        name=name,
        version=installed_version(),
        training_data=_training_data(about),
        window=_window(loaded),
        score_threshold=figures.score_threshold,
        method=_method(loaded.method),
        accuracy=figures.accuracy,
        provenance={
            **hashes(loaded),
            **_training(about),
            **_prompts(about),
            "score_threshold": figures.threshold_is,
        },
        **optional,
    )


def _training_data(about: Mapping[str, Any]) -> str:
    said = about.get("training_data")
    if not isinstance(said, str) or not said:
        raise CheckpointError(
            f"the adapter checkpoint's training_data is {said!r}, expected a text: train it with "
            "samihs-train"
        )
    return said


def _window(loaded: LoadedAdapters) -> WindowRule:
    window = loaded.window
    if not _is_range(window.low, window.high):
        raise CheckpointError(
            f"the adapter checkpoint's window is {window.low} to {window.high}, expected finite "
            "numbers"
        )
    return window


def _plausible_hu(raw: Any) -> tuple[float, float]:
    try:
        low, high = (float(each) for each in raw)
    except (TypeError, ValueError, OverflowError):
        low = high = math.nan
    if not _is_range(low, high):
        raise CheckpointError(
            f"the adapter checkpoint's plausible_hu is {raw!r}, expected two HU, low below high"
        )
    return low, high


def _is_range(low: float, high: float) -> bool:
    """Finite, and low below high; NaN is neither."""
    return -math.inf < low < high < math.inf


def _method(method: Method) -> dict[str, Any]:
    """The method with tuples as lists, as they are read back from JSON."""
    described = describe_method(method)
    options = described["options"].items()
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in options}
    return {"adapters": described["method"], **plain}


def _training(about: Mapping[str, Any]) -> dict[str, Any]:
    """What training the adapters took, without that of the base, and the data and folds used, by
    which ``samihs-evaluate`` refuses patients that the bundle was trained on."""
    said = {name: about[name] for name in ("steps", "minutes", "cores", "torch") if name in about}
    data = {"data": about["data"]} if "data" in about else {}
    return ({"adapters_training": said} if said else {}) | data


def _prompts(about: Mapping[str, Any]) -> dict[str, Any]:
    """The prompts that the adapters were trained on (:mod:`samihs_runtime.bundle.trained_prompts`);
    nothing if the checkpoint has no recipe, such as one from elsewhere."""
    stage = about.get("recipe", {}).get("adapt")
    if stage is None:
        return {}
    rule = prompt_rule(stage["prompt"], **stage.get("prompt_options", {}))
    corrections = int(stage.get("correct", 0) > 0)
    return {"prompts": {"points": rule.count + corrections, "boxes": stage["prompt"] == "box"}}
