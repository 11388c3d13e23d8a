"""Existing adapters, of which only the masks' threshold and the score are determined anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samihs_runtime.errors import CheckpointError, UsageError
from samihs_training.checkpoints.checkpoint import LoadedAdapters, load_adapters
from samihs_training.config import Recipe
from samihs_training.methods import Frozen
from samihs_training.training_data import UNKNOWN


def given_adapters(recipe: Recipe) -> LoadedAdapters:
    """Load the adapters whose threshold or score is determined anew.

    Raises:
        CheckpointError: they do not exist, or belong to another base.
        UsageError: the recipe does not suit them.
    """
    path = Path(recipe.adapters)
    if not path.is_file():
        raise CheckpointError(f"no adapter checkpoint at {path}: see --adapters")
    loaded = load_adapters(path, Path(recipe.base_checkpoint))
    if loaded.window != recipe.windowing():
        raise UsageError(
            f"{path} was trained in the window {loaded.window}: the recipe's is "
            f"{recipe.windowing()}"
        )
    if recipe.data is not None and recipe.data.size != loaded.slice_size:
        raise UsageError(
            f"{path} was trained on slices of {loaded.slice_size} pixels: the recipe's [data] has "
            f"size = {recipe.data.size}"
        )
    if recipe.score is not None and loaded.method.name == Frozen.name:
        raise UsageError(f"{path} holds no score to train: its method, frozen, keeps the decoder")
    return loaded


def origin_of(loaded: LoadedAdapters, now: Mapping[str, Any], anew: str) -> dict[str, Any]:
    """What the adapters were trained on, and then what is determined ``anew``, on ``now``
    (``Slices.about``).

    Raises:
        UsageError: patients of one data set held out from one were used to train the other.
    """
    before = loaded.description
    data = _data_of_both(before.get("data", {}), now.get("data", {}), anew)
    text = now["training_data"]
    if before.get("training_data") != text:
        text = f"{before.get('training_data')}; its {anew}: {text}"
    return {"training_data": text, **({"data": data} if data else {})}


def _data_of_both(data: Mapping[str, Any], seen: Mapping[str, Any], anew: str) -> Mapping[str, Any]:
    """The data and folds of weights that were trained on ``data`` and then on ``seen``; of two data
    sets those of the first, and that there are others."""
    if not data or not seen:
        return data or seen
    if "folds_sha256" not in data:  # nobody knows which patients
        return {**seen, **data}
    if all(data[key] == seen[key] for key in ("folds_sha256", "fold")):
        return data
    if data.get("sha256") == seen["sha256"]:
        raise UsageError(
            f"the adapters were trained on other folds of this data set than their {anew} would "
            "be: no patient would be held out from both; give the same folds and fold as before"
        )
    return {**data, UNKNOWN: True}
