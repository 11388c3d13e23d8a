"""What a command prints must not end it: a reader that leaves early (``samihs-infer ... | head``),
or a terminal that lacks a character."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def tolerant_streams() -> None:
    """Let stdout and stderr outlive their readers, and replace characters that their encoding lacks
    (a superscript in ASCII).

    For commands only: whoever owns the process may want to know that nobody reads. Streams that
    were replaced by others, as in a test, keep their kind.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        stream.reconfigure(errors="replace")
        if _is_descriptor(stream):
            setattr(sys, name, _tolerant(stream))


class _Descriptor(io.FileIO):
    """A standard stream's descriptor, which takes everything, also after its reader has gone.

    The lowest layer, so that print, Click, Rich and Python's own flush at exit, which would make
    the exit code 120, all go through it.
    """

    def write(self, data: ReadableBuffer, /) -> int:
        """As :meth:`io.FileIO.write`; what nobody reads counts as written."""
        try:
            return super().write(data)
        except BrokenPipeError:
            # Libraries written in C print to the descriptor itself.
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
            return memoryview(data).nbytes


def _is_descriptor(stream: io.TextIOWrapper) -> bool:
    """Whether it is the interpreter's own; there is no buffer with ``python -u``."""
    buffer = stream.buffer
    return type(buffer.raw if isinstance(buffer, io.BufferedWriter) else buffer) is io.FileIO


def _tolerant(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    with suppress(BrokenPipeError):
        stream.flush()
    raw = _Descriptor(stream.fileno(), "w", closefd=False)
    buffered = isinstance(stream.buffer, io.BufferedWriter)
    return io.TextIOWrapper(
        io.BufferedWriter(raw) if buffered else raw,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
