"""Judge a reconstruction kernel by its name: soft enough for brain, or sharpened for bone.

Names differ between vendors, so any name that is not known for certain counts as unknown, which
ranks below soft but above sharp.
"""

from __future__ import annotations

import re
from typing import Literal

Sharpness = Literal["soft", "unknown", "sharp"]

_SIEMENS = re.compile(r"^[A-Z]{1,2}(\d{2})[A-Z]?", re.IGNORECASE)  # H31s, J40s, Hr38h, B60f
_SIEMENS_SOFT_UNTIL, _SIEMENS_SHARP_FROM = 45, 55
_CANON = re.compile(r"^FC(\d{2})", re.IGNORECASE)  # FC20 to FC28 head soft; 30 and 80 bone, 50 lung
_CANON_SOFT = {*range(1, 20), *range(20, 29), *range(41, 45), *range(62, 69)}
_CANON_SHARP = {*range(29, 40), *range(49, 60), *range(80, 91)}
_SOFT_NAMES = {"STANDARD", "STD", "STD+", "SOFT", "BRAIN", "UA", "UB", "UC", "A", "B", "C"}
_SHARP_NAMES = {"BONE", "BONEPLUS", "EDGE", "DETAIL", "LUNG", "ULTRA", "D", "E", "UD", "YD", "YE"}
_SHARP_WORDS = ("bone", "knochen", "sharp", "petrous", "temporal bone", "lung")
_SOFT_WORDS = ("brain", "hirn", "cerebr", "soft", "std", "standard", "encephal")


def sharpness(kernel: str, description: str) -> Sharpness:
    """Judge by ConvolutionKernel, or by SeriesDescription if that says nothing."""
    by_name = _by_name(kernel.strip())
    return by_name if by_name != "unknown" else _by_words(description.lower())


def _by_name(name: str) -> Sharpness:
    upper = name.upper()
    if upper in _SOFT_NAMES:
        return "soft"
    if upper in _SHARP_NAMES:
        return "sharp"
    if canon := _CANON.match(name):
        number = int(canon[1])
        if number in _CANON_SHARP:
            return "sharp"
        return "soft" if number in _CANON_SOFT else "unknown"
    if siemens := _SIEMENS.match(name):
        number = int(siemens[1])
        if number >= _SIEMENS_SHARP_FROM:
            return "sharp"
        return "soft" if number <= _SIEMENS_SOFT_UNTIL else "unknown"
    return "unknown"


def _by_words(description: str) -> Sharpness:
    if any(word in description for word in _SHARP_WORDS):
        return "sharp"
    return "soft" if any(word in description for word in _SOFT_WORDS) else "unknown"
