"""``--mm``: the same spot, whether in pixels or in the patient's millimetres."""

from __future__ import annotations

import numpy as np
import pytest

from samihs_runtime.errors import PromptError, UsageError
from samihs_runtime.patient_points import parse_patient_request, resolve
from samihs_runtime.prompts import parse_request
from samihs_runtime.series import CTSeries

from .series_factory import make_series


def text(point: np.ndarray) -> str:  # type: ignore[type-arg]
    return ",".join(repr(float(value)) for value in point)


@pytest.mark.parametrize("tilt", [0.0, 18.5, -24.0])
def test_a_pixels_place_leads_back_to_the_pixel(tilt: float) -> None:
    series = make_series(tilt_deg=tilt)
    for index in range(len(series)):
        place = series.planes[index].to_patient(20, 41)
        request = parse_patient_request([text(place)]).on(series)
        assert request.slice_index == index
        np.testing.assert_allclose(request.prompt.points, [(20, 41)], atol=1e-9)


def test_negatives_keep_their_label() -> None:
    series = make_series()
    plane = series.planes[2]
    request = parse_patient_request(
        [text(plane.to_patient(20, 41))], [text(plane.to_patient(5, 6))]
    ).on(series)
    assert request.prompt.labels == (1, 0)


def test_the_nearest_slice_is_meant() -> None:
    series = make_series()  # slices 5 mm apart
    place = series.planes[2].to_patient(20, 41) + series.planes[2].normal * 2.0
    assert parse_patient_request([text(place)]).on(series).slice_index == 2


def far(series: CTSeries) -> list[str]:
    top = series.planes[-1]
    return [text(top.to_patient(20, 41) + top.normal * 20)]


def beside(series: CTSeries) -> list[str]:
    return [text(series.planes[1].to_patient(-3, 20))]


def apart(series: CTSeries) -> list[str]:
    return [text(series.planes[index].to_patient(20, 41)) for index in (1, 3)]


@pytest.mark.parametrize(
    ("points", "match"), [(far, "outside the series"), (beside, "LPS"), (apart, "1, 3")]
)
def test_what_is_not_in_one_slice_is_refused(points: object, match: str) -> None:
    series = make_series()
    assert callable(points)
    with pytest.raises(PromptError, match=match):
        parse_patient_request(points(series)).on(series)


@pytest.mark.parametrize("point", ["1,2", "1,2,3,4", "a,b,c", "nan,0,0"])
def test_a_malformed_point_is_refused(point: str) -> None:
    with pytest.raises(PromptError, match="x,y,z"):
        parse_patient_request([point])


def test_image_options_beside_it_are_refused() -> None:
    with pytest.raises(UsageError, match="a box counts"):
        parse_patient_request(["1,2,3"], box="1,2,3,4")
    with pytest.raises(UsageError, match="a slice counts"):
        parse_patient_request(["1,2,3"], slice_index=0)
    with pytest.raises(PromptError, match="nothing was clicked"):
        parse_patient_request([], ["1,2,3"])


def test_a_request_in_pixels_stays_as_it_is() -> None:
    request = parse_request(["1,2,3"])
    assert resolve(request, make_series()) is request
