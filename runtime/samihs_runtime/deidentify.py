"""A series whose DICOM objects will name nobody (``--deidentify``).

Only listed attributes are kept; everything else in a header is dropped, so that an attribute no one
thought of cannot slip through. UIDs are replaced (PS3.15 table E.1-1, action U) by ones computed
from the old ones: results of one study stay together, and only someone who has the originals can
compute them again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from samihs_runtime.series import CTSeries, SourceSlice
from samihs_runtime.uids import new_uid

KEPT = (
    "SpecificCharacterSet",
    "Modality",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "BurnedInAnnotation",
)
"""Attributes that describe the pixels and say nothing about a person."""
SAID = (
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "LongitudinalTemporalInformationModified",
)
"""Attributes that mark a header as de-identified; writers copy them into their objects."""
METHOD = "SAMIHS: all but technical attributes removed, UIDs replaced"
"""DeidentificationMethod: at most 64 characters (LO)."""


def deidentified(series: CTSeries) -> CTSeries:
    """The same pixels and planes, with headers without identity and new UIDs.

    For the DICOM writers only: notes and description are free text, so they are dropped as well.
    """
    return replace(
        series,
        sources=tuple(_source(source) for source in series.sources),
        series_uid=new_uid(series.series_uid),
        description="",
        notes=(),
    )


def _source(source: SourceSlice) -> SourceSlice:
    return replace(
        source,
        sop_instance_uid=new_uid(source.sop_instance_uid),
        header=_header(source.header),
    )


def _header(header: Any) -> Any:
    from pydicom.dataset import Dataset

    kept = Dataset()
    for keyword in KEPT:
        if keyword in header:
            kept[keyword] = header[keyword]
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if header.get(keyword):
            setattr(kept, keyword, new_uid(str(header[keyword].value)))
    kept.PatientIdentityRemoved = "YES"
    kept.DeidentificationMethod = METHOD
    kept.LongitudinalTemporalInformationModified = "REMOVED"
    return kept
