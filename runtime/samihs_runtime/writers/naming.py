"""How the DICOM objects of several lesions of one study are told apart in an archive."""

from __future__ import annotations

SEG_SERIES, CAPTURE_SERIES = 900, 901
"""Series numbers of a study's first lesion: behind those that scanners give."""
_OBJECTS = 2
"""Series that a lesion may have."""


def lesion_name(number: int) -> str:
    """For descriptions and labels: the first one's as if it were the only one."""
    return "Intracranial hemorrhage" if number == 1 else f"Intracranial hemorrhage {number}"


def series_number(first: int, number: int) -> int:
    """Of lesion ``number``, from 1, for the kind of object that begins at ``first``."""
    return first + _OBJECTS * (number - 1)
