"""`samihs-phantom`: write phantom studies as DICOM or NIfTI."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from samihs_runtime.errors import OutputError, UsageError, one_line_errors

from .dicom import write_dicom
from .nifti import write_nifti
from .options import BleedType, PhantomOptions
from .study import PhantomStudy, generate_study
from .truth import suggested_click

BLEED_NAMES = {kind.name.lower(): kind for kind in BleedType if kind is not BleedType.NONE}
LACKING = 0.5  # a volume below this share of the one asked for is said
OURS = re.compile(r"IM\d{4}\.dcm|truth\.json|truth_seg\.dcm|image\.nii\.gz|mask(_[a-z]+)?\.nii\.gz")
DICOM_SUBFOLDER, NIFTI_SUBFOLDER = "dicom", "nifti"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Same seed, same phantom.")
@click.option(
    "--count",
    default=1,
    show_default=True,
    help="Number of studies; several go to OUT/seed_000007 and so on.",
)
@click.option(
    "--bleed",
    "bleeds",
    multiple=True,
    type=click.Choice([*BLEED_NAMES, "none", "random"]),
    default=("random",),
    show_default=True,
    help="Type of bleeding; repeat for several at once.",
)
@click.option("--volume", metavar="ML[-ML]", help="Volume of each bleed, or its range, mL.")
@click.option("--slices", type=int, help="Number of slices.  [default: the whole head]")
@click.option(
    "--thickness", type=float, default=5.0, show_default=True, help="Thickness of a slice, mm."
)
@click.option("--spacing", type=float, help="Between slices, mm.  [default: the thickness]")
@click.option(
    "--tilt", type=float, default=0.0, show_default=True, help="Tilt of the gantry, degrees."
)
@click.option("--kernel", type=click.Choice(["soft", "standard", "sharp"]), help="[default: drawn]")
@click.option("--noise", type=float, help="Standard deviation in the brain, HU.  [default: drawn]")
@click.option("--age", type=float, help="Years.  [default: drawn]")
@click.option("--matrix", type=int, default=512, show_default=True, help="Rows and columns.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["dicom", "nifti", "both"]),
    default="dicom",
    show_default=True,
)
@click.option("--seg/--no-seg", default=False, help="Truth as DICOM SEG beside the series.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier phantom in OUT.")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
def main(
    out: Path,
    seed: int,
    count: int,
    bleeds: tuple[str, ...],
    volume: str | None,
    slices: int | None,
    thickness: float,
    spacing: float | None,
    tilt: float,
    kernel: str | None,
    noise: float | None,
    age: float | None,
    matrix: int,
    file_format: str,
    seg: bool,
    overwrite: bool,
    debug: bool,
) -> None:
    """Write synthetic head CT with known hemorrhage to OUT: no patient, no clinical meaning."""
    if debug:
        os.environ["SAMIHS_DEBUG"] = "1"

    @one_line_errors
    def run() -> None:
        if count < 1:
            raise UsageError(f"--count {count}: expected 1 or more")
        if seed < 0:
            raise UsageError(f"--seed {seed}: expected 0 or more")
        if volume is not None and bleeds == ("none",):
            raise UsageError("--volume has no effect with --bleed none: leave one of them out")
        if seg and file_format == "nifti":
            raise UsageError("--seg is DICOM beside a DICOM series: leave it out, or --format both")
        try:
            options = PhantomOptions(
                matrix=matrix,
                slice_thickness_mm=thickness,
                slice_spacing_mm=spacing,
                slices=slices,
                bleeds=_bleeds(bleeds),
                volume_range_ml=_volumes(volume),
                age_years=age,
                tilt_deg=tilt,
                noise_hu=noise,
                kernel=kernel,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        write_phantoms(out, range(seed, seed + count), options, file_format, seg, overwrite)

    run()


def write_phantoms(
    out: Path,
    seeds: range,
    options: PhantomOptions,
    file_format: str = "dicom",
    segmentation: bool = False,
    overwrite: bool = False,
) -> None:
    """Write one study per seed, each complete or not at all, and print what they hold.

    `file_format`: "dicom", "nifti" or "both" (then in subfolders of those names). Raises
    `OutputError` if a folder holds files already (without `overwrite`) or cannot be written.
    """
    folders = {s: out if len(seeds) == 1 else out / f"seed_{s:06d}" for s in seeds}
    for folder in folders.values():
        _check_free(folder, overwrite)
    console = Console(stderr=True)
    table = _table()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        for seed, folder in folders.items():
            task = progress.add_task(f"phantom {seed}", total=None)

            study = generate_study(seed, options, partial(_advance, progress, task))
            _place(study, folder, file_format, segmentation)
            _add_row(table, study, folder)
    Console().print(table)


def _advance(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def _place(study: PhantomStudy, folder: Path, file_format: str, segmentation: bool) -> None:
    """Write to a temporary folder beside the target, then move: nothing is left half-written."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".phantom-") as name:
            temporary = Path(name)
            both = file_format == "both"
            if file_format != "nifti":
                write_dicom(study, temporary / DICOM_SUBFOLDER if both else temporary, segmentation)
            if file_format != "dicom":
                write_nifti(study, temporary / NIFTI_SUBFOLDER if both else temporary)
            _remove_earlier(folder)
            _move(temporary, folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _move(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for item in sorted(source.iterdir()):
        if item.is_dir():
            _move(item, target / item.name)
        else:
            shutil.move(item, target / item.name)


def _remove_earlier(folder: Path) -> None:
    """Delete the files of an earlier phantom, by their names; leave all else alone."""
    for place in (folder, folder / DICOM_SUBFOLDER, folder / NIFTI_SUBFOLDER):
        if place.is_dir():
            for item in place.iterdir():
                if item.is_file() and OURS.fullmatch(item.name):
                    item.unlink()


def _check_free(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: a file is in the way; give another folder")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise OutputError(f"{folder}: not empty; give another folder, or --overwrite")
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise OutputError(f"{folder}: {existing} is not a folder that can be written")


def _bleeds(names: tuple[str, ...]) -> tuple[BleedType, ...] | None:
    if names == ("random",):
        return None
    if names == ("none",):
        return ()
    if "random" in names or "none" in names:
        raise UsageError(f"--bleed {' '.join(names)}: none and random must stand alone")
    return tuple(BLEED_NAMES[name] for name in names)


def _volumes(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    low, _, high = text.partition("-")
    try:
        return float(low), float(high or low)
    except ValueError as error:
        raise UsageError(f"--volume {text}: expected mL, as in 12 or 5-30") from error


def _table() -> Table:
    table = Table("seed", "slices", "bleeding, mL", "click x,y,z", "folder")
    table.caption = "synthetic CT, not for clinical use"
    return table


def _add_row(table: Table, study: PhantomStudy, folder: Path) -> None:
    spot = suggested_click(study)
    table.add_row(
        str(study.seed),
        str(study.hu.shape[0]),
        ", ".join(_volumes_of(study)) or "none",
        spot.text if spot else "-",
        str(folder),
    )


def _volumes_of(study: PhantomStudy) -> list[str]:
    """mL of each type, and what was asked for where much less is in the slices: they do not cover
    the bleed, or it does not fit into the head."""
    asked: dict[str, float] = defaultdict(float)
    for bleed in study.parameters["bleeds"]:
        asked[bleed["type"]] += bleed["requested_ml"]
    said = []
    for name, kind in BLEED_NAMES.items():
        found = study.volume_ml(kind)
        if found < LACKING * asked[name]:
            said.append(f"{name} {found:.1f} of {asked[name]:.1f} asked for")
        elif found > 0:
            said.append(f"{name} {found:.1f}")
    return said


if __name__ == "__main__":
    main()
