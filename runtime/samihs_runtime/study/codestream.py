"""Check a compressed frame before it is decoded.

Decoders allocate what the codestream claims, not what the header says, and some silently fill a
truncated image with grey. So the size is compared and the end marker looked for first.
"""

from __future__ import annotations

from itertools import pairwise

_SOC_SIZ = b"\xff\x4f\xff\x51"  # JPEG 2000: start of codestream, image size (ISO 15444-1 A.5.1)
_SOI = b"\xff\xd8"
_END = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000
_FILL = b"\x00\xff"  # fragments are padded to even length; WG04's files are padded with FF
_NOT_SOF = {0xC4, 0xC8, 0xCC}  # among C0 to CF: Huffman tables, reserved, arithmetic conditioning
_SOF_JPEG_LS = 0xF7


def codestream_problem(frame: bytes, rows: int, columns: int) -> str:
    """Why a JPEG, JPEG-LS or JPEG 2000 frame should not be decoded; empty if it may be."""
    size = codestream_size(frame)
    if size is None:
        return "it is no JPEG, JPEG-LS or JPEG 2000 image"
    if size != (rows, columns):
        return f"the compressed image is {size[0]} x {size[1]}, the header says {rows} x {columns}"
    if not frame.rstrip(_FILL).endswith(_END):
        return "the compressed image is cut short (no end marker)"
    return ""


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """(rows, columns) according to the codestream's own header, or None."""
    start = frame.find(_SOC_SIZ, 0, 2**12)  # after boxes, if someone stored a JP2 file
    if start >= 0:
        return _jpeg2000_size(frame[start + 4 : start + 40])
    return _jpeg_size(frame) if frame.startswith(_SOI) else None


def _jpeg2000_size(siz: bytes) -> tuple[int, int] | None:
    """SIZ: length, capabilities, then Xsiz, Ysiz, XOsiz, YOsiz."""
    if len(siz) < 20:
        return None
    x, y, x0, y0 = (int.from_bytes(siz[4 + 4 * k : 8 + 4 * k], "big") for k in range(4))
    return y - y0, x - x0


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Walk the marker segments (ISO 10918-1 B.1.1.4) to the start-of-frame one."""
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == _SOF_JPEG_LS or (0xC0 <= marker <= 0xCF and marker not in _NOT_SOF):
            rows = int.from_bytes(frame[at + 5 : at + 7], "big")
            return rows, int.from_bytes(frame[at + 7 : at + 9], "big")
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        at += 2 + max(length, 2)
    return None


def rle_adds_up(frame: bytes, pixels: int) -> bool:
    """Whether every segment of an RLE frame expands to exactly one byte per pixel (PS3.5 G)."""
    header = [int.from_bytes(frame[k : k + 4], "little") for k in range(0, 64, 4)]
    count = header[0]
    if len(frame) < 64 or not 1 <= count <= 15:
        return False
    bounds = [*header[1 : count + 1], len(frame)]
    if bounds[0] != 64 or any(a >= b for a, b in pairwise(bounds)):
        return False
    return all(_rle_length(frame[a:b]) == pixels for a, b in pairwise(bounds))


def _rle_length(segment: bytes) -> int:
    """Bytes that a segment expands to; -1 if it ends within a run."""
    at = length = 0
    end = len(segment)
    while at < end - 1:  # a single byte at the end is padding
        run = segment[at]
        if run < 128:  # run + 1 literal bytes
            at += run + 2
            length += run + 1
        elif run > 128:  # one byte repeated
            at += 2
            length += 257 - run
        else:
            at += 1
    return length if at <= end else -1
