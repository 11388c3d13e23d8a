"""What a run trains and validates on: phantoms, or the patients of a data set, split by folds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from samihs_runtime.errors import UsageError
from samihs_training.config import DataConfig, Recipe
from samihs_training.data.cache import CacheSpec, open_cache
from samihs_training.data.cases.case import patients_of
from samihs_training.data.cases.finding import find_cases
from samihs_training.data.folds import Folds, held_out, make_folds, read_folds
from samihs_training.data.patients import PatientSlices, split_cases
from samihs_training.data.sources import PhantomSlices, Source
from samihs_training.data.volume_cache import content_sha256, open_volumes

FOLDS_FILE = "folds.json"
"""In a run's folder: which patients are held out."""
UNKNOWN = "unknown"
"""In the ``data`` of a checkpoint's description: true if its weights were also trained on patients
whom the folds in it do not tell of. There may be no folds."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Slices:
    """What one stage sees."""

    train: Source
    validation: Source | None
    about: dict[str, Any]
    """For a checkpoint's metadata: no paths, no patients' names."""


def phantom_slices(recipe: Recipe, folder: Path, progress: Progress | None = None) -> Slices:
    """Phantoms, made in ``folder`` if needed, and others for validation if the recipe has any."""
    workers = os.cpu_count() or 1
    spec = CacheSpec("train", recipe.slices, first=recipe.first_slice)
    train = PhantomSlices(open_cache(folder, spec, workers=workers, progress=progress))
    about = {"training_data": "synthetic CT only: phantoms of this project, no patient's images"}
    if not recipe.validate_every:
        return Slices(train, None, about)
    apart = CacheSpec("validation", recipe.validation_slices)
    cache = open_cache(folder, apart, workers=workers, progress=progress)
    return Slices(train, PhantomSlices(cache), about)


@dataclass(frozen=True, eq=False)
class Patients:
    """A data set split in two."""

    train: PatientSlices
    held_out: PatientSlices
    folds: Folds
    sha256: str
    """Of the scans and masks of both (``volume_cache.content_sha256``)."""
    about: dict[str, Any]

    def slices(self, recipe: Recipe) -> Slices:
        """What a stage of the recipe sees."""
        return Slices(self.train, self.held_out if recipe.validate_every else None, self.about)


def open_patients(
    config: DataConfig, folder: Path, kept: Path | None = None, progress: Progress | None = None
) -> Patients:
    """Read the data set, cached in ``folder``, and split it by the folds.

    ``kept``: the folds of a run that is resumed. They stay in force, whatever the recipe's would be
    by now: a patient who was trained on is not validated on afterwards.

    Raises:
        DataError: the root, a case or the folds are faulty; names it.
        UsageError: there is no such fold, or there are more folds than patients.
    """
    files = find_cases(Path(config.root), config.layout or None, config.labels)
    patients = patients_of(files)
    read, origin = _given_folds(config, kept)
    if read is not None:  # fail before hours of reading
        held_out(read, config.fold, patients, origin)
    elif (count := len(set(patients.values()))) < config.fold_count:
        raise UsageError(
            f"fold_count = {config.fold_count}: {config.root} has {count} patients only, and a "
            "fold needs one at least: lower fold_count in [data], or give --folds a file of "
            "make-folds with fewer"
        )
    cases = open_volumes(folder, files, progress=progress or (lambda done, total: None))
    volumes = {case.name: case.volume_ml for case in cases}
    folds = read or make_folds(volumes, patients, count=config.fold_count, seed=config.fold_seed)
    split = split_cases(cases, folds, config.fold, origin)
    options: dict[str, Any] = {"size": config.size, "wanted": config.target}
    train = PatientSlices(split.train, **options, augmentation=config.make_augmentation())
    content = content_sha256(cases)
    about = _about(config, files[0].layout, folds, len(split.train), len(split.held_out))
    about["data"]["sha256"] = content
    return Patients(train, PatientSlices(split.held_out, **options), folds, content, about)


def _given_folds(config: DataConfig, kept: Path | None) -> tuple[Folds | None, Path | str]:
    """The folds in a file, if one is given, and what messages call them."""
    if kept is not None and kept.is_file():
        return read_folds(kept), kept
    if config.folds:
        return read_folds(Path(config.folds)), Path(config.folds)
    return None, f"{config.fold_count} folds of {config.root}"


def _about(
    config: DataConfig, layout: str, folds: Folds, trained: int, apart: int
) -> dict[str, Any]:
    """Counts only: not where the data lie, nor who the patients are."""
    text = (
        f"{trained} cases of a data set of layout {layout}; {apart} cases were held out "
        f"(fold {config.fold} of {folds.count}, by patient)"
    )
    data = {
        "layout": layout, "cases": trained, "held_out": apart, "fold": config.fold,
        "folds": folds.count, "folds_sha256": folds.sha256, "target": config.target,
        "labels": list(config.labels),
    }  # fmt: skip
    return {"training_data": text, "data": data}


def trained_from(about: Mapping[str, Any], start: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of weights that were trained on ``about``, from those described by ``start``:
    patients whom the first have seen unknown to us, the others have seen as well."""
    if not start.get("data", {}).get(UNKNOWN):
        return dict(about)
    text = f"{about['training_data']}; before that: {start.get('training_data')}"
    return {**about, "training_data": text, "data": {**about.get("data", {}), UNKNOWN: True}}


def anonymous(recipe: Recipe) -> dict[str, Any]:
    """The recipe for a checkpoint's metadata: files by name, without their folders."""
    raw = asdict(recipe)
    raw["base_checkpoint"] = Path(recipe.base_checkpoint).name
    raw["start"] = Path(recipe.start).name
    raw["adapters"] = Path(recipe.adapters).name
    if recipe.data is not None:
        raw["data"] |= {"root": "", "folds": Path(recipe.data.folds).name}
    return raw
