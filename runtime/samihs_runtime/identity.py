"""What of a study would name the patient, and how it is kept out of everything but DICOM objects.

Nothing that is written besides DICOM objects takes identity on purpose. Free text can still carry
it (a series description, a note that quotes a path), so all text passes :class:`Scrubber`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samihs_runtime.series import CTSeries

REMOVED = "[removed]"

IDENTIFYING = (
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientMotherBirthName",
    "PatientBirthDate",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "IssuerOfPatientID",
    "MedicalRecordLocator",
    "AccessionNumber",
    "StudyID",
    "AdmissionID",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "OperatorsName",
    "RequestingPhysician",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "DeviceSerialNumber",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
)
"""Attributes whose values are removed: those of PS3.15 table E.1-1 that CT headers carry as short
texts or UIDs."""

NAMES = ("Name", "Names", "Physician", "PhysiciansReadingStudy")
"""How keywords of persons' names end."""

SHORTEST = 3
"""Values of fewer characters are no identity by themselves, and would shred ordinary words."""
SHORTEST_INSIDE_WORDS = 6
"""From this length on a value is removed inside a longer word, too (``DOE12345`` in a path)."""


class Scrubber:
    """Removes one study's identifying values from text.

    A person's name counts whole and by its parts (family name, given name ...), in any case.
    """

    def __init__(self, series: CTSeries) -> None:
        self._pattern = _pattern(identifying_values(series))

    def text(self, text: str) -> str:
        """The text, each identifying value replaced by ``[removed]``."""
        return text if self._pattern is None else self._pattern.sub(REMOVED, text)

    def texts(self, texts: Iterable[str]) -> list[str]:
        """Each of the texts, scrubbed."""
        return [self.text(each) for each in texts]


def identifying_values(series: CTSeries) -> set[str]:
    """The values, of :data:`SHORTEST` characters or more, that the series' headers identify by."""
    values: set[str] = {series.series_uid}
    for source in series.sources:
        values.add(source.sop_instance_uid)
        values |= _header_values(source.header)
    return {value for value in values if len(value) >= SHORTEST}


def scrubbed(text: str, header: Any) -> str:
    """A text without what one header (a ``pydicom.Dataset``) identifies by: for ``--list``, which
    shows a series before it is read."""
    values = {value for value in _header_values(header) if len(value) >= SHORTEST}
    pattern = _pattern(values)
    return text if pattern is None else pattern.sub(REMOVED, text)


def _header_values(header: Any) -> set[str]:
    values: set[str] = set()
    for keyword in IDENTIFYING:
        values.update(_texts(header.get(keyword), keyword.endswith(NAMES)))
    return values


def _pattern(values: set[str]) -> re.Pattern[str] | None:
    # Longest first: a name's part must not tear up the whole name or a UID around it.
    alternatives = [
        re.escape(value)
        if len(value) >= SHORTEST_INSIDE_WORDS
        else rf"(?<![^\W_]){re.escape(value)}(?![^\W_])"
        for value in sorted(values, key=len, reverse=True)
    ]
    return re.compile("|".join(alternatives), re.IGNORECASE) if values else None


def identity(series: CTSeries) -> dict[str, Any]:
    """The study's identity, for a report that was asked to carry it (``--identify``)."""
    header = series.sources[0].header
    return {
        "patient_name": str(header.get("PatientName", "") or ""),
        "patient_id": str(header.get("PatientID", "") or ""),
        "accession_number": str(header.get("AccessionNumber", "") or ""),
        "study_date": str(header.get("StudyDate", "") or ""),
        "study_instance_uid": str(header.get("StudyInstanceUID", "") or ""),
        "series_instance_uid": series.series_uid,
        "sop_instance_uids": [source.sop_instance_uid for source in series.sources],
    }


def _texts(value: Any, name: bool) -> set[str]:
    """A header's value as texts: each of several values, a person's name also by its parts."""
    if value is None:
        return set()
    if not isinstance(value, str) and not hasattr(value, "components") and hasattr(value, "append"):
        return {text for each in value for text in _texts(each, name)}
    text = str(value).strip()
    # "^" and "=" separate the components of a DICOM person name (PS3.5 section 6.2.1).
    parts = re.split(r"[\^=,\s]+", text) if name else []
    return {text, *parts}
