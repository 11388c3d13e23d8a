"""What a viewer calls a slice: images by InstanceNumber, from 1 and often from the head down,
frames of a multi-frame object by their place in it. Ours count from 0 along the normal."""

from __future__ import annotations

from samihs_runtime.series import CTSeries, SourceSlice


def instance_number(source: SourceSlice) -> int | None:
    """InstanceNumber, by which viewers count images; None where the header has no whole one."""
    from samihs_runtime.study.fields import integer  # its package loads pydicom

    return integer(source.header, "InstanceNumber")


def viewer_number(source: SourceSlice) -> str:
    """``image 11`` or ``frame 3``; empty where the header does not number it."""
    if source.frame:
        return f"frame {source.frame}"
    number = instance_number(source)
    return "" if number is None else f"image {number}"


def slice_name(series: CTSeries, index: int) -> str:
    """``slice 1 (image 11)``: the one that is meant, whoever reads it."""
    named = viewer_number(series.sources[index])
    return f"slice {index} ({named})" if named else f"slice {index}"
