"""DICOM in, :class:`~samihs_runtime.series.CTSeries` out.

>>> from samihs_runtime.study import list_series, read_study
>>> series = read_study("study/")  # a file, a folder, a zip, a DICOMDIR
>>> series.hu.shape, series.notes

Files are read in two passes: first all headers, without pixels; then the pixels of the series that
was chosen. Nothing is written and nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from samihs_runtime.errors import StudyError
from samihs_runtime.geometry import UNKNOWN_THICKNESS_MM, slice_extents
from samihs_runtime.identity import Scrubber, scrubbed
from samihs_runtime.lossy import LossyCompression
from samihs_runtime.quiet_dicom import quiet_dicom
from samihs_runtime.series import CTSeries, SlicePlane, SourceSlice
from samihs_runtime.wording import counted

from .choosing import choose
from .fields import text
from .files import SourceFile, source_at, study_files
from .frames import Frame, spacing_between_slices
from .headers import Headers, read_headers
from .judging import Candidate, candidates
from .kernels import Sharpness
from .loss import lossy_compression_of
from .notes import file_notes, left_out, lossy_notes, series_notes, uid_notes, unreadable
from .stacking import geometry_notes, read_stack, stack

__all__ = ["SeriesSummary", "list_series", "read_files", "read_study"]

_AIR_EXPECTED_BELOW_HU = -500
"""Every head CT shows air around the head; if there is none, the rescale is likely wrong."""

_MOST_QUOTED = 32
"""Characters of LossyImageCompressionMethod in a note: two values of a code string."""


@dataclass(frozen=True)
class SeriesSummary:
    """One line of ``--list``."""

    uid: str
    number: int | None
    description: str
    modality: str
    slices: int
    """Places that have an image: copies count once. If it cannot be read at all, its images."""
    kind: str
    """axial, coronal, sagittal, oblique, localizer, secondary capture, map, mixed orientations,
    damaged, or the modality if it is not CT."""
    eligible: bool
    """Whether it may be chosen without ``--series``."""
    reason: str
    """Why it is chosen, or why it is or is not eligible."""
    chosen: bool = False
    """Whether :func:`read_study` takes it if no series is asked for."""
    kernel: Sharpness = "unknown"
    """How sharp its reconstruction kernel is, judged by its name."""


def list_series(path: str | Path) -> list[SeriesSummary]:
    """All series below `path`, in the order of their numbers; StudyError if there are none."""
    path = Path(path).absolute()
    with quiet_dicom(), study_files(path) as files:
        headers = read_headers(files, follow_dicomdir=len(files) == 1)
        found = _series(headers, path)
        try:
            chosen, why = choose(found, None, path.name)
        except StudyError:  # no series is eligible, or series of several studies are
            chosen, why = None, []
        rows = [_summary(each, each is chosen, why) for each in found]
    return sorted(rows, key=lambda s: (s.number is None, s.number or 0, s.uid))


def read_study(
    path: str | Path,
    *,
    series: str | int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CTSeries:
    """Read the CT series of a DICOM file, a folder, a zip or a DICOMDIR.

    The original, axial, non-contrast, soft-kernel series with the most slices is chosen; `series`
    (a UID, a series number, or the start of a UID that is not a plain number) asks for another.
    ``progress(slices done, slices)`` is called as pixels are read. Raises StudyError, in one line,
    if no series can be read correctly; what was unusual but readable is in the result's notes.
    Description and notes contain nothing that identifies the patient; the sources' headers do.
    """
    path = Path(path).absolute()
    with quiet_dicom(), study_files(path) as files:
        return _read(files, path, series, progress)


def read_files(
    paths: Iterable[Path],
    *,
    series: str | int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CTSeries:
    """The same of these files alone, such as those of one series in a folder that holds many."""
    listed = sorted(Path(path).absolute() for path in paths)
    if not listed:
        raise StudyError("no files: expected those of a CT series", reason="missing")
    try:
        files = [source_at(path) for path in listed]
    except OSError as error:
        raise StudyError(
            f"{error.filename}: cannot be read ({error.strerror})", reason="no_access"
        ) from error
    folder = Path(os.path.commonpath([path.parent for path in listed]))
    with quiet_dicom():
        return _read(files, folder, series, progress)


def _read(
    files: list[SourceFile],
    place: Path,
    series: str | int | None,
    progress: Callable[[int, int], None] | None,
) -> CTSeries:
    """The series of these files; messages call the study by the name of ``place``."""
    headers = read_headers(files, follow_dicomdir=len(files) == 1)
    found = _series(headers, place)
    wanted = None if series is None else str(series)
    chosen, notes = choose(found, wanted, place.name)
    ordered = stack(chosen)
    hu, alike = read_stack(ordered.places, progress)
    first = [frames[0] for frames in ordered.places]
    planes = _with_thickness(ordered.planes, first)
    notes += headers.notes + file_notes(headers) + left_out(chosen, found)
    if alike:
        repeated = counted(alike, "slice")
        notes.append(f"{repeated} identical to another at the same place: left out")
    scrubber = Scrubber(frame.header.dataset for frame in first)
    sources = _sources(first, scrubber)
    notes += lossy_notes(sources) + uid_notes(sources) + series_notes(chosen, first)
    notes += geometry_notes(planes, first[0])
    if (lowest := hu.min()) > _AIR_EXPECTED_BELOW_HU:
        notes.append(f"no air: the lowest value is {lowest:g}, so the values may not be HU")
    if len(planes) == 1 and planes[0].thickness is None:
        notes.append(f"slice thickness unknown: volumes are per {UNKNOWN_THICKNESS_MM:g} mm")
    return CTSeries(
        hu=hu,
        planes=tuple(planes),
        extents_mm=slice_extents(planes),
        sources=sources,
        series_uid=chosen.uid,
        description=scrubber.text(chosen.description),
        notes=tuple(scrubber.texts(notes)),
    )


def _series(headers: Headers, path: Path) -> list[Candidate]:
    if headers.images:
        return candidates(headers.images)
    why = "".join(f"; {note}" for note in unreadable(headers))
    if headers.damaged:
        named = headers.damaged[0].name
        raise StudyError(
            f"{named}: a damaged DICOM file, and there is no other image to read{why}",
            reason="damaged",
        )
    count = headers.others + len(headers.unreadable)
    what = "no DICOM image" if count == 1 else f"no DICOM image among {count} files"
    raise StudyError(
        f"{path.name}: {what}{why}; expected CT as DICOM: a file, folder, zip or DICOMDIR",
        reason="no_access" if headers.unreadable else "no_dicom",
    )


def _summary(candidate: Candidate, chosen: bool, why: list[str]) -> SeriesSummary:
    """``why``: the reasons for the chosen one, if there is a choice."""
    reasons = why if chosen and why else [candidate.verdict.reason]
    if again := candidate.images - candidate.slices:
        reasons = [*reasons, f"{counted(again, 'more image')} at the same places"]
    return SeriesSummary(
        uid=candidate.uid,
        number=candidate.number,
        description=scrubbed(candidate.description, candidate.first),
        modality=text(candidate.first, "Modality"),
        slices=candidate.slices,
        kind=candidate.verdict.kind,
        eligible=candidate.verdict.eligible,
        reason="; ".join(reasons),
        chosen=chosen,
        kernel=candidate.sharpness,
    )


def _sources(frames: list[Frame], scrubber: Scrubber) -> tuple[SourceSlice, ...]:
    headers = {frame.header for frame in frames}
    lossy = {header: _quotable(lossy_compression_of(header), scrubber) for header in headers}
    return tuple(_source(frame, lossy[frame.header]) for frame in frames)


def _quotable(lossy: LossyCompression | None, scrubber: Scrubber) -> LossyCompression | None:
    """The same in words that name nobody, since notes quote them."""
    if lossy is None:
        return None
    words = scrubber.text(lossy.words)[:_MOST_QUOTED]  # in this order: half a name still identifies
    return replace(lossy, words=words)


def _source(frame: Frame, lossy: LossyCompression | None) -> SourceSlice:
    dataset = frame.header.dataset
    return SourceSlice(
        path=frame.header.source.path,
        sop_class_uid=text(dataset, "SOPClassUID"),
        sop_instance_uid=frame.header.uid,
        frame=frame.number,
        header=dataset,
        lossy=lossy,
    )


def _with_thickness(planes: list[SlicePlane], frames: list[Frame]) -> list[SlicePlane]:
    """For a single slice without SliceThickness, SpacingBetweenSlices is the next best value."""
    if len(planes) > 1 or planes[0].thickness is not None:
        return planes
    return [replace(planes[0], thickness=spacing_between_slices(frames[0]))]
