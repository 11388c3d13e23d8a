"""What in a study identifies the patient, and how it is kept out of everything but DICOM objects.

Outputs other than DICOM objects contain no identity by design. Free text may still carry it (a
series description, a note that quotes a path), so the reader passes all text that it takes from a
study through :class:`Scrubber` once; the original text stays in the headers only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from samihs_runtime.quiet_dicom import quiet_dicom

if TYPE_CHECKING:
    from samihs_runtime.series import CTSeries

REMOVED = "[removed]"

IDENTIFYING = (
    "PatientID",
    "OtherPatientIDs",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientInstitutionResidence",
    "CurrentPatientLocation",
    "IssuerOfPatientID",
    "MedicalRecordLocator",
    "MilitaryRank",
    "InsurancePlanIdentification",
    "AccessionNumber",
    "StudyID",
    "AdmissionID",
    "ServiceEpisodeID",
    "RequestedProcedureID",
    "ScheduledProcedureStepID",
    "PerformedProcedureStepID",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "PersonAddress",
    "PersonTelephoneNumbers",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "ResponsibleOrganization",
    "RequestingService",
    "StationName",
    "ScheduledStationName",
    "ScheduledStationAETitle",
    "ScheduledProcedureStepLocation",
    "PerformedStationName",
    "PerformedStationAETitle",
    "PerformedLocation",
    "DeviceSerialNumber",
    "GantryID",
    "DetectorID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
)
"""Attributes whose values are removed: those of PS3.15 table E.1-1 that CT headers carry as short
texts or UIDs. Person names and dates are recognized by their value representation (PS3.5 section
6.2): every PN, DA and DT counts. The words of an institution's name are not parts of a person's
("The Royal Hospital for Children"), so it is removed only as a whole."""

DEEPEST = 16
"""How deeply nested sequences are searched: no CT object nests half as deep, and a damaged or
hostile file must not end in a RecursionError."""
SHORTEST = 3
"""Values of fewer characters do not identify anyone by themselves, and removing them would shred
ordinary words; names of persons may be shorter."""
SHORTEST_PART = 2
"""The same for a part of a person's name that consists of letters: an initial would be removed from
every sentence. East Asian names have no initials: a single character may be the family name."""
SHORTEST_INSIDE_WORDS = 6
"""From this length on, a value is removed even inside a longer word (``DOE12345`` in a path)."""
TERMS = {"CT", "HU", "MR"}
"""Terms that notes use in capitals for any patient: Hu is a family name, HU is the unit."""


class Scrubber:
    """Removes from text the identifying values of some headers (each a ``pydicom.Dataset``).

    A person's name is removed as a whole and by its parts (family name, given name ...), in upper
    or lower case; a part of two letters ("Li", "An") only if capitalized as names are.
    """

    def __init__(self, headers: Iterable[Any]) -> None:
        self._pattern = _pattern(identifying_values(headers))

    def text(self, text: str) -> str:
        """The text, with each identifying value replaced by ``[removed]``."""
        return text if self._pattern is None else self._pattern.sub(REMOVED, text)

    def texts(self, texts: Iterable[str]) -> list[str]:
        """Each of the texts, scrubbed."""
        return [self.text(each) for each in texts]


def scrubbed(text: str, header: Any) -> str:
    """A text without the identifying values of one header: for ``--list`` and for messages, which
    show a series before it is read."""
    return Scrubber([header]).text(text)


def identifying_values(headers: Iterable[Any]) -> set[str]:
    """The identifying values in the headers that are long enough to search for."""
    values: set[str] = set()
    with quiet_dicom():  # many values are first converted here, which may raise warnings
        for header in {id(each): each for each in headers}.values():  # frames share their header
            values |= _header_values(header)
    return values


def _header_values(header: Any, depth: int = DEEPEST) -> set[str]:
    """The identifying values of one header, or of an item of a sequence in it."""
    values: set[str] = set()
    for tag in list(header.keys()):
        kind = _representation(header, tag)
        if kind == "SQ":
            for item in _items(header, tag) if depth else ():
                values |= _header_values(item, depth - 1)
        elif kind == "PN":
            values.update(*map(_name_values, _texts(header, tag)))
        elif kind in ("DA", "DT"):
            values.update(*map(_day_values, _texts(header, tag)))
        elif tag in _identifying_tags():
            values |= _long_enough(set(_texts(header, tag)))
    return values


@cache
def _identifying_tags() -> frozenset[int]:
    from pydicom.datadict import tag_for_keyword  # not needed for a command's --help

    tags = map(tag_for_keyword, IDENTIFYING)
    return frozenset(tag for tag in tags if tag is not None)


def _representation(header: Any, tag: Any) -> str:
    """The VR as stated in the file, or else the dictionary's; does not convert the value."""
    from pydicom.datadict import dictionary_VR

    try:
        stated = header.get_item(tag).VR
        return str(dictionary_VR(tag) if stated in (None, "UN") else stated)
    except Exception:  # a private or unknown tag, or an element that cannot be read
        return ""


