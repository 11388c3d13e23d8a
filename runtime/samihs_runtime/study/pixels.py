"""From stored values to Hounsfield units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from samihs_runtime.errors import StudyError

from .codestream import codestream_problem, rle_adds_up
from .fields import integer, text, value
from .files import SourceFile
from .frames import Frame, rescale_of
from .headers import open_dataset
from .loss import lossy_compression

AIR_HU = -1000
"""The value given to padding outside the scanner's field of view."""
_TISSUE_HU = (-200, 200)
"""A padding value in this range is a header error: following it would punch air into the brain.
Seen as a padding of 0 in series whose stored values are already HU."""
_RLE = "1.2.840.10008.1.2.5"
Stored = NDArray[np.signedinteger[Any]] | NDArray[np.unsignedinteger[Any]]


def read_frames(source: SourceFile, frames: list[Frame]) -> Iterator[NDArray[Any]]:
    """HU [rows, columns] of each of the file's frames: int32 if exact, otherwise float32.

    Raises StudyError, naming the file, if the pixels are truncated or cannot be decoded.
    """
    try:
        dataset = open_dataset(source, header_only=False)
    except StudyError:
        raise
    except Exception as error:  # the header could be read: the file is damaged after it
        raise _damaged(source, "the pixel data cannot be read, it is damaged") from error
    for frame in frames:
        raw = _decode(source, dataset, (frame.number or 1) - 1)
        yield _to_hu(raw, dataset, *rescale_of(frame))


def _decode(source: SourceFile, dataset: Any, index: int) -> Stored:
    """Stored values as in the file, including unused bits."""
    syntax = UID(text(dataset.file_meta, "TransferSyntaxUID"))
    if not syntax.is_transfer_syntax:
        raise _damaged(source, "its transfer syntax is private, unknown or damaged")
    data = value(dataset, "PixelData")
    if not isinstance(data, bytes) or not data:
        raise _damaged(source, "has no pixel data")
    options: dict[str, Any] = {"index": index}
    if syntax.is_encapsulated:
        options["decoding_plugin"] = _checked_decoder(source, dataset, data, index, syntax)
    else:
        _check_native(source, dataset, data)
    try:
        decoder = get_decoder(syntax)
        decoded = decoder.as_array(dataset, correct_unused_bits=False, **options)[0]
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise _damaged(
            source,
            f"the pixel data cannot be decoded ({syntax.name}); "
            "it is damaged, or of a kind that is not supported",
        ) from error
    if decoded.shape != (dataset.Rows, dataset.Columns):
        raise _damaged(source, f"decodes to {decoded.shape}, not {_matrix(dataset)}")
    return np.asarray(decoded)


def _damaged(source: SourceFile, what: str) -> StudyError:
    return StudyError(f"{source.name}: {what}", reason="damaged")


def _matrix(dataset: Any) -> str:
    return f"{dataset.Rows} x {dataset.Columns}"


def _check_native(source: SourceFile, dataset: Any, data: bytes) -> None:
    frames = integer(dataset, "NumberOfFrames") or 1
    expected = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8 * frames
    if len(data) < expected:
        raise _damaged(source, f"pixel data is cut short: {len(data)} bytes, expected {expected}")


def _checked_decoder(source: SourceFile, dataset: Any, data: bytes, index: int, syntax: UID) -> str:
    """The pydicom plugin for a frame that can be decoded safely; StudyError if it cannot.

    Plugins are named explicitly so that the one used is the one that the package depends on and was
    tested with, whatever else is installed.
    """
    try:
        frames = integer(dataset, "NumberOfFrames") or 1
        frame = get_frame(data, index, number_of_frames=frames)
    except Exception as error:
        raise _damaged(source, "pixel data is cut short or damaged") from error
    if syntax == _RLE:
        # The fast decoder panics on inconsistent data, which no except clause catches.
        exact = rle_adds_up(frame, dataset.Rows * dataset.Columns)
        return "pylibjpeg" if exact else "pydicom"
    problem = codestream_problem(frame, dataset.Rows, dataset.Columns)
    if problem:
        raise _damaged(source, problem)
    return "pylibjpeg"


def _to_hu(raw: Stored, dataset: Any, slope: float, intercept: float) -> NDArray[Any]:
    """Rescale (PS3.3 C.11.1.1.2), padding to air. `slope` and `intercept` are the frame's own."""
    stored = _without_unused_bits(raw, dataset)
    whole = slope.is_integer() and intercept.is_integer() and abs(slope) < 2**8
    if whole and stored.dtype.itemsize <= 2 and abs(intercept) < 2**20:
        hu: NDArray[Any] = stored.astype(np.int32) * int(slope) + int(intercept)
    else:
        hu = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
    padding = padding_range(dataset)
    if padding and not _is_tissue(*_in_hu(padding, slope, intercept)):
        low, high = padding
        # Padding may use the unused bits: -2000 in 16 bits although 12 are stored.
        hu[((raw >= low) & (raw <= high)) | ((stored >= low) & (stored <= high))] = AIR_HU
        below_air = high * slope + intercept - AIR_HU
        if below_air < 0 and lossy_compression(dataset) is not None:
            # Compression has spread the padding: values nearer to it than to air count as padding.
            hu[hu < AIR_HU + below_air / 2] = AIR_HU
    return hu


def _in_hu(padding: tuple[int, int], slope: float, intercept: float) -> tuple[float, float]:
    low, high = padding
    return low * slope + intercept, high * slope + intercept


def _is_tissue(low: float, high: float) -> bool:
    """Whether any HU from `low` to `high` is tissue."""
    return low <= _TISSUE_HU[1] and high >= _TISSUE_HU[0]


def padding_range(dataset: Any) -> tuple[int, int] | None:
    """Lowest and highest stored value that is padding (PS3.3 C.7.5.1.1.2), or None.

    A value in another representation than the pixels' (63536 for -2000) is converted to theirs.
    """
    first = integer(dataset, "PixelPaddingValue")
    if first is None:
        return None
    limit = integer(dataset, "PixelPaddingRangeLimit")
    ends = [_as_pixel(end, dataset) for end in (first, first if limit is None else limit)]
    return min(ends), max(ends)


def ignored_padding(frame: Frame) -> str:
    """The padding in HU if it was ignored because that is tissue; otherwise empty."""
    padding = padding_range(frame.header.dataset)
    if padding is None:
        return ""
    low, high = _in_hu(padding, *rescale_of(frame))
    if not _is_tissue(low, high):
        return ""
    return f"{low:g} HU" if low == high else f"{low:g} to {high:g} HU"


def _as_pixel(number: int, dataset: Any) -> int:
    bits = integer(dataset, "BitsAllocated") or 16
    number %= 2**bits
    signed = integer(dataset, "PixelRepresentation") == 1
    return number - 2**bits if signed and number >= 2 ** (bits - 1) else number


def _without_unused_bits(raw: Stored, dataset: Any) -> Stored:
    """Keep BitsStored bits and extend the sign; the others may contain anything (PS3.5 8.1.1)."""
    allocated = raw.dtype.itemsize * 8
    stored = integer(dataset, "BitsStored") or allocated
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    # JPEG 2000 and JPEG-LS have their own precision, by which pydicom has extended the sign.
    if syntax.is_encapsulated and text(dataset.file_meta, "TransferSyntaxUID") in _OWN_PRECISION:
        return raw
    shift = allocated - stored
    return raw if not 0 < shift < allocated else (raw << shift) >> shift


_OWN_PRECISION = {
    *("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"),
    *("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"),
    *(f"1.2.840.10008.1.2.4.20{k}" for k in (1, 2, 3)),
}
