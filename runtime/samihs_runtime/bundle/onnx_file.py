"""What an ONNX file says of its tensors, read without the ``onnx`` package.

Only protobuf's framing is read: field numbers and lengths, no values.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from samihs_runtime.errors import BundleError

Span = tuple[int, int]
"""First byte, and the one after the last."""
Buffer = memoryview | mmap.mmap

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor",
        23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external data"},
}  # fmt: skip
"""Message of onnx.proto3 -> field number -> the message in it, where it may lead to a tensor."""
_KEY, _VALUE, _LOCATION = 1, 2, b"location"
"""Of an entry of ``TensorProto.external_data``."""


def external_locations(path: Path) -> set[str]:
    """The files in which an ONNX file says that some of its tensors are.

    Raises:
        BundleError: it is no ONNX file.
        OSError: it cannot be read.
    """
    if not path.stat().st_size:
        raise _no_protobuf()
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        if content.find(_LOCATION) < 0:  # nearly always, and much faster than a walk
            return set()
        return set(_locations(content, "model", (0, len(content))))


def _locations(content: mmap.mmap, message: str, span: Span) -> Iterator[str]:
    if message == "external data":
        entry = dict(fields(content, span))
        key, value = entry.get(_KEY), entry.get(_VALUE)
        if isinstance(key, tuple) and content[slice(*key)] == _LOCATION:
            yield (
                content[slice(*value)].decode(errors="replace") if isinstance(value, tuple) else ""
            )
        return
    for number, inner in fields(content, span):
        part = _PARTS[message].get(number)
        if part is not None and isinstance(inner, tuple):
            yield from _locations(content, part, inner)


def fields(message: Buffer, span: Span) -> Iterator[tuple[int, int | Span]]:
    """Field number and value (or the value's span) of each field of one protobuf message.

    Raises:
        BundleError: it is none.
    """
    place, end = span
    while place < end:
        key, place = _varint(message, place, end)
        kind = key & 7
        if kind == _VARINT:
            value, place = _varint(message, place, end)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, place = _varint(message, place, end)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise _no_protobuf()
        if place + length > end:
            raise _no_protobuf()
        yield key >> 3, (place, place + length)
        place += length


def _varint(message: Buffer, place: int, end: int) -> tuple[int, int]:
    value, shift = 0, 0
    while place < end:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise _no_protobuf()


def _no_protobuf() -> BundleError:
    return BundleError("an ONNX graph is no valid protobuf: export the bundle again")
