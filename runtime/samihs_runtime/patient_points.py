"""Clicks in patient coordinates (``--mm``), which are located once the series has been read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from samihs_runtime.errors import PromptError, UsageError
from samihs_runtime.geometry import is_inside, nearest_slice, to_pixel
from samihs_runtime.prompts import Request, numbers
from samihs_runtime.segmentation import BACKGROUND, FOREGROUND, Prompt

if TYPE_CHECKING:
    from samihs_runtime.series import CTSeries

Point = tuple[float, float, float]


@dataclass(frozen=True)
class PatientRequest:
    """One lesion to look for, by points in DICOM's LPS (PS3.3 C.7.6.2.1.1), mm."""

    points: tuple[Point, ...]
    labels: tuple[int, ...]
    """One per point: 1 foreground, 0 background."""

    def on(self, series: CTSeries) -> Request:
        """The same request in pixels of the slice nearest to its points.

        Raises:
            PromptError: a point lies outside the series, or the points lie on different slices.
        """
        feet = [_foot(series, point) for point in self.points]
        slices = sorted({index for index, _, _ in feet})
        if len(slices) > 1:
            named = ", ".join(map(str, slices))
            raise PromptError(
                f"the points lie on different slices ({named}): one lesion, one slice",
                reason="different_slices",
            )
        return Request(Prompt(tuple((x, y) for _, x, y in feet), self.labels), slices[0])


def parse_patient_request(
    points: Sequence[str],
    negatives: Sequence[str] = (),
    box: str | None = None,
    slice_index: int | None = None,
) -> PatientRequest:
    """The texts of ``--point`` and ``--negative`` as ``x,y,z`` in mm.

    Raises:
        UsageError: a box or a slice was given as well, which refer to the image, not the patient.
        PromptError: a text that is not such a point, or no point at all.
    """
    if box is not None or slice_index is not None:
        named = "box" if box is not None else "slice"
        raise UsageError(f"a {named} counts pixels or slices, not mm: leave out the {named} or mm")
    if not points:
        raise PromptError("nothing was clicked: give a point x,y,z in mm")
    texts = [*points, *negatives]
    labels = (FOREGROUND,) * len(points) + (BACKGROUND,) * len(negatives)
    return PatientRequest(tuple(_point(text) for text in texts), labels)


def resolve(request: Request | PatientRequest, series: CTSeries) -> Request:
    """The request in pixels, whichever way it was given."""
    return request.on(series) if isinstance(request, PatientRequest) else request


def _foot(series: CTSeries, point: Point) -> tuple[int, float, float]:
    index, x, y = nearest_slice(series.planes, point)
    away = abs(to_pixel(series.planes[index], point)[2])
    reach = float(series.extents_mm[index])  # half would do if points were exact
    if away > reach or not is_inside(x, y, series.shape):
        place = ",".join(f"{value:g}" for value in point)
        raise PromptError(
            f"the point {place} mm lies outside the series: {away:.1f} mm from the plane of slice "
            f"{index}, at its column {x:.0f} and row {y:.0f} (of {series.shape[1]} and "
            f"{series.shape[0]}); expected LPS mm, as DICOM has them",
            reason="outside_series",
        )
    return index, x, y


def _point(text: str) -> Point:
    x, y, z = numbers(text, (3,), "x,y,z (mm, DICOM's LPS)")
    return x, y, z
