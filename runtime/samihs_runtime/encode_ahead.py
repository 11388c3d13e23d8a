"""Series mode: slices are encoded in the background, outward from the one the user looks at."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from samihs_runtime.errors import PromptError
from samihs_runtime.series import CTSeries

if TYPE_CHECKING:
    from samihs_runtime.segmenter import EncodedSlice, Segmenter


def outward(count: int, start: int) -> list[int]:
    """Slice indices 0 to ``count - 1``, nearest to ``start`` first."""
    return sorted(range(count), key=lambda index: (abs(index - start), index))


class SeriesSession:
    """One series under work. A context manager: leaving it stops the background thread.

    The background encodes no more slices than the segmenter's cache holds, so that it never drops
    what it has just made, and gives way to a slice that is asked for.
    """

    def __init__(self, segmenter: Segmenter, series: CTSeries, start: int | None = None) -> None:
        self.series = series
        self._segmenter = segmenter
        self._cancelled = threading.Event()
        self._failure: Exception | None = None
        self._done = 0
        first = len(series) // 2 if start is None else self._checked(start)
        self._thread = threading.Thread(
            target=self._encode_all,
            args=(outward(len(series), first),),
            name="samihs-encode-ahead",
            daemon=True,
        )
        self._thread.start()

    def encoded(self, index: int) -> EncodedSlice:
        """The encoded slice: from the cache, or encoded now, ahead of the background's next.

        Raises:
            PromptError: no such slice.
        """
        return self._segmenter.encode(self.series.hu[self._checked(index)])

    @property
    def done(self) -> int:
        """How many slices the background has gone through."""
        return self._done

    @property
    def running(self) -> bool:
        """Whether the background is still at work."""
        return self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the background; True when it has ended.

        Raises:
            BackendError: what the background ran into.
        """
        self._thread.join(timeout)
        if self._failure is not None:
            raise self._failure
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """Stop after the slice under work, and wait for that; harmless when it has ended."""
        self._cancelled.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    def _encode_all(self, order: list[int]) -> None:
        room = self._segmenter.cache_capacity
        try:
            for index in order:
                if self._cancelled.is_set():
                    return
                encoded = self._segmenter._encode(self.series.hu[index], background=True)
                self._done += 1
                room -= encoded.nbytes
                if room < encoded.nbytes:
                    return
        except Exception as error:  # kept for wait(): a thread has nobody to raise to
            self._failure = error

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self.series):
            raise PromptError(f"slice {index}: the series has slices 0 to {len(self.series) - 1}")
        return index
