"""``--clicks``: many clicks in one run, each with a row and a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from samihs_runtime.errors import BackendError, NonFiniteError, PromptError
from tests.runtime.dicom_factory import uid, write_bleed, write_series

from .clicks_runs import ROWS, SEG, counted, failing, run, table
from .test_clicks import clicks_file

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # Click's runner


def test_each_click_gets_a_row_and_a_folder(studies: Path, tiny_bundle: Path) -> None:
    out = studies / "out"
    result = run(clicks_file(studies, *ROWS), tiny_bundle, out)
    assert result.exit_code == 0, result.output
    rows = table(out)
    assert list(rows) == ["a", "b", "c"]
    assert list(rows["a"])[-5:] == ["seconds", "notes", "version", "bundle", "request"]
    for name, row in rows.items():
        report = json.loads((out / name / "report.json").read_text())
        assert row["status"] == ("found" if report["found"] else "not found")
        assert float(row["volume_ml"]) == report["measurement"]["volume_ml"]
        assert row["notes"] == "; ".join(report["notes"])
        assert all(seconds >= 0 for seconds in report["seconds"].values())
    assert {path.name for path in out.iterdir()} == {"a", "b", "c", "clicks.csv"}


def test_every_column_says_what_the_report_does(studies: Path, tiny_bundle: Path) -> None:
    """Of a lesion on several slices: where nothing is found, most are empty."""
    write_bleed(studies / "bleed")
    path = clicks_file(studies, {"id": "a", "study": "bleed", "points": [[36, 30]]})
    assert run(path, tiny_bundle, studies / "out").exit_code == 0
    report = json.loads((studies / "out" / "a" / "report.json").read_text())
    row = table(studies / "out")["a"]
    measured, slices = report["measurement"], report["slices"]
    assert len(slices) > 2
    assert len({part["score"] for part in slices}) > 1
    assert float(row.pop("seconds")) > 0
    assert len(row.pop("request")) == 16
    assert row == {
        "id": "a",
        "status": "found",
        "why": "",
        "reason": "",
        "volume_ml": f"{measured['volume_ml']:.3f}",
        "abc2_ml": f"{measured['abc2_ml']:.3f}",
        "largest_diameter_mm": f"{measured['largest_diameter_mm']:.2f}",
        "parts": str(measured["parts"]),
        "mean_hu": f"{measured['mean_hu']:.1f}",
        "sd_hu": f"{measured['sd_hu']:.1f}",
        "first_slice": str(slices[0]["index"]),
        "clicked_slice": str(report["request"]["slice"]),
        "last_slice": str(slices[-1]["index"]),
        "score": f"{report['score']:.4f}",
        "lowest_score": f"{min(part['score'] for part in slices):.4f}",
        "notes": "; ".join(report["notes"]),
        "version": report["tool"]["version"],
        "bundle": f"tiny {report['model']['id'][:12]}",
    }


def test_a_study_is_read_once_for_its_rows(
    studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = counted(monkeypatch)
    assert run(clicks_file(studies, *ROWS), tiny_bundle, studies / "out").exit_code == 0
    assert reads == ["p1", "p2"]


def test_a_failing_click_stops_no_other_and_is_tried_again(
    studies: Path, tiny_bundle: Path
) -> None:
    missing = {"id": "gone", "study": "p3", "points": [[4, 5, 1]]}
    outside = {"id": "off", "study": "p1", "points": [[400, 5, 1]]}
    path, out = clicks_file(studies, ROWS[0], missing, outside, ROWS[2]), studies / "out"
    result = run(path, tiny_bundle, out)
    assert result.exit_code == 2
    assert "2 of 4 clicks failed" in result.stderr
    rows = table(out)
    assert [row["why"] for row in rows.values()] == ["", "StudyError", "PromptError", ""]
    assert [row["reason"] for row in rows.values()] == ["", "missing", "outside_image", ""]
    assert "p3: no such file" in result.output
    write_series(studies / "p3")
    run(path, tiny_bundle, out)
    assert table(out)["gone"]["status"] != "failed"


def test_a_fault_of_ours_stops_no_other_click(
    studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "b", ValueError("month must be\nin 1..12"))
    out = studies / "out"
    result = run(clicks_file(studies, *ROWS), tiny_bundle, out)
    assert result.exit_code == 2
    assert "1 of 3 clicks failed" in result.stderr
    assert "b: internal error: ValueError: month must be in 1..12" in result.output
    rows = table(out)
    assert [row["why"] for row in rows.values()] == ["", "ValueError", ""]
    assert (rows["b"]["status"], rows["b"]["reason"]) == ("failed", "internal_error")


def test_the_table_tells_why_each_click_failed(studies: Path, tiny_bundle: Path) -> None:
    for name in "xy":
        write_series(studies / "several" / name, StudyInstanceUID=uid(name))
    write_series(studies / "air", hu=np.full((64, 64), -1000, np.int16))
    write_series(studies / "cut")
    for path in (studies / "cut").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    (studies / "text").write_text("no study")
    (studies / "half.zip").write_bytes(b"PK\x03\x04")
    wrong: dict[str, dict[str, Any]] = {
        "missing": {"study": "p3"},
        "no_dicom": {"study": "text"},
        "damaged": {"study": "half.zip"},
        "no_such_series": {"series": 9},
        "several_studies": {"study": "several"},
        "outside_image": {"points": [[400, 5, 1]]},
        "no_such_slice": {"points": [[4, 5, 77]]},
        "outside_series": {"points": [[4, 5, 9000]], "mm": True},
        "no_plausible_hu": {"study": "air", "points": [[4, 5]]},
    }
    rows = [{**ROWS[0], "id": name, **change} for name, change in wrong.items()]
    rows.append({**ROWS[0], "id": "cut", "study": "cut"})
    out = studies / "out"
    result = run(clicks_file(studies, *rows), tiny_bundle, out)
    reasons = {name: row["reason"] for name, row in table(out).items()}
    assert reasons == {**{name: name for name in wrong}, "cut": "damaged"}
    assert "10 of 10 clicks failed" in result.stderr
    said = " ".join(result.output.split())
    assert '(in the clicks file: "slice": N, or a third number in "points")' in said


def test_a_log_has_a_line_for_each_click_that_is_answered(studies: Path, tiny_bundle: Path) -> None:
    path, out = clicks_file(studies, ROWS[0], {**ROWS[1], "study": "p3"}), studies / "out"
    lines = run(path, tiny_bundle, out).output.splitlines()
    status = table(out)["a"]["status"]
    assert [line for line in lines if line.startswith("1 of 2: ")] == [f"1 of 2: a {status}"]
    assert "2 of 2: b failed" in lines
    again = run(path, tiny_bundle, out).output.splitlines()
    assert not [line for line in again if line.startswith("1 of 2: ")]
    assert "2 of 2: b failed" in again


def test_a_backend_that_fails_stops_the_run(
    studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "b", BackendError("the device was lost"))
    result = run(clicks_file(studies, *ROWS), tiny_bundle, studies / "out")
    assert result.exit_code == 2
    assert "the device was lost" in result.stderr
    assert "b: the backend failed at this click" in result.output
    assert list(table(studies / "out")) == ["a"]


@pytest.mark.parametrize("error", [NonFiniteError("NaN"), PromptError("300 points")])
def test_what_the_backend_cannot_answer_of_one_row_stops_no_other(
    error: Exception, studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "b", error)
    result = run(clicks_file(studies, *ROWS), tiny_bundle, studies / "out")
    assert "1 of 3 clicks failed" in result.stderr
    assert [row["why"] for row in table(studies / "out").values()] == ["", type(error).__name__, ""]


def test_an_out_that_is_a_file_is_refused_even_to_overwrite(
    studies: Path, tiny_bundle: Path
) -> None:
    (studies / "out").write_text("x")
    for more in ((), ("--overwrite",)):
        result = run(clicks_file(studies, *ROWS), tiny_bundle, studies / "out", *more)
        assert result.exit_code == 2
        assert "is a file" in result.stderr


def test_a_full_disk_leaves_the_table_as_it_was(
    studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = studies / "out"
    run(clicks_file(studies, *ROWS[:1]), tiny_bundle, out)
    before = table(out)

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    result = run(clicks_file(studies, *ROWS), tiny_bundle, out)
    assert result.exit_code == 2
    assert "clicks.csv cannot be written (No space left on device)" in result.stderr
    assert table(out) == before
    assert [path.name for path in out.iterdir() if path.is_file()] == ["clicks.csv"]


def test_another_folder_is_not_written_into(studies: Path, tiny_bundle: Path) -> None:
    out = studies / "out"
    out.mkdir()
    (out / "mine.txt").write_text("x")
    path = clicks_file(studies, *ROWS)
    result = run(path, tiny_bundle, out)
    assert result.exit_code == 2
    assert "no clicks.csv to go on from" in result.stderr
    assert {each.name for each in out.iterdir()} == {"mine.txt"}
    assert run(path, tiny_bundle, out, "--overwrite").exit_code == 0
    whole = (out / "clicks.csv").read_text()
    for text in ("other,columns\n1,2\n", whole.splitlines()[0] + "\na,found\n"):
        (out / "clicks.csv").write_text(text)
        assert "no table of clicks" in run(path, tiny_bundle, out).stderr


def test_what_lies_in_every_volume_is_nobodys(studies: Path, tiny_bundle: Path) -> None:
    out = studies / "out"
    for name in ("lost+found", ".samihs-0a1b2c3d"):
        (out / name).mkdir(parents=True)
    (out / ".DS_Store").write_text("x")
    assert run(clicks_file(studies, *ROWS), tiny_bundle, out).exit_code == 0


def test_points_beside_a_clicks_file_are_refused(studies: Path, tiny_bundle: Path) -> None:
    path = clicks_file(studies, *ROWS)
    result = run(path, tiny_bundle, studies / "out", "--point", "1,2")
    assert result.exit_code == 2
    assert "--clicks takes points" in result.stderr


def test_lesions_of_one_study_are_told_apart(studies: Path, tiny_bundle: Path) -> None:
    """In an archive they lie side by side."""
    out = studies / "out"
    done = run(
        clicks_file(studies, *ROWS), tiny_bundle, out, "--format", "seg", "--format", "capture"
    )
    assert done.exit_code == 0, done.output
    found = {}
    for name in "abc":
        seg = pydicom.dcmread(out / name / "lesion-seg.dcm")
        capture = pydicom.dcmread(out / name / "contact-sheet.dcm")
        segment = seg.SegmentSequence[0]
        found[name] = (segment.TrackingID, seg.SeriesNumber, capture.SeriesNumber)
        assert segment.SegmentLabel in seg.SeriesDescription
        assert segment.SegmentLabel in capture.SeriesDescription
    assert found["a"] == found["c"] == ("hemorrhage 1", 900, 901)
    assert found["b"] == ("hemorrhage 2", 902, 903)


def test_lesions_of_one_study_stay_apart_when_a_row_comes_before_another(
    studies: Path, tiny_bundle: Path
) -> None:
    out = studies / "out"
    assert run(clicks_file(studies, ROWS[1], ROWS[2]), tiny_bundle, out, *SEG).exit_code == 0
    untouched = (out / "c" / "lesion-seg.dcm").stat().st_mtime_ns
    assert run(clicks_file(studies, *ROWS), tiny_bundle, out, *SEG).exit_code == 0
    numbers = [pydicom.dcmread(out / name / "lesion-seg.dcm").SeriesNumber for name in "ab"]
    assert numbers == [900, 902]
    assert (out / "c" / "lesion-seg.dcm").stat().st_mtime_ns == untouched


def test_what_a_click_has_to_say_is_said(studies: Path, tiny_bundle: Path) -> None:
    done = run(clicks_file(studies, ROWS[0]), tiny_bundle, studies / "out")
    notes = json.loads((studies / "out" / "a" / "report.json").read_text())["notes"]
    assert notes
    for note in notes:
        assert f"a: {note}" in " ".join(done.output.split())


def test_a_list_of_series_is_another_command(studies: Path, tiny_bundle: Path) -> None:
    done = run(clicks_file(studies, ROWS[0]), tiny_bundle, studies / "out", "--list")
    assert done.exit_code == 2
    assert "--list" in done.output
