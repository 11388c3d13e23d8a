"""What of a study would name the patient, and how it is kept out of everything but DICOM objects.

Nothing that is written besides DICOM objects takes identity on purpose. Free text can still carry
it (a series description, a note that quotes a path), so all text passes :class:`Scrubber`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from samihs_runtime.quiet_dicom import quiet_dicom

if TYPE_CHECKING:
    from samihs_runtime.series import CTSeries

REMOVED = "[removed]"

PERSON_NAMES = (
    "PatientName",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientMotherBirthName",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "OperatorsName",
    "RequestingPhysician",
)
"""Attributes that name a person: removed whole and by their parts. The words of an institution's
name are no such parts ("The Royal Hospital for Children")."""
IDENTIFYING = (
    *PERSON_NAMES,
    "PatientID",
    "OtherPatientIDs",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "IssuerOfPatientID",
    "MedicalRecordLocator",
    "AccessionNumber",
    "StudyID",
    "AdmissionID",
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

DATES = (
    "PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate",
)  # fmt: skip
"""Days: removed as they are stored and as people write them."""

SHORTEST = 3
"""Values of fewer characters are no identity by themselves, and would shred ordinary words; names
of persons may be shorter."""
SHORTEST_PART = 2
"""The same for a part of a person's name, where it is of letters: an initial would be removed from
every sentence. East Asian names have no initials: a single character may be the family's."""
SHORTEST_INSIDE_WORDS = 6
"""From this length on a value is removed inside a longer word, too (``DOE12345`` in a path)."""
TERMS = {"CT", "HU", "MR"}
"""What notes say in capitals whoever the patient is: Hu is a family name, HU is the unit."""


class Scrubber:
    """Removes one study's identifying values from text.

    A person's name counts whole and by its parts (family name, given name ...), in any case; a
    part of two letters ("Li", "An") only as names are written, with a capital.
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
    """The values that the series' headers identify by, long enough to be looked for."""
    values = _long_enough({series.series_uid, *(each.sop_instance_uid for each in series.sources)})
    for source in series.sources:
        values |= _header_values(source.header)
    return values


def scrubbed(text: str, header: Any) -> str:
    """A text without what one header (a ``pydicom.Dataset``) identifies by: for ``--list`` and for
    messages, which show a series before it is read."""
    pattern = _pattern(_header_values(header))
    return text if pattern is None else pattern.sub(REMOVED, text)


def _header_values(header: Any) -> set[str]:
    values: set[str] = set()
    with quiet_dicom():  # many a value is converted here for the first time, and warned about
        for keyword in IDENTIFYING:
            for text in _texts(header, keyword):
                values |= _name_values(text) if keyword in PERSON_NAMES else _long_enough({text})
        for keyword in DATES:
            for text in _texts(header, keyword):
                values |= _day_values(text)
        for other in header.get("OtherPatientIDsSequence") or ():
            values |= _long_enough(set(_texts(other, "PatientID")))
    return values


@lru_cache(maxsize=16)  # a series' slices share their days
def _day_values(text: str) -> frozenset[str]:
    """A day, stored as YYYYMMDD, as it may be written: 1947-08-31, 31.8.47, 8/31/1947 ..."""
    try:
        day = datetime.strptime(text[:8], "%Y%m%d")
    except ValueError:
        return frozenset(_long_enough({text}))
    values = {text, f"{day:%Y%m%d}"}
    years = f"{day:%Y}", f"{day:%y}"
    for month, date in ((f"{day:%m}", f"{day:%d}"), (f"{day.month}", f"{day.day}")):
        orders = [(date, month, year) for year in years] + [(month, date, year) for year in years]
        orders.append((years[0], month, date))
        values.update(between.join(order) for order in orders for between in ".-/")
    return frozenset(values)


def _name_values(name: str) -> set[str]:
    """A person's name as it stands, as it may be written in text, and its parts."""
    values = {name}
    parts: set[str] = set()
    for spelling in name.split("="):  # Latin, ideographic, phonetic: PS3.5 section 6.2.1
        components = [each for each in re.split(r"[\^,\s]+", spelling) if each]
        parts.update(components)
        # As stored (family, given), with and without what follows; and the given name first.
        orders = [components[:count] for count in range(2, len(components) + 1)]
        orders.append(components[1::-1])
        values.update(between.join(order) for order in orders for between in ("", " "))
    return _long_enough(values) | {part for part in parts if _is_part(part)}


def _long_enough(values: set[str]) -> set[str]:
    return {value for value in values if len(value) >= SHORTEST}


def _is_part(text: str) -> bool:
    if not text.isalpha():
        return len(text) >= SHORTEST
    return len(text) >= SHORTEST_PART or _is_east_asian(text)


def _is_east_asian(text: str) -> bool:
    """Whether it is of a script that sets no spaces between words (Unicode annex 11)."""
    return all(unicodedata.east_asian_width(letter) in "WFH" for letter in text)


def _pattern(values: set[str]) -> re.Pattern[str] | None:
    # Longest first: a name's part must not tear up the whole name or a UID around it.
    alternatives = map(_alternative, sorted(values, key=len, reverse=True))
    return re.compile("|".join(alternatives), re.IGNORECASE) if values else None


def _alternative(value: str) -> str:
    """The pattern that finds one value, but no ordinary word that holds it or is spelled so."""
    found = re.escape(value)
    if len(value) >= SHORTEST_INSIDE_WORDS or _is_east_asian(value):
        return found
    if len(value) < SHORTEST:
        spellings = {value.capitalize(), value.upper()} - TERMS
        found = f"(?-i:{'|'.join(map(re.escape, sorted(spellings)))})"
    return rf"(?<![^\W_]){found}(?![^\W_])"


def identity(series: CTSeries) -> dict[str, Any]:
    """The study's identity, for a report that was asked to carry it (``--identify``)."""
    header = series.sources[0].header
    with quiet_dicom():
        said = {
            key: str(header.get(keyword, "") or "")
            for key, keyword in (
                ("patient_name", "PatientName"),
                ("patient_id", "PatientID"),
                ("accession_number", "AccessionNumber"),
                ("study_date", "StudyDate"),
                ("study_instance_uid", "StudyInstanceUID"),
            )
        }
    return {
        **said,
        "series_instance_uid": series.series_uid,
        "sop_instance_uids": [source.sop_instance_uid for source in series.sources],
    }


def _texts(header: Any, keyword: str) -> list[str]:
    """A header's value as text, or each of several; none where it is missing or malformed."""
    try:
        value = header.get(keyword)
        several = not isinstance(value, str) and hasattr(value, "append")
        values = value if several else [value]
        return [str(each).strip() for each in values if each is not None]
    except Exception:  # pydicom converts a value when it is first looked at: see study/fields.py
        return []
