"""The folder of a run: started, resumed or replaced, with one training at a time in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from samihs_runtime.errors import OutputError, UsageError
from samihs_runtime.folder_lock import held_alone
from samihs_training.config import Recipe, recipe_from
from samihs_training.data.folds import write_folds
from samihs_training.output import write_output
from samihs_training.training_data import FOLDS_FILE, Patients, Progress, open_patients

DATA_FILE = "data.json"
"""Hash of the scans and masks of the data set that the run adapts to."""
WEIGHTS = ("*.safetensors", "*.state.pt")
RECORDS = (
    FOLDS_FILE, DATA_FILE, "log.csv", "validation.csv", "report.json", "curves.png", "recipe.json",
)  # fmt: skip
"""What a run leaves besides its weights. They are removed in this order: what is left by a process
that was killed meanwhile is still a run."""


@contextmanager
def run_folder(
    out: Path,
    recipe: Recipe,
    resume: bool,
    overwrite: bool,
    progress: Progress | None,
    check: Callable[[Patients], None] = lambda patients: None,
) -> Iterator[None]:
    """Claim the folder for this recipe and lock it; a new folder is removed if the start fails.

    ``check`` is called with the data set, if there is one, before anything is written; what it
    raises is raised.

    Raises:
        OutputError: it holds a run and neither ``resume`` nor ``overwrite`` is set, or a run of
            another recipe, or weights or folds without one, or another process trains in it.
        DataError: a case or the folds are faulty.
    """
    was_there = out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(out, error) from error
    # Two processes in one folder would mix their states and logs, and neither would notice.
    with held_alone(out, "trains"):
        try:
            _begin(out, recipe, resume, overwrite, progress, check)
        except BaseException:
            if not was_there:
                shutil.rmtree(out, ignore_errors=True)
            raise
        yield


def _begin(
    out: Path,
    recipe: Recipe,
    resume: bool,
    overwrite: bool,
    progress: Progress | None,
    check: Callable[[Patients], None],
) -> None:
    goes_on = _goes_on(out, recipe, resume, overwrite)
    _clear_half_written(out)
    patients: Patients | None = None
    if recipe.data is not None:
        kept = out / FOLDS_FILE if goes_on else None
        patients = open_patients(recipe.data, out / "cache", kept, progress)
        check(patients)
    if goes_on and patients is not None:
        _check_data(out, patients)
    if not goes_on:
        _claim(out, recipe, overwrite)
    if patients is not None and not (out / FOLDS_FILE).exists():
        write_folds(patients.folds, out / FOLDS_FILE)
    if patients is not None and not (out / DATA_FILE).exists():
        write_output(out / DATA_FILE, json.dumps({"sha256": patients.sha256}))


def _check_data(out: Path, patients: Patients) -> None:
    """Raise an OutputError if the run in ``out`` has been trained on other scans or masks."""
    path = out / DATA_FILE
    if path.exists() and json.loads(path.read_text()) != {"sha256": patients.sha256}:
        raise OutputError(
            f"{out} holds a run on other scans or masks: the data set has changed since it began; "
            "restore it, or begin another run in another folder"
        )


def _clear_half_written(out: Path) -> None:
    """Remove what a process that was killed left half written: files, and gigabytes of voxels."""
    for file in out.glob(".*.partial"):
        file.unlink()
    for volumes in (out / "cache").glob(".volumes-*"):
        shutil.rmtree(volumes, ignore_errors=True)


def _goes_on(out: Path, recipe: Recipe, resume: bool, overwrite: bool) -> bool:
    """Whether there is a run of this recipe to continue."""
    if overwrite:
        _spare_given(out, recipe)
        return False
    if not (out / "recipe.json").exists():
        _refuse_others(out)
        return False
    if not resume:
        raise OutputError(
            f"{out} holds a run: choose another folder, continue it with --resume, or replace "
            "it with --overwrite"
        )
    check_recipe(out, recipe)
    return True


def _refuse_others(out: Path) -> None:
    """Refuse a folder without a run whose files a run would replace, or take for its own."""
    lost = (*WEIGHTS, FOLDS_FILE, DATA_FILE)
    found = sorted(path for pattern in lost for path in out.glob(pattern))
    if found:
        advice = "to use it, move it elsewhere and give it with --folds; otherwise "
        raise OutputError(
            f"{out} holds {found[0].name} but no run (recipe.json): "
            f"{advice if found[0].name == FOLDS_FILE else ''}choose another folder, or replace "
            "what is there with --overwrite"
        )


def _spare_given(out: Path, recipe: Recipe) -> None:
    """Refuse to delete the very weights that the recipe starts from."""
    for given in filter(None, (recipe.base_checkpoint, recipe.start, recipe.adapters)):
        if Path(given).resolve().parent == out.resolve():
            raise OutputError(
                f"{given} lies in {out}, which --overwrite would clear: choose another folder"
            )


def check_recipe(out: Path, recipe: Recipe) -> None:
    """Raise an OutputError if the run in ``out`` is of another recipe."""
    record = json.loads((out / "recipe.json").read_text())
    try:  # an older one may lack fields that were added since
        same = _as_json(recipe_from(record)) == _as_json(recipe)
    except UsageError:
        same = False
    if not same:
        raise OutputError(f"{out} holds a run of another recipe: this one cannot continue it")


def _as_json(recipe: Recipe) -> Any:
    return json.loads(json.dumps(asdict(recipe)))


def _claim(out: Path, recipe: Recipe, overwrite: bool) -> None:
    """Write the recipe, with ``overwrite`` in place of whatever run was there."""
    try:
        if overwrite:
            _clear(out)
    except OSError as error:
        raise _not_written(out, error) from error
    write_output(out / "recipe.json", json.dumps(asdict(recipe), indent=1))


def _clear(out: Path) -> None:
    """Remove what an earlier run left, except its cache, which any run may use.

    Other files stay: the folder may never have held a run.
    """
    shutil.rmtree(out / "tensorboard", ignore_errors=True)
    for pattern in (*WEIGHTS, *RECORDS):
        for path in out.glob(pattern):
            path.unlink()


def _not_written(out: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write a run to {out}: {error.strerror or error}")
