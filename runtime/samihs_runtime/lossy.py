"""Lossy compression of the source images: once lossy, always lossy (PS3.3 C.7.6.1.1.5).

Whatever is derived from such an image, a segmentation or a picture, has to state it as well,
however it is stored itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LossyCompression:
    """How one object's pixels lost precision, or may have done."""

    words: str
    """For the user, such as ``JPEG``; the reader has scrubbed what a header says."""
    certain: bool = True
    """False if the transfer syntax allows both and the file does not say which."""
    methods: tuple[str, ...] = ()
    """LossyImageCompressionMethod, in the order of the compressions; empty if unknown."""
    ratios: tuple[float, ...] = ()
    """LossyImageCompressionRatio, one for each method; empty if unknown."""


def mark_lossy(derived: Any, sources: Iterable[LossyCompression | None]) -> None:
    """State in a derived object (``pydicom.Dataset``) which lossy compression its sources had.

    Nothing is changed if no source lost anything. A source that may have done counts as lossy,
    since the value ``00`` would promise that it has not. If sources differ, the one with the
    strongest compression is named. An unknown method or ratio is left out rather than invented.
    """
    lossy = [each for each in sources if each is not None]
    if not lossy:
        return
    worst = max(lossy, key=lambda each: math.prod(each.ratios))
    derived.LossyImageCompression = "01"
    values = {
        "LossyImageCompressionMethod": list(worst.methods),
        "LossyImageCompressionRatio": [f"{ratio:.6g}" for ratio in worst.ratios],
    }
    for keyword, value in values.items():
        if value:
            setattr(derived, keyword, value)
        elif keyword in derived:
            delattr(derived, keyword)
