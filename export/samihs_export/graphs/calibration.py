"""Ranges of quantized layers' inputs, on phantom slices that parity does not use. No torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from samihs_export.graphs.quantization import Range, plan
from samihs_export.proof.cases import ParityCase, phantom_cases
from samihs_runtime.bundle.entries import WindowRule

FIRST_SEED = 800_000
"""Calibration's own seeds: 100,000 below those of parity, which uses a few tens."""


def calibration_cases(count: int, *, slice_size: int, window: WindowRule) -> list[ParityCase]:
    """``count`` slices, cycling through the five types of bleeding; only their pixels are used."""
    return phantom_cases(
        count, slice_size=slice_size, mask_size=4, window=window, first_seed=FIRST_SEED
    )


def calibrate(encoder: Path, cases: Iterable[ParityCase]) -> dict[str, Range]:
    """The smallest and largest input of each planned layer, by layer name.

    Args:
        encoder: the float32 encoder graph. Its ranges serve every graph of the same model: layers
            have the same names in all of them.
        cases: the slices; run one at a time.

    Raises:
        ExportError: nothing to quantize, or a range that is not finite.
    """
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    layers = plan(onnx.load(encoder).graph)
    with tempfile.TemporaryDirectory(prefix="samihs-calibrate-") as scratch:
        calibrator = create_calibrator(
            encoder,
            ["MatMul"],
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
            use_external_data_format=encoder.with_name(f"{encoder.name}.data").exists(),
        )
        calibrator.collect_data(_reader(cases))
        seen = calibrator.compute_data()
    ranges = {layer.name: seen[layer.activation].range_value for layer in layers}
    return {
        name: Range(float(low.min()), float(high.max())) for name, (low, high) in ranges.items()
    }


def _reader(cases: Iterable[ParityCase]) -> Any:
    """The cases as onnxruntime's ``CalibrationDataReader``."""
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, feeds: Iterator[dict[str, Any]]) -> None:
            self.feeds = feeds

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    return Reader({"hu": np.asarray(c.hu)[None, None], "window": c.window[None]} for c in cases)
