"""A DICOM SEG in a file, for tests to read back."""

from __future__ import annotations

from pathlib import Path

from samihs_runtime.segmentation import Lesion
from samihs_runtime.series import CTSeries
from samihs_runtime.writers.seg import write_seg
from tests.runtime.series_factory import make_report


def written(series: CTSeries, lesion: Lesion, folder: Path) -> Path:
    path = folder / "seg.dcm"
    write_seg(series, lesion, make_report(), path)
    return path
