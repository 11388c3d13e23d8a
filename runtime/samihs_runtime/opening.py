"""A segmenter that opens on a thread of its own, while the study is read.

To verify a bundle and to load its graphs is work of compiled code, which leaves the interpreter
free; to import pydicom and to read headers is work of the interpreter. Side by side they take
little longer than the longer of the two.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from samihs_runtime.closing import Closing
from samihs_runtime.options import open_segmenter

if TYPE_CHECKING:
    from samihs_runtime.options import Options
    from samihs_runtime.segmenter import Segmenter


class Opening(Closing):
    """Begins at once to open what ``options`` name; closes it at the end of a ``with``."""

    def __init__(self, options: Options) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="samihs-open")
        self._coming = self._thread.submit(_open, options)

    def segmenter(self) -> Segmenter:
        """The segmenter, as soon as it is open; the same one each time.

        Raises:
            BundleError: the bundle is missing, changed or unsafe, or has no such adapters or
                precision.
            OutputError: the store cannot be written.
            BackendError: no backend can run, or the named one cannot; says why for each.
        """
        return self._coming.result()

    def close(self) -> None:
        """Close the segmenter. What hindered its opening is told to those who ask for it alone."""
        self._thread.shutdown()
        if self._coming.exception() is None:
            self._coming.result().close()


def _open(options: Options) -> Segmenter:
    segmenter = open_segmenter(options)
    if options.store is None:  # else the embedding may lie there, and the encoder is not needed
        try:
            segmenter.load()
        except BaseException:
            segmenter.close()
            raise
    return segmenter
