"""One result, many files: DICOM SEG, pictures, JSON report, NIfTI, STL.

:func:`write_outputs` is all that a command needs. File names never contain the patient's identity.
Neither do their contents, except for DICOM objects (a PACS needs the patient module; not with
``deidentify``) and a report for which it was requested (``identify``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from samihs_runtime.errors import OutputError
from samihs_runtime.formats import (
    CAPTURE_NAME,
    DEFAULT_FORMATS,
    DICOM_FORMATS,
    NAMES,
    NIFTI_NAME,
    OVERLAY_NAME,
    REPORT_NAME,
    RESERVED,
    SEG_NAME,
    SHEET_NAME,
    SURFACE_NAME,
)
from samihs_runtime.quiet_dicom import quiet_dicom
from samihs_runtime.writers.files import staged_folder

if TYPE_CHECKING:
    import threading

    from samihs_runtime.measurement import Measurement
    from samihs_runtime.report import Report
    from samihs_runtime.segmentation import Lesion
    from samihs_runtime.series import CTSeries


@dataclass(frozen=True)
class WriteOptions:
    """How a result is written."""

    overwrite: bool = False
    """Replace an earlier result, and remove any of its files that the new one does not have."""
    identify: bool = False
    """Put the patient's identity into the JSON report."""
    deidentify: bool = False
    """Leave it out of the DICOM objects as well, and replace their UIDs."""
    fractional: bool = False
    """Write the model's probability into the SEG instead of the mask."""
    resample: bool = False
    """For NIfTI, resample unevenly spaced slices to an even grid."""


def check_formats(series: CTSeries, formats: Sequence[str], options: WriteOptions) -> None:
    """Refuse formats that could not be written, before any work is done.

    Raises:
        FormatError: one that cannot hold this series.
        OutputError: an unknown format.
    """
    unknown = [name for name in formats if name not in NAMES]
    if unknown or not formats:
        raise OutputError(
            f"output format {', '.join(unknown) or '(none)'}: expected some of {', '.join(NAMES)}"
        )
    if "nifti" in formats:
        from samihs_runtime.writers.nifti import check_grid

        check_grid(series, resample=options.resample)


def write_outputs(
    series: CTSeries,
    lesion: Lesion,
    measurement: Measurement,
    report: Report,
    out_dir: str | Path,
    formats: Sequence[str] = DEFAULT_FORMATS,
    options: WriteOptions | None = None,
    prepared: threading.Thread | None = None,
) -> dict[str, Path]:
    """Write a result into a folder: all of it, or, on any error, nothing.

    The folder is created if necessary. In an existing one, files with other names are not touched.

    Args:
        series: the series that was clicked on.
        lesion: the answer; one that found nothing is written as well (see ``docs/outputs.md``).
        measurement: its numbers.
        report: what is known about the run; its bundle and statement go into the SEG and pictures.
        out_dir: the folder.
        formats: which of ``seg``, ``overlay``, ``json``, ``nifti``, ``capture``, ``stl``.
        options: see :class:`WriteOptions`.
        prepared: thread that :func:`~samihs_runtime.writers.preparing.prepare` started, if any.

    Returns:
        File name -> path, in the order they were written.

    Raises:
        OutputError: an unknown format; the folder cannot be written, or holds another result; or
            the format cannot hold this series (NIfTI with uneven gaps).
    """
    options = options or WriteOptions()
    check_formats(series, formats, options)
    result = _Result(series, lesion, measurement, report, options)
    writers: dict[str, Callable[[Path], None]] = {
        "seg": result.seg,
        "overlay": result.pictures,
        "json": result.report_json,
        "nifti": result.nifti,
        "capture": result.capture,
        "stl": result.stl,
    }
    wanted = sorted(
        (name for name in NAMES if name in formats), key=lambda name: name in DICOM_FORMATS
    )
    place = staged_folder(Path(out_dir), RESERVED, overwrite=options.overwrite)
    with quiet_dicom(), place as stage:  # the sources' own flaws are copied as they are
        for name in wanted:
            if prepared is not None and name in DICOM_FORMATS:
                prepared.join()
            writers[name](stage.folder)
    return stage.written


@dataclass(frozen=True, eq=False)
class _Result:
    """What is to be written. The libraries behind the formats are imported where they are used,
    since a command's --help needs none of them."""

    series: CTSeries
    lesion: Lesion
    measurement: Measurement
    about: Report
    options: WriteOptions

    def seg(self, folder: Path) -> None:
        from samihs_runtime.writers.seg import write_seg

        fractional = self.options.fractional
        write_seg(
            self._for_dicom(), self.lesion, self.about, folder / SEG_NAME, fractional=fractional
        )

    def pictures(self, folder: Path) -> None:
        from samihs_runtime.writers.contact_sheet import write_contact_sheet
        from samihs_runtime.writers.overlay import write_overlay

        parts = (self.series, self.lesion, self.measurement, self.about)
        write_overlay(*parts, folder / OVERLAY_NAME)
        if len(self.measurement.slices) > 1:
            write_contact_sheet(*parts, folder / SHEET_NAME)

    def report_json(self, folder: Path) -> None:
        from samihs_runtime.writers.report_json import write_report

        document = self.about.document(
            self.series, self.lesion, self.measurement, identify=self.options.identify
        )
        write_report(document, folder / REPORT_NAME)

    def nifti(self, folder: Path) -> None:
        from samihs_runtime.writers.nifti import write_nifti

        resample = self.options.resample
        write_nifti(self.series, self.lesion, self.about, folder / NIFTI_NAME, resample=resample)

    def capture(self, folder: Path) -> None:
        from samihs_runtime.writers.capture import write_capture

        write_capture(
            self._for_dicom(), self.lesion, self.measurement, self.about, folder / CAPTURE_NAME
        )

    def stl(self, folder: Path) -> None:
        from samihs_runtime.writers.stl import write_stl

        write_stl(self.series, self.lesion, folder / SURFACE_NAME)

    def _for_dicom(self) -> CTSeries:
        from samihs_runtime.deidentify import deidentified

        return deidentified(self.series) if self.options.deidentify else self.series
