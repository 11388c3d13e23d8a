"""Which segments of a DICOM SEG are hemorrhage: those named, or those that it says are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samihs_runtime.errors import DataError
from samihs_runtime.writers.seg import HEMORRHAGE
from samihs_training.data.cases.labels import Labels


def hemorrhage_segments(segments: Sequence[Any], labels: Labels, path: Path) -> frozenset[int]:
    """Numbers of the segments that are hemorrhage.

    Args:
        segments: items of the SegmentSequence (PS3.3 C.8.20.4).
        labels: SegmentLabels, in upper or lower case, or SegmentNumbers; a patient may lack some.
            Empty: a single segment is hemorrhage, and of several those coded as hemorrhage.
        path: of the SEG, for messages.

    Raises:
        DataError: no labels were named, and there are several segments, none of which is coded as
            hemorrhage.
    """
    named = {int(each.SegmentNumber): str(each.get("SegmentLabel", "")) for each in segments}
    if labels:
        return frozenset(
            number
            for number, name in named.items()
            if any(_is_called(label, number, name) for label in labels)
        )
    coded = frozenset(int(each.SegmentNumber) for each in segments if _is_hemorrhage(each))
    if coded or len(named) <= 1:
        return coded or frozenset(named)
    listed = ", ".join(repr(name) for name in named.values())
    raise DataError(
        f"{path}: segments {listed}, none of them coded as hemorrhage: name those that are, as in "
        f"--labels {next(iter(named.values()))!r}"
    )


def labels_seen(segments: Sequence[Any], labels: Labels) -> frozenset[str]:
    """Those of the labels that a segment goes by."""
    return frozenset(
        label
        for label in labels
        for each in segments
        if _is_called(label, int(each.SegmentNumber), str(each.get("SegmentLabel", "")))
    )


def _is_called(label: str, number: int, name: str) -> bool:
    return label.casefold() in (str(number), name.strip().casefold())


def _is_hemorrhage(segment: Any) -> bool:
    """Whether the segment's property type is coded as hemorrhage (SNOMED CT)."""
    value, scheme, _ = HEMORRHAGE
    types = segment.get("SegmentedPropertyTypeCodeSequence") or ()
    return any(
        (each.get("CodeValue"), each.get("CodingSchemeDesignator")) == (value, scheme)
        for each in types
    )
