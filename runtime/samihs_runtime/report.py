"""The report of one request: what was asked, what ran, what was found. Published as JSON.

The schema is ``docs/report-schema.json``; a change that an old reader would misinterpret increments
:data:`SCHEMA_VERSION`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from samihs_runtime.identity import full_description, identity
from samihs_runtime.viewer_numbers import instance_number

if TYPE_CHECKING:
    from samihs_runtime.measurement import Measurement
    from samihs_runtime.segmentation import Lesion, Prompt
    from samihs_runtime.series import CTSeries

SCHEMA = "samihs-report"
SCHEMA_VERSION = 1
NOT_CLINICAL = "not for clinical use"


@dataclass(frozen=True)
class Report:
    """What is known about a run besides the series and the lesion; builds the report's document."""

    bundle_name: str
    bundle_version: str
    bundle_id: str
    """sha256 of the bundle's manifest, which holds the hash of every file."""
    training_data: str
    """What the model was trained on, in the manifest's words."""
    clinical_use: bool
    """As stated in the manifest; False is mentioned wherever a result is shown."""
    backend: str
    """Short name: ``tensorrt``, ``cuda``, ``cpu``."""
    backend_description: str
    """Package, version, device, precision."""
    backend_reason: str
    """Why this one: requested by name, or the first that could run."""
    prompt: Prompt
    """The user's prompt on the clicked slice."""
    slice_choice: str
    """How the clicked slice was chosen, such as ``given``, ``only slice``, ``best score``."""
    score_threshold: float | None = None
    """With a score below this nothing counts as found."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Stage -> seconds: ``load``, ``encode``, ``click`` and whatever else was timed."""
    lesion_number: int = 1
    """Number of the lesion among those of its study that are asked for in one run."""
    tool_version: str = ""
    """Version of samihs; the installed one if left empty."""

    @property
    def statement(self) -> str:
        """One sentence for every result: what the model was trained on, and what it is not for."""
        trained = self.training_data.rstrip(". ")
        return f"{trained}; {NOT_CLINICAL}" if not self.clinical_use else trained

    @property
    def version(self) -> str:
        """Version of samihs."""
        return self.tool_version or installed_version()

    def document(
        self,
        series: CTSeries,
        lesion: Lesion,
        measurement: Measurement,
        *,
        identify: bool = False,
    ) -> dict[str, Any]:
        """The report, ready for JSON: plain types and finite numbers, rounded to meaningful digits.

        Args:
            series: the series that was clicked on.
            lesion: the answer.
            measurement: its numbers.
            identify: add the patient's and study's identity, and the series' description as stored.
                Otherwise the document contains no identity: the reader has scrubbed the series'
                free text, and UIDs are left out.
        """
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "statement": self.statement,
            "tool": {"name": "samihs", "version": self.version},
            "model": {
                "bundle": self.bundle_name,
                "version": self.bundle_version,
                "id": self.bundle_id,
                "training_data": self.training_data,
                "clinical_use": self.clinical_use,
            },
            "backend": {
                "name": self.backend,
                "description": self.backend_description,
                "reason": self.backend_reason,
            },
            "series": {
                "description": full_description(series) if identify else series.description,
                "slices": len(series),
                "rows": series.shape[0],
                "columns": series.shape[1],
                "notes": list(series.notes),
            },
            "request": self._request(lesion),
            "found": lesion.found,
            "score": _rounded(lesion.score, 4),
            "measurement": _measurement(measurement),
            "slices": _slices(series, lesion, measurement),
            "stop_reasons": list(lesion.stop_reasons),
            "notes": [*lesion.notes, *measurement.notes],
            "seconds": {stage: _rounded(value, 4) for stage, value in self.timings.items()},
        }
        if identify:
            document["identity"] = identity(series)
        return document

    def _request(self, lesion: Lesion) -> dict[str, Any]:
        points = [
            {"x": float(x), "y": float(y), "label": int(label)}
            for (x, y), label in zip(self.prompt.points, self.prompt.labels, strict=True)
        ]
        box = None if self.prompt.box is None else [float(value) for value in self.prompt.box]
        return {
            "slice": lesion.clicked_slice,
            "slice_choice": self.slice_choice,
            "points": points,
            "box": box,
            "score_threshold": _rounded(self.score_threshold, 4),
        }


def installed_version() -> str:
    """Version of the installed samihs, or ``unknown`` in a bare checkout."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("samihs")
    except PackageNotFoundError:
        return "unknown"


def _measurement(measurement: Measurement) -> dict[str, Any]:
    abc = measurement.abc_mm
    return {
        "volume_ml": _rounded(measurement.volume_ml, 3),
        "abc2_ml": _rounded(measurement.abc2_ml, 3),
        "abc_mm": None if abc is None else [_rounded(value, 2) for value in abc],
        "largest_diameter_mm": _rounded(measurement.largest_diameter_mm, 2),
        "largest_diameter_slice": measurement.largest_diameter_slice,
        "height_mm": _rounded(measurement.height_mm, 3),
        "parts": measurement.parts,
        "parts_ml": [_rounded(part, 3) for part in measurement.parts_ml],
        "mean_hu": _rounded(measurement.mean_hu, 1),
        "sd_hu": _rounded(measurement.sd_hu, 1),
    }


def _slices(series: CTSeries, lesion: Lesion, measurement: Measurement) -> list[dict[str, Any]]:
    """One row for each slice of the lesion."""
    said = {part.index: part for part in lesion.slices}
    rows = []
    for each in measurement.slices:
        plane, source = series.planes[each.index], series.sources[each.index]
        rows.append(
            {
                "index": each.index,
                "instance_number": instance_number(source),
                "frame_number": source.frame,
                "position_mm": [_rounded(value, 4) for value in plane.position],
                "along_normal_mm": _rounded(float(np.dot(plane.position, plane.normal)), 4),
                "extent_mm": _rounded(each.extent_mm, 4),
                "area_mm2": _rounded(each.area_mm2, 2),
                "volume_ml": _rounded(each.volume_ml, 4),
                "diameter_mm": _rounded(each.diameter_mm, 2),
                "mean_hu": _rounded(each.mean_hu, 1),
                "score": _rounded(said[each.index].score, 4),
                "origin": said[each.index].origin,
            }
        )
    return rows


def _rounded(value: float | None, digits: int) -> float | None:
    """Rounded for reading; None for None, NaN and infinity, which JSON cannot hold."""
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), digits)
