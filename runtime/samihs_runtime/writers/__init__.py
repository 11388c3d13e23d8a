"""One result, many files: DICOM SEG, PNG overlay, JSON report, NIfTI.

:func:`write_outputs` is all that a command needs. File names never carry the patient's identity;
nor does what is in them, but for DICOM objects (a PACS needs the patient module) and a report that
was asked to (``identify``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samihs_runtime.errors import OutputError
from samihs_runtime.writers.files import staged_folder

if TYPE_CHECKING:
    from samihs_runtime.measurement import Measurement
    from samihs_runtime.report import Report
    from samihs_runtime.segmentation import Lesion
    from samihs_runtime.series import CTSeries

SEG_NAME = "lesion-seg.dcm"
OVERLAY_NAME = "overlay.png"
SHEET_NAME = "contact-sheet.png"
REPORT_NAME = "report.json"
NIFTI_NAME = "lesion.nii.gz"

NAMES = {
    "seg": (SEG_NAME,),
    "overlay": (OVERLAY_NAME, SHEET_NAME),
    "json": (REPORT_NAME,),
    "nifti": (NIFTI_NAME,),
}
"""Format, as ``--format`` takes it, to the names of the files it may write. The contact sheet is
written where the lesion lies on more than one slice."""
DEFAULT_FORMATS = ("seg", "overlay", "json")


def write_outputs(
    series: CTSeries,
    lesion: Lesion,
    measurement: Measurement,
    report: Report,
    out_dir: str | Path,
    formats: Sequence[str] = DEFAULT_FORMATS,
    *,
    overwrite: bool = False,
    identify: bool = False,
) -> dict[str, Path]:
    """Write a result into a folder: all of it, or, on any error, nothing.

    A folder that is not there is made. In one that is, files of other names stay as they are.

    Args:
        series: the series that was clicked on.
        lesion: the answer; one that found nothing is written as well (see ``docs/outputs.md``).
        measurement: its numbers.
        report: what is known of the run; its bundle and statement go into the SEG and pictures.
        out_dir: the folder.
        formats: which of ``seg``, ``overlay``, ``json``, ``nifti``.
        overwrite: replace files of the same names, and remove those of an earlier result that the
            new one does not have.
        identify: put the patient's identity into the JSON report.

    Returns:
        File name -> path, in the order they were written.

    Raises:
        OutputError: an unknown format; the folder cannot be written; a file would be overwritten;
            or the format cannot hold this series (NIfTI with uneven gaps).
    """
    unknown = [name for name in formats if name not in NAMES]
    if unknown or not formats:
        raise OutputError(
            f"output format {', '.join(unknown) or '(none)'}: expected some of {', '.join(NAMES)}"
        )
    writers: dict[str, Callable[[Path], None]] = {
        "seg": lambda folder: _write_seg(series, lesion, report, folder),
        "overlay": lambda folder: _write_pictures(series, lesion, measurement, report, folder),
        "json": lambda folder: _write_report(series, lesion, measurement, report, folder, identify),
        "nifti": lambda folder: _write_nifti(series, lesion, report, folder),
    }
    wanted = [name for name in NAMES if name in formats]
    reserved = [file for name in wanted for file in NAMES[name]]
    with staged_folder(Path(out_dir), reserved, overwrite=overwrite) as stage:
        for name in wanted:
            writers[name](stage.folder)
    return stage.written


# The libraries behind the writers load where they are used: a command's --help needs none.


def _write_seg(series: CTSeries, lesion: Lesion, report: Report, folder: Path) -> None:
    from samihs_runtime.writers.seg import write_seg

    write_seg(series, lesion, report, folder / SEG_NAME)


def _write_pictures(
    series: CTSeries, lesion: Lesion, measurement: Measurement, report: Report, folder: Path
) -> None:
    from samihs_runtime.writers.contact_sheet import write_contact_sheet
    from samihs_runtime.writers.overlay import write_overlay

    write_overlay(series, lesion, measurement, report, folder / OVERLAY_NAME)
    if len(measurement.slices) > 1:
        write_contact_sheet(series, lesion, measurement, report, folder / SHEET_NAME)


def _write_report(
    series: CTSeries,
    lesion: Lesion,
    measurement: Measurement,
    report: Report,
    folder: Path,
    identify: bool,
) -> None:
    from samihs_runtime.writers.report_json import write_report

    document = report.document(series, lesion, measurement, identify=identify)
    write_report(document, folder / REPORT_NAME)


def _write_nifti(series: CTSeries, lesion: Lesion, report: Report, folder: Path) -> None:
    from samihs_runtime.writers.nifti import write_nifti

    write_nifti(series, lesion, report, folder / NIFTI_NAME)
