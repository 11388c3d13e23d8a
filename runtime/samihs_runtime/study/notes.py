"""What the user should know about a series and its files, in words; the rest is in stacking.py."""

from __future__ import annotations

from samihs_runtime.identity import scrubbed
from samihs_runtime.series import SourceSlice
from samihs_runtime.uids import MAX_UID_LENGTH
from samihs_runtime.wording import counted

from .fields import text
from .files import SourceFile
from .frames import Frame
from .headers import Headers
from .judging import Candidate
from .pixels import ignored_padding

_HEAD = ("", "HEAD", "BRAIN", "SKULL", "HEADNECK", "NEUROCRANIUM", "CRANIUM")
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


def file_notes(headers: Headers) -> list[str]:
    """On files that may have been slices."""
    notes = unreadable(headers)
    if headers.damaged:
        count, named = len(headers.damaged), _first_names(headers.damaged)
        notes.append(f"{counted(count, 'damaged DICOM file')} left out: {named}")
    return notes


def unreadable(headers: Headers) -> list[str]:
    """A note about unreadable files: slices may be among them, and a missing end slice leaves no
    gap that would be noticed."""
    if not headers.unreadable:
        return []
    count, named = len(headers.unreadable), _first_names(headers.unreadable)
    files = counted(count, "file or folder", "files or folders")
    return [f"{files} unreadable (permissions): {named}"]


def _first_names(sources: list[SourceFile]) -> str:
    return ", ".join(source.name for source in sources[:3])


def left_out(chosen: Candidate, found: list[Candidate]) -> list[str]:
    """On images of the chosen series that do not belong to its stack."""
    same = [c for c in found if c is not chosen and c.uid == chosen.uid]
    return [
        f"{counted(c.images, 'image')} of the same series left out: {c.verdict.reason}"
        for c in same
    ]


def lossy_notes(sources: tuple[SourceSlice, ...]) -> list[str]:
    """On lossy compression, certain or possible."""
    lossy = [source.lossy for source in sources if source.lossy is not None]
    if not lossy:
        return []
    named = ", ".join(sorted({each.words for each in lossy}))
    changed = "were" if any(each.certain for each in lossy) else "may have been"
    return [f"lossy compression ({named}): HU {changed} changed by it"]


def uid_notes(sources: tuple[SourceSlice, ...]) -> list[str]:
    """On UIDs that no archive has to accept, and that are therefore not written either."""
    headers = {id(source.header): source.header for source in sources}.values()
    long = [
        keyword
        for keyword in _UIDS
        if any(len(text(header, keyword)) > MAX_UID_LENGTH for header in headers)
    ]
    if not long:
        return []
    return [
        f"{' and '.join(long)} longer than the {MAX_UID_LENGTH} characters that DICOM allows: "
        "DICOM results refer to replacements, which nothing matches with these images; give the "
        "images valid UIDs first"
    ]


def series_notes(chosen: Candidate, frames: list[Frame]) -> list[str]:
    """On what its headers say about the series as a whole."""
    notes = []
    if chosen.enhanced_by_contrast:
        notes.append("a contrast agent is recorded: the model was made for non-contrast CT")
    if chosen.sharpness == "sharp":
        notes.append("a sharp kernel: noise and edges may be taken for blood")
    part = text(chosen.first, "BodyPartExamined").upper()
    if part not in _HEAD:
        short = scrubbed(part, chosen.first)[:16]  # in this order: half a name still identifies
        notes.append(f"BodyPartExamined is {short}, not the head")
    if padding := ignored_padding(frames[0]):
        notes.append(f"PixelPaddingValue means {padding}, which is tissue: ignored")
    return notes
