"""Names and numbers that distinguish the DICOM objects of a study's lesions in an archive."""

from __future__ import annotations

SEG_SERIES, CAPTURE_SERIES = 900, 901
"""Series numbers of a study's first lesion, above those that scanners assign."""
_OBJECTS = 2
"""Number of series that a lesion may have."""


def lesion_name(number: int) -> str:
    """Name for descriptions and labels; the first lesion is named as if it were the only one."""
    return "Intracranial hemorrhage" if number == 1 else f"Intracranial hemorrhage {number}"


def series_number(first: int, number: int) -> int:
    """Series number of lesion ``number``, from 1, for objects whose numbers start at ``first``."""
    return first + _OBJECTS * (number - 1)
