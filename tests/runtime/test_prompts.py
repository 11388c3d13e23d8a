"""What ``--point``, ``--negative``, ``--box`` and ``--slice`` accept, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest

from samihs_runtime.errors import PromptError
from samihs_runtime.patient_points import PatientRequest
from samihs_runtime.prompts import Request, check_inside, check_prompt, parse_request
from samihs_runtime.segmentation import Prompt

from .series_factory import make_series


def test_points_negatives_and_slice_become_one_prompt() -> None:
    request = parse_request(["10,20,3"], ["30,40"], slice_index=3)
    assert request == Request(Prompt(((10, 20), (30, 40)), (1, 0)), 3)


def test_a_point_prompt_has_exactly_one_pad_and_a_box_none() -> None:
    points, labels = parse_request(["10,20"]).prompt.arrays()
    assert labels.tolist() == [1, -1]
    np.testing.assert_array_equal(points, [[10, 20], [0, 0]])
    points, labels = parse_request(["10,20"], box="1,2,30,40").prompt.arrays()
    assert labels.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(points, [[10, 20], [1, 2], [30, 40]])


@pytest.mark.parametrize("text", ["", "1", "a,b", "1,2,3,4", "1;2", "nan,2", "inf,2", "1,2,0.5"])
def test_a_malformed_point_is_refused(text: str) -> None:
    with pytest.raises(PromptError, match=r"form|whole number"):
        parse_request([text])


@pytest.mark.parametrize("box", ["1,2,3", "5,5,5,9", "5,5,9,4", "a,b,c,d"])
def test_a_malformed_or_empty_box_is_refused(box: str) -> None:
    with pytest.raises(PromptError, match=r"form|empty"):
        parse_request([], box=box)


def test_clicks_on_different_slices_are_refused() -> None:
    with pytest.raises(PromptError, match="different slices"):
        parse_request(["1,2,3", "1,2,4"])
    with pytest.raises(PromptError, match="different slices"):
        parse_request(["1,2,3"], slice_index=5)


def test_nothing_clicked_is_refused() -> None:
    with pytest.raises(PromptError, match="nothing was clicked"):
        parse_request([], ["1,2"])


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        (parse_request(["64,0"]), r"point 64,0 .* of 64 columns and 32 rows.* 0 to 63"),
        (parse_request(["0,-1"]), "outside the image"),
        (parse_request(["0,0,5"]), "0 to 4"),
        (parse_request(["0,0"], slice_index=-1), "out of range"),
        (parse_request([], box="0,0,99,9"), "box corner 99,9 lies outside the image"),
    ],
)
def test_what_lies_outside_is_refused(request_: Request, match: str) -> None:
    with pytest.raises(PromptError, match=match):
        check_inside(request_, shape=(32, 64), slices=5)


@pytest.mark.parametrize(
    ("x", "y", "inside"),
    [
        (-0.5, -0.5, True),
        (63.4999, 31.4999, True),
        (63.5, 3, False),
        (3, 31.5, False),
        (-0.5001, 3, False),
        (3, -0.5001, False),
    ],
)
def test_the_edge_of_the_image_is_the_same_to_every_check(x: float, y: float, inside: bool) -> None:
    """Before the study is encoded, in patient coordinates, and before the decoder."""
    series = make_series((0.0, 5.0), shape=(32, 64), spacing=(0.5, 0.5))
    request = Request(Prompt(((x, y),), (1,)), 1)
    mm = tuple(map(float, series.planes[1].to_patient(x, y)))
    checks: list[Callable[[], object]] = [
        lambda: check_inside(request, (32, 64), 2),
        lambda: PatientRequest(((mm[0], mm[1], mm[2]),), (1,)).on(series),
        lambda: check_prompt(request.prompt, 32, 64),
    ]
    for check in checks:
        with nullcontext() if inside else pytest.raises(PromptError, match="lies outside"):
            check()


def test_the_last_pixel_and_the_last_slice_are_inside() -> None:
    check_inside(parse_request(["63,31,4"]), shape=(32, 64), slices=5)
