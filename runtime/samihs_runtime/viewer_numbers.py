"""How a viewer numbers a slice: images by InstanceNumber, from 1 and often from the head down;
frames of a multi-frame object by their position in it. Ours count from 0 along the normal."""

from __future__ import annotations

from samihs_runtime.series import CTSeries, SourceSlice


def instance_number(source: SourceSlice) -> int | None:
    """InstanceNumber, by which viewers count images; None if the header has no integer there."""
    from samihs_runtime.study.fields import integer  # imported here, as its package loads pydicom

    return integer(source.header, "InstanceNumber")


def viewer_number(source: SourceSlice) -> str:
    """``image 11`` or ``frame 3``; empty if the header has no number."""
    if source.frame:
        return f"frame {source.frame}"
    number = instance_number(source)
    return "" if number is None else f"image {number}"


def slice_name(series: CTSeries, index: int) -> str:
    """``slice 1 (image 11)``: unambiguous in our numbering and in a viewer's."""
    named = viewer_number(series.sources[index])
    return f"slice {index} ({named})" if named else f"slice {index}"
