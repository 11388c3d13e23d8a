"""Encoded slices, kept up to a number of bytes; the least recently used is dropped first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Something that knows how many bytes it keeps alive."""

    @property
    def nbytes(self) -> int: ...


Value = TypeVar("Value", bound=Sized)


class ByteLRU(Generic[Value]):
    """A thread-safe least-recently-used cache bounded by bytes.

    Dropping an entry only drops the cache's reference: an answer in progress keeps its embedding.
    A value larger than the bound itself is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[str, Value] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> Value | None:
        """The value, now the most recently used, or None."""
        with self._lock:
            value = self._entries.get(key)
            if value is not None:
                self._entries.move_to_end(key)
            return value

    def put(self, key: str, value: Value) -> None:
        """Keep a value; drop the least recently used ones beyond the bound."""
        with self._lock:
            replaced = self._entries.pop(key, None)
            self._bytes -= replaced.nbytes if replaced is not None else 0
            if value.nbytes > self.max_bytes:
                return
            self._entries[key] = value
            self._bytes += value.nbytes
            while self._bytes > self.max_bytes:
                _, dropped = self._entries.popitem(last=False)
                self._bytes -= dropped.nbytes

    def drop(self, key: str) -> None:
        """Drop a value; harmless if there is none."""
        with self._lock:
            dropped = self._entries.pop(key, None)
            self._bytes -= dropped.nbytes if dropped is not None else 0

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes kept at present."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)
