"""Source slices in the form that highdicom needs: single frames with all required attributes.

They are copies, made for one object and then discarded. What a file lacks is filled with what the
standard allows: an empty value for type 2 attributes; for a missing UID one computed from the
series', so that all objects of a series share it. A UID that is too long is replaced by one
computed from it: no archive has to accept it.
Text is passed decoded, to be written as UTF-8: highdicom refuses the usual Japanese and Korean
character sets, and some that are merely misspelt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from samihs_runtime.uids import new_uid, storable_uid

if TYPE_CHECKING:
    from samihs_runtime.series import CTSeries

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"

TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Required, but may be empty: Patient and General Study modules, PS3.3 C.7.1.1, C.7.2.1."""

SINGLE_NAMES = ("PatientName", "ReferringPhysicianName")
"""One value each (PS3.6): highdicom refuses several, which a backslash in a name produces."""
SEX_VALUES = ("M", "F", "O")
UTF_8 = "ISO_IR 192"  # PS3.3 C.12.1.1.2
_GROUPS_TO_COPY = (0x0008, 0x0010, 0x0012, 0x0020, 0x0028, 0x0032, 0x0038)
"""SOP, patient, clinical trial, study and lossy compression; even groups are never private."""
_LEFT_BEHIND = (0x00280008, 0x00209221, 0x00209222)
"""NumberOfFrames and the dimension sequences of an Enhanced CT: its copies are single frames."""
_CHARACTER_SET = 0x00080005
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?")
"""PS3.5 section 6.2, TM; second 60 is a leap second."""


def source_datasets(series: CTSeries, indices: list[int]) -> list[Any]:
    """One CT Image Storage stand-in (``pydicom.Dataset`` without pixels) for each slice index.

    Each has the :func:`placeholder_uid` of its slice, since frames of one object would share a UID.
    """
    patient = _patient_and_study(series, series.sources[indices[0]].header)
    return [_source(series, index, indices[0], patient) for index in indices]


def placeholder_uid(index: int) -> str:
    """The UID that stands for a slice until its actual object and frame are filled in."""
    return f"2.25.{index + 1}"


def decimals(values: Iterable[float]) -> list[str]:
    """Numbers as DICOM decimal strings: at most 16 characters (PS3.5 section 6.2), exact if the
    number has few enough digits."""
    from pydicom.valuerep import format_number_as_ds

    texts = []
    for value in values:
        text = repr(float(value))
        texts.append(text if len(text) <= 16 else format_number_as_ds(float(value)))
    return texts


def _source(series: CTSeries, index: int, first: int, patient: Any) -> Any:
    """A slice's copy. highdicom reads patient and study from the first one only."""
    from pydicom.dataset import Dataset

    plane, orientation = series.planes[index], series.planes[first]
    copy = Dataset()
    if index == first:
        copy.update(patient)
    copy.StudyInstanceUID = patient.StudyInstanceUID
    copy.FrameOfReferenceUID = patient.FrameOfReferenceUID
    own = storable_uid(series.series_uid)
    copy.SeriesInstanceUID = own or missing_uid(series, "SeriesInstanceUID")
    copy.SOPClassUID = CT_IMAGE_STORAGE
    copy.SOPInstanceUID = placeholder_uid(index)
    copy.Modality = "CT"
    copy.Rows, copy.Columns = series.shape
    copy.ImagePositionPatient = decimals(plane.position)
    # highdicom requires orientations that are equal to the last digit; if they differ, each frame
    # gets its own afterwards.
    copy.ImageOrientationPatient = decimals(
        [*orientation.row_direction, *orientation.column_direction]
    )
    copy.PixelSpacing = decimals(plane.spacing)
    copy.SliceThickness = decimals([plane.thickness or 0.0])[0]  # replaced afterwards
    return copy


def _patient_and_study(series: CTSeries, header: Any) -> Any:
    """What an object takes over from its sources' headers, completed and corrected."""
    taken = _decoded(header, filter(_is_taken_over, header.keys()))
    taken.SpecificCharacterSet = UTF_8
    for keyword in TYPE_2:
        if keyword not in taken:
            setattr(taken, keyword, "")
    for keyword in SINGLE_NAMES:
        element = taken[keyword]
        if element.VM > 1:
            setattr(taken, keyword, element.value[0])
    if taken.PatientSex not in SEX_VALUES:
        taken.PatientSex = ""
    taken.StudyDate = _date(str(taken.StudyDate or ""))
    taken.PatientBirthDate = _date(str(taken.PatientBirthDate or ""))
    taken.StudyTime = _time(str(taken.StudyTime or ""))
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        uid = taken.get(keyword)
        if not uid or not isinstance(uid, str):  # several UIDs, if it has a backslash
            setattr(taken, keyword, missing_uid(series, keyword))
    return taken


def missing_uid(series: CTSeries, what: str) -> str:
    """The UID for something that has none: the same one in all objects of a series."""
    return new_uid(f"{what}/{_named(series)}")


def _named(series: CTSeries) -> str:
    """What no other series shares: its UID, that of its first object, or a hash of its pixels."""
    uid = series.series_uid or series.sources[0].sop_instance_uid
    return uid or hashlib.sha256(np.ascontiguousarray(series.hu).data).hexdigest()


def _is_taken_over(tag: Any) -> bool:
    return tag.group in _GROUPS_TO_COPY and tag not in _LEFT_BEHIND


def _decoded(dataset: Any, tags: Iterable[Any]) -> Any:
    """A copy of some attributes with their text decoded and their UIDs storable, even in items of
    sequences: pydicom would write unaccessed values byte for byte, in the character set in which
    they were read."""
    import copy

    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

    decoded = Dataset()
    for tag in tags:
        if tag == _CHARACTER_SET or tag.is_private:  # private text may be undecodable bytes
            continue
        try:
            element = dataset[tag]
        except Exception:  # a malformed value makes pydicom raise nearly anything: left out
            continue
        if element.VR == "SQ":
            items = [_decoded(item, item.keys()) for item in element.value]
            decoded.add(DataElement(tag, "SQ", items))
        elif element.VR == "UI" and isinstance(element.value, str):
            decoded.add(DataElement(tag, "UI", storable_uid(element.value)))
        else:
            decoded.add(copy.deepcopy(element))
    return decoded


def _date(text: str) -> str:
    """YYYYMMDD; ACR-NEMA's YYYY.MM.DD is converted (PS3.5 section 6.2, DA). Empty for anything else
    and for an invalid date, such as 19470000 for a birth of which only the year is known."""
    match = re.fullmatch(r"(\d{4})[.\-/]?(\d{2})[.\-/]?(\d{2})", text.strip())
    try:
        return date(*map(int, match.groups())).isoformat().replace("-", "") if match else ""
    except ValueError:
        return ""


def _time(text: str) -> str:
    """HHMMSS.FFFFFF and its shorter forms; ACR-NEMA's colons are removed, anything else empty."""
    plain = text.strip().replace(":", "")
    return plain if _TIME.fullmatch(plain) else ""
