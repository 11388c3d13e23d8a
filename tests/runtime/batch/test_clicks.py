"""``--clicks``: what a clicks file may hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from samihs_runtime.batch.clicks import read_clicks
from samihs_runtime.errors import UsageError
from samihs_runtime.patient_points import PatientRequest
from samihs_runtime.prompts import Request
from samihs_runtime.segmentation import Prompt


def clicks_file(folder: Path, *entries: Any) -> Path:
    path = folder / "clicks.json"
    path.write_text(json.dumps({"clicks": entries}))
    return path


def test_rows_in_pixels_and_in_mm(tmp_path: Path) -> None:
    pixels, mm, named = read_clicks(
        clicks_file(
            tmp_path,
            {"study": "a", "points": [[3, 4, 2], "5,6"], "negatives": [[7, 8]]},
            {"study": "b.zip", "series": 3, "mm": True, "points": [[1.5, -2, 30]]},
            {"id": "left", "study": "a", "series": None, "slice": 1, "box": [1, 2, 5, 6]},
        )
    )
    assert pixels.id == "1"
    assert pixels.click.study == tmp_path / "a"
    assert pixels.click.request == Request(Prompt(((3, 4), (5, 6), (7, 8)), (1, 1, 0)), 2)
    assert mm.click.request == PatientRequest(((1.5, -2.0, 30.0),), (1,))
    assert mm.click.series == "3"
    assert named.id == "left"
    assert len({row.fingerprint for row in (pixels, mm, named)}) == 3


def test_the_command_lines_study_stands_in(tmp_path: Path) -> None:
    path = clicks_file(tmp_path, {"points": [[1, 2]]})
    assert read_clicks(path, tmp_path / "x")[0].click.study == tmp_path / "x"
    with pytest.raises(UsageError, match="click 1: no study"):
        read_clicks(path)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"study": "a"}, "click 1: nothing was clicked"),
        ({"study": "a", "points": [[1]]}, "form x,y"),
        ({"study": "a", "points": "1,2"}, "expected a list"),
        ({"study": "a", "points": [[True, 2]]}, "expected numbers"),
        ({"study": "a", "points": [[1, 2]], "slice": 1.5}, "whole number"),
        ({"study": "a", "point": [[1, 2]]}, "unknown point; expected some of id, study"),
        ({"study": "a", "points": [[1, 2]], "id": "../x"}, "id '../x'"),
        ({"study": "a", "points": [[1, 2]], "id": ".hidden"}, "letters"),
        ({"study": "a", "mm": True, "points": [[1, 2]]}, "x,y,z"),
        (
            {"study": "a", "mm": True, "points": [[1, 2, 3]], "box": [1, 2, 3, 4]},
            "a box counts pixels or slices, not mm: leave out the box or mm",
        ),
        ({"study": None, "points": [[1, 2]]}, "study None: expected a path"),
        ({"study": "", "points": [[1, 2]]}, "study '': expected a path"),
        ({"study": 3, "points": [[1, 2]]}, "study 3: expected a path"),
        ({"study": "a", "mm": "false", "points": [[1, 2, 3]]}, "mm 'false': expected true or"),
        ({"study": "a", "points": [[1, 2]], "id": "clicks.csv"}, "the results table"),
        ({"study": "a", "points": [[1, 2]], "id": "Clicks.CSV"}, "the results table"),
        ({"study": "a", "points": [[1, 2]], "id": True}, "id True: expected a text or a whole"),
        ({"study": "a", "points": [[1, 2]], "id": ""}, "id ''"),
        ({"study": "a", "points": [[1, 2]], "series": [3]}, "series .3.: expected a text"),
        ("a", "expected an object"),
    ],
)
def test_a_wrong_row_is_named(entry: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=match):
        read_clicks(clicks_file(tmp_path, entry))


@pytest.mark.parametrize("text", ["{", "[]", '{"clicks": 3}', "3", "[" * 100_000])
def test_what_is_no_clicks_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UsageError, match=r"^c\.json"):
        read_clicks(tmp_path / "c.json")
    with pytest.raises(UsageError, match="cannot read"):
        read_clicks(tmp_path / "absent.json")


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = clicks_file(tmp_path, {"study": "a", "points": [[1, 2]]})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_clicks(path)[0].click.study == tmp_path / "a"


@pytest.mark.parametrize("surrogate", [0xD800, 0xDCFC])
def test_a_path_that_is_not_utf_8_is_asked_as_any_other(surrogate: int, tmp_path: Path) -> None:
    """JSON may hold any surrogate; Python reads each byte of a path that is not UTF-8 as one."""
    name = f"M{chr(surrogate)}ller"
    named, other = read_clicks(
        clicks_file(tmp_path, *({"study": each, "points": [[1, 2]]} for each in (name, "Muller")))
    )
    assert named.click.study.name == name
    assert named.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("y", "x", "X"), "the ids x and X are the same, as case does not count"),
        (("x", "y", "x"), "the id x is given twice"),
    ],
)
def test_two_rows_of_one_name_are_refused(
    names: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    rows = [{"id": name, "study": "a", "points": [[1, 2]]} for name in names]
    with pytest.raises(UsageError, match=f"{said}; each needs its own folder"):
        read_clicks(clicks_file(tmp_path, *rows))


def test_a_file_in_another_encoding_is_to_be_saved_as_utf_8(tmp_path: Path) -> None:
    """Windows editors may offer UTF-16 as "Unicode"."""
    path = clicks_file(tmp_path, {"study": "a", "points": [[1, 2]]})
    path.write_text(path.read_text(), encoding="utf-16")
    with pytest.raises(UsageError, match=r"^clicks\.json is not UTF-8 text: save it as UTF-8$"):
        read_clicks(path)
