"""Series mode: encode slices in the background, outward from the one the user is looking at."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from samihs_runtime.closing import Closing
from samihs_runtime.encoding.slice_encoder import EncodedSlice, Slice, SliceEncoder, Spacing
from samihs_runtime.prompts import check_slice
from samihs_runtime.series import CTSeries


def outward(count: int, start: int) -> list[int]:
    """Slice indices 0 to ``count - 1``, nearest to ``start`` first."""
    return sorted(range(count), key=lambda index: (abs(index - start), index))


def batches(order: Sequence[int], size: int) -> list[Sequence[int]]:
    """The first slice alone, since the user is looking at it; then ``size`` at a time."""
    rest = range(1, len(order), size)
    return [order[:1], *(order[start : start + size] for start in rest)]


class SeriesSession(Closing):
    """A series that is being worked on. A context manager: leaving it stops the background thread.

    The background keeps no more slices than the segmenter's cache holds, so that it never evicts
    what it has just made. It gives way to a slice that is asked for, which waits at most for the
    batch in progress. With a store on disk, what does not fit into memory goes there.
    """

    def __init__(self, encoder: SliceEncoder, series: CTSeries, start: int | None = None) -> None:
        self.series = series
        self._encoder = encoder
        self._cancelled = threading.Event()
        self._failure: Exception | None = None
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
        slices, spacings = self._given([self._checked(index)])
        return self._encoder.encode(slices, spacings, background=False)[0]

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the background; True if it has ended.

        Raises:
            BackendError: the error that ended the background.
        """
        self._thread.join(timeout)
        if self._failure is not None:
            raise self._failure
        return not self._thread.is_alive()

    def close(self) -> None:
        """Stop after the batch in progress and wait for it; harmless if the thread has ended."""
        self._cancelled.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _encode_all(self, order: list[int]) -> None:
        try:
            self._encode_batches(batches(order, self._encoder.batch_size))
        except Exception as error:  # kept for wait(): a thread has no caller to raise to
            self._failure = error

    def _encode_batches(self, parts: Sequence[Sequence[int]]) -> None:
        encoder = self._encoder
        room, each = encoder.cache.max_bytes, 0  # bytes left; bytes of one embedding, once known
        for part in parts:
            if each:
                part = part[: room // each] or (part if encoder.has_store else ())
            if self._cancelled.is_set() or not part:
                return
            encoded = encoder.encode(*self._given(part), background=True, keep=room >= each)
            each = encoded[0].nbytes
            room = max(0, room - sum(one.nbytes for one in encoded))

    def _given(self, indices: Sequence[int]) -> tuple[list[Slice], list[Spacing]]:
        """The slices and their pixel spacings."""
        planes = self.series.planes
        return [self.series.hu[k] for k in indices], [planes[k].spacing for k in indices]

    def _checked(self, index: int) -> int:
        check_slice(index, len(self.series))
        return index
