"""Whether an object's pixels were lossily compressed, by its header and by how it is stored."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace
from typing import Any

from samihs_runtime.lossy import LossyCompression

from .fields import integer, strings, text, value
from .headers import Header

LOSSY = {  # transfer syntaxes that are lossy by design: PS3.5 section 10 and A.4
    "1.2.840.10008.1.2.4.50": LossyCompression("JPEG", methods=("ISO_10918_1",)),
    "1.2.840.10008.1.2.4.51": LossyCompression("JPEG", methods=("ISO_10918_1",)),
    "1.2.840.10008.1.2.4.81": LossyCompression("JPEG-LS near-lossless", methods=("ISO_14495_1",)),
}
"""The compression of each, with the method's defined term of PS3.3 C.7.6.1.1.5.1."""
MAY_BE_LOSSY = {  # the file should say which (LossyImageCompression is type 1C); some do not
    "1.2.840.10008.1.2.4.91": LossyCompression(
        "JPEG 2000, unless reversible", certain=False, methods=("ISO_15444_1",)
    ),
    "1.2.840.10008.1.2.4.203": LossyCompression(
        "HTJ2K, unless reversible", certain=False, methods=("ISO_15444_15",)
    ),
}
_METHOD = re.compile("[A-Z0-9_ ]{1,16}")
"""A code string, PS3.5 section 6.2."""


def lossy_compression(dataset: Any) -> LossyCompression | None:
    """How an object lost precision, or may have done, by its header and transfer syntax.

    What the header says about method and ratio takes precedence over what the syntax implies: it
    may refer to earlier compressions that have since been undone. The words are the header's own,
    not scrubbed.
    """
    syntax = text(dataset.file_meta, "TransferSyntaxUID")
    flag = text(dataset, "LossyImageCompression")
    here = LOSSY.get(syntax)
    if here is None and flag == "01":
        words = text(dataset, "LossyImageCompressionMethod") or "method not stated"
        stored = MAY_BE_LOSSY.get(syntax)
        here = LossyCompression(words, methods=() if stored is None else stored.methods)
    elif here is None and not flag:
        here = MAY_BE_LOSSY.get(syntax)
    if here is None:
        return None
    methods = tuple(filter(_METHOD.fullmatch, strings(dataset, "LossyImageCompressionMethod")))
    return replace(here, methods=methods or here.methods, ratios=_ratios(dataset))


def lossy_compression_of(header: Header) -> LossyCompression | None:
    """The same, with the ratio computed from the file's size if its header gives none."""
    found = lossy_compression(header.dataset)
    syntax = text(header.dataset.file_meta, "TransferSyntaxUID")
    if found is None or found.ratios or syntax not in (*LOSSY, *MAY_BE_LOSSY):
        return found
    ratio = _stored_ratio(header)
    return found if ratio is None else replace(found, ratios=(ratio,))


def _ratios(dataset: Any) -> tuple[float, ...]:
    found = value(dataset, "LossyImageCompressionRatio")
    try:
        ratios = tuple(float(each) for each in (found if hasattr(found, "__iter__") else [found]))
    except (TypeError, ValueError):  # missing, or not a number
        return ()
    return ratios if all(math.isfinite(ratio) and ratio > 0 for ratio in ratios) else ()


def _stored_ratio(header: Header) -> float | None:
    """Bytes of the pixels divided by bytes of the file, of which the header is a small part."""
    keywords = ("Rows", "Columns", "BitsAllocated")
    rows, columns, bits = (integer(header.dataset, keyword) for keyword in keywords)
    if not rows or not columns or not bits:
        return None
    with header.source.open() as stream:
        nbytes = stream.seek(0, os.SEEK_END)
    frames = integer(header.dataset, "NumberOfFrames") or 1
    return rows * columns * bits / 8 * frames / nbytes