def _items(header: Any, tag: Any) -> list[Any]:
    try:
        return list(header[tag].value)
    except Exception:  # a broken sequence raises while its items are parsed
        return []


@lru_cache(maxsize=16)  # the slices of a series share their dates
def _day_values(text: str) -> frozenset[str]:
    """The ways a date stored as YYYYMMDD may be written: 1947-08-31, 31.8.47, 8/31/1947 ..."""
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


@lru_cache(maxsize=64)  # and their person names
def _name_values(name: str) -> frozenset[str]:
    """A person's name as stored, as it may be written in text, and its parts."""
    values = {name}
    parts: set[str] = set()
    for spelling in name.split("="):  # Latin, ideographic, phonetic: PS3.5 section 6.2.1
        components = [each for each in re.split(r"[\^,\s]+", spelling) if each]
        parts.update(components)
        # As stored (family, given), with and without the further components; and given name first.
        orders = [components[:count] for count in range(2, len(components) + 1)]
        orders.append(components[1::-1])
        values.update(between.join(order) for order in orders for between in ("", " "))
    return frozenset(_long_enough(values) | {part for part in parts if _is_part(part)})


def _long_enough(values: set[str]) -> set[str]:
    return {value for value in values if len(value) >= SHORTEST}


def _is_part(text: str) -> bool:
    if not text.isalpha():
        return len(text) >= SHORTEST
    return len(text) >= SHORTEST_PART or _is_east_asian(text)


def _is_east_asian(text: str) -> bool:
    """Whether it is in a script without spaces between words (Unicode annex 11)."""
    return all(unicodedata.east_asian_width(letter) in "WFH" for letter in text)


def _pattern(values: set[str]) -> re.Pattern[str] | None:
    # Longest first: a name's part must not tear up the whole name or a UID around it.
    alternatives = map(_alternative, sorted(values, key=len, reverse=True))
    return re.compile("|".join(alternatives), re.IGNORECASE) if values else None


def _alternative(value: str) -> str:
    """The pattern that finds one value, but not ordinary words that contain it or are spelled
    the same."""
    found = re.escape(value)
    if len(value) >= SHORTEST_INSIDE_WORDS or _is_east_asian(value):
        return found
    if len(value) < SHORTEST:
        spellings = {value.capitalize(), value.upper()} - TERMS
        found = f"(?-i:{'|'.join(map(re.escape, sorted(spellings)))})"
    return rf"(?<![^\W_]){found}(?![^\W_])"


def full_description(series: CTSeries) -> str:
    """SeriesDescription as stored, for a report that is to contain the identity."""
    with quiet_dicom():
        return " ".join(_texts(series.sources[0].header, "SeriesDescription"))


def identity(series: CTSeries) -> dict[str, Any]:
    """The study's identity, for a report that is to contain it (``--identify``)."""
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


def _texts(header: Any, key: Any) -> list[str]:
    """A header's values as texts; none if the element is missing or malformed."""
    try:
        value = header[key].value
        several = not isinstance(value, str) and hasattr(value, "append")
        values = value if several else [value]
        return [str(each).strip() for each in values if each is not None]
    except Exception:  # pydicom converts a value when it is first accessed: see study/fields.py
        return []
