"""A segmenter that opens in its own thread while the study is read.

Verifying a bundle and loading its graphs is done by compiled code, which leaves the interpreter
free; importing pydicom and reading headers occupies the interpreter. In parallel the two take
little more time than the longer one.
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
    """Starts opening the segmenter of ``options`` at once; closes it at the end of a ``with``."""

    def __init__(self, options: Options) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="samihs-open")
        self._coming = self._thread.submit(_open, options)

    def segmenter(self) -> Segmenter:
        """The segmenter, as soon as it is open; the same one each time.

        Raises:
            UsageError: the score threshold is not between 0 and 1.
            BundleError: the bundle is missing, changed or unsafe, or has no such adapters or
                precision.
            OutputError: the store cannot be written.
            BackendError: no backend can run, or the named one cannot; gives the reason for each.
        """
        return self._coming.result()

    def close(self) -> None:
        """Close the segmenter. An error in opening it is raised only by :meth:`segmenter`."""
        self._thread.shutdown()
        if self._coming.exception() is None:
            self._coming.result().close()


def _open(options: Options) -> Segmenter:
    segmenter = open_segmenter(options)
    if options.store is None:  # otherwise the store may have the embedding: no encoder needed
        try:
            segmenter.load()
        except BaseException:
            segmenter.close()
            raise
    return segmenter
