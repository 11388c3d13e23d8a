"""``--clicks`` in a folder that has results: what is kept, what is asked anew, what never goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from samihs_runtime.batch import jobs as batch_jobs
from samihs_runtime.batch import run as batch
from samihs_runtime.errors import OutputError
from samihs_runtime.folder_lock import held_alone
from tests.runtime.dicom_factory import ct_image, dicomdir, save, uid, write_series

from .clicks_runs import ROWS, SEG, counted, failing, run, table
from .test_clicks import clicks_file

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # Click's runner


def test_a_run_that_was_cut_off_goes_on_where_it_was(
    studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = clicks_file(studies, *ROWS), studies / "out"
    real, answered = batch.answer_click, []

    def pulled_plug(*arguments: Any) -> Any:
        answered.append(1)
        if len(answered) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(batch, "answer_click", pulled_plug)
    cut_off = run(path, tiny_bundle, out)
    assert cut_off.exit_code == 130
    assert "2 of 3 clicks done; the same command continues" in cut_off.output
    assert list(table(out)) == ["a", "b"]
    monkeypatch.setattr(batch, "answer_click", real)
    before = (out / "a" / "report.json").stat().st_mtime_ns
    reads = counted(monkeypatch)
    again = run(path, tiny_bundle, out)
    assert again.exit_code == 0
    assert "2 of 3 clicks were answered before" in again.output
    assert reads == ["p2"]
    assert (out / "a" / "report.json").stat().st_mtime_ns == before
    assert list(table(out)) == ["a", "b", "c"]


def test_a_run_that_overwrites_and_was_cut_off_says_how_to_go_on(
    studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = clicks_file(studies, *ROWS), studies / "out"
    failing(monkeypatch, "b", KeyboardInterrupt())
    cut_off = run(path, tiny_bundle, out, "--overwrite")
    assert cut_off.exit_code == 130
    said = " ".join(cut_off.output.split())
    assert "1 of 3 clicks done; the same command without --overwrite continues" in said


def test_a_changed_row_or_setting_is_answered_anew(
    studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = studies / "out"
    run(clicks_file(studies, *ROWS), tiny_bundle, out)
    reads = counted(monkeypatch)
    moved = {**ROWS[2], "points": [[5, 5, 1]]}
    assert run(clicks_file(studies, *ROWS[:2], moved), tiny_bundle, out).exit_code == 0
    assert reads == ["p2"]
    path = clicks_file(studies, *ROWS)
    assert run(path, tiny_bundle, out, "--no-propagation").exit_code == 0
    assert reads == ["p2", "p1", "p2"]
    threshold = ("--no-propagation", "--score-threshold", "0.9")
    assert run(path, tiny_bundle, out, *threshold).exit_code == 0
    assert reads == ["p2", "p1", "p2", "p1", "p2"]
    assert run(path, tiny_bundle, out, *threshold).exit_code == 0
    assert reads == ["p2", "p1", "p2", "p1", "p2"]


def test_another_versions_answers_are_not_kept(
    studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = clicks_file(studies, *ROWS), studies / "out"
    run(path, tiny_bundle, out)
    reads = counted(monkeypatch)
    run(path, tiny_bundle, out)
    assert reads == []
    monkeypatch.setattr(batch_jobs, "installed_version", lambda: "99.0")
    assert run(path, tiny_bundle, out).exit_code == 0
    assert reads == ["p1", "p2"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"points": [[4, 5, 77]]}, "PromptError"),
        ({"series": 9}, "SeriesError"),
        ({"study": "several"}, "SeriesError"),
        ({"study": "uneven"}, "FormatError"),
    ],
)
def test_a_refused_request_leaves_no_answer_to_the_one_before(
    change: dict[str, Any], why: str, studies: Path, tiny_bundle: Path
) -> None:
    out, nifti = studies / "out", ("--format", "nifti")
    for name in "xy":
        write_series(studies / "several" / name, StudyInstanceUID=uid(name))
    for index, height in enumerate((0.0, 5.0, 7.0)):
        save(ct_image(index, position=(0.0, 0.0, height)), studies / "uneven" / f"IM{index}")
    run(clicks_file(studies, ROWS[0]), tiny_bundle, out, *nifti)
    assert (out / "a" / "report.json").is_file()
    done = run(clicks_file(studies, {**ROWS[0], **change}), tiny_bundle, out, *nifti)
    assert done.exit_code == 2
    row = table(out)["a"]
    assert (row["status"], row["why"]) == ("failed", why)
    assert list((out / "a").iterdir()) == []


def test_an_answer_that_cannot_be_removed_stops_no_other_click(
    studies: Path, tiny_bundle: Path
) -> None:
    """As in a folder that may not be written, which does not bind root."""
    out = studies / "out"
    run(clicks_file(studies, ROWS[1]), tiny_bundle, out)
    (out / "a" / "report.json").mkdir(parents=True)
    (out / "a" / "overlay.png").touch()
    outside = {**ROWS[0], "points": [[4, 5, 77]]}
    done = run(clicks_file(studies, outside, ROWS[2]), tiny_bundle, out)
    assert "1 of 2 clicks failed" in done.stderr
    said = " ".join(done.output.split())
    assert "a: an earlier answer cannot be removed from" in said
    assert [row["why"] for row in table(out).values()] == ["PromptError", "", ""]
    assert [path.name for path in (out / "a").iterdir()] == ["report.json"]


def test_a_file_in_place_of_a_clicks_folder_stops_no_other_click(
    studies: Path, tiny_bundle: Path
) -> None:
    out = studies / "out"
    run(clicks_file(studies, ROWS[1]), tiny_bundle, out)
    (out / "a").touch()
    outside = {**ROWS[0], "points": [[4, 5, 77]]}
    done = run(clicks_file(studies, outside, ROWS[2]), tiny_bundle, out)
    assert "1 of 2 clicks failed" in done.stderr
    assert list(table(out)) == ["a", "c", "b"]


@pytest.mark.parametrize("existed", [True, False])
def test_only_a_folder_that_the_run_made_goes_with_its_failure(
    existed: bool, studies: Path, tiny_bundle: Path
) -> None:
    out = studies / "out"
    if existed:
        out.mkdir()
    done = run(clicks_file(studies, *ROWS), studies / "absent", out)
    assert done.exit_code == 2
    assert out.exists() == existed


@pytest.mark.parametrize("gone", ["absent", "empty", "locked"])
def test_a_study_that_cannot_be_looked_at_costs_no_earlier_result(
    gone: str, studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a share is not mounted; the other clicks are answered."""
    path, out = clicks_file(studies, *ROWS), studies / "out"
    assert run(path, tiny_bundle, out).exit_code == 0
    before = table(out)
    if gone == "locked":
        lock(studies / "p1", monkeypatch)
    else:
        (studies / "p1").rename(studies / "elsewhere")
        if gone == "empty":
            (studies / "p1").mkdir()
    (out / "c" / "report.json").unlink()
    done = run(path, tiny_bundle, out)
    assert done.exit_code == 2
    assert "2 of 3 clicks failed" in done.stderr
    after = table(out)
    assert [after[name] for name in "ab"] == [before[name] for name in "ab"]
    assert all((out / name / "report.json").is_file() for name in "abc")


def test_a_full_disk_costs_no_earlier_result(
    studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = clicks_file(studies, ROWS[0]), studies / "out"
    run(path, tiny_bundle, out)
    before = table(out)
    failing(monkeypatch, "a", OutputError("No space left on device"))
    assert run(path, tiny_bundle, out, "--no-propagation").exit_code == 2
    assert table(out) == before
    assert (out / "a" / "report.json").is_file()


@pytest.mark.parametrize("study", ["p1", "IM0"])
def test_a_study_within_our_folder_is_known_again(
    study: str, studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(ct_image(), studies / "IM0")
    path = clicks_file(studies, {"id": "a", "study": study, "points": [[4, 5, 0]]})
    assert run(path, tiny_bundle, studies, "--overwrite").exit_code == 0
    reads = counted(monkeypatch)
    assert run(path, tiny_bundle, studies).exit_code == 0
    assert reads == []
    save(ct_image(WindowCenter=40), studies / study / ("IM0" if study == "p1" else ""))
    assert run(path, tiny_bundle, studies).exit_code == 0
    assert reads == [study]


def test_files_that_a_dicomdir_refers_to_are_a_part_of_its_state(
    studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dicomdir(studies / "p1", [[f"IM{index}"] for index in range(4)])
    path = clicks_file(studies, {**ROWS[0], "study": "p1/DICOMDIR"})
    out = studies / "p1" / "out"
    assert run(path, tiny_bundle, out).exit_code == 0
    reads = counted(monkeypatch)
    assert run(path, tiny_bundle, out).exit_code == 0
    assert reads == []
    write_series(studies / "p1", WindowCenter=40)
    assert run(path, tiny_bundle, out).exit_code == 0
    assert reads == ["DICOMDIR"]


@pytest.mark.parametrize("more", [("--overwrite",), SEG, ("--overwrite", *SEG)])
def test_no_run_drops_the_rows_of_other_clicks(
    more: tuple[str, ...], studies: Path, tiny_bundle: Path
) -> None:
    out = studies / "out"
    run(clicks_file(studies, *ROWS), tiny_bundle, out)
    before = table(out)
    another = {"id": "d", "study": "p2", "points": [[6, 5, 2]]}
    assert run(clicks_file(studies, ROWS[1], another), tiny_bundle, out, *more).exit_code == 0
    after = table(out)
    assert list(after) == ["b", "d", "a", "c"]
    assert [after[name] for name in "ac"] == [before[name] for name in "ac"]


def test_overwriting_asks_every_click_of_the_file_anew(
    studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = clicks_file(studies, *ROWS), studies / "out"
    run(path, tiny_bundle, out)
    reads = counted(monkeypatch)
    assert run(path, tiny_bundle, out, "--overwrite").exit_code == 0
    assert reads == ["p1", "p2"]


def test_rows_of_clicks_that_are_no_longer_asked_for_stay(studies: Path, tiny_bundle: Path) -> None:
    out = studies / "out"
    run(clicks_file(studies, *ROWS), tiny_bundle, out)
    before = table(out)
    assert run(clicks_file(studies, ROWS[1]), tiny_bundle, out).exit_code == 0
    after = table(out)
    assert set(after) == {"a", "b", "c"}
    assert after["a"] == before["a"]


@pytest.mark.parametrize("change", ["study", "file", "nothing"])
def test_what_has_changed_is_done_again(
    change: str, studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = studies / "p1" / "out"  # within the study: our own files are no change of it
    path = clicks_file(studies, ROWS[0])
    run(path, tiny_bundle, out)
    if change == "study":
        write_series(studies / "p1", count=3)
    if change == "file":
        (out / "a" / "report.json").unlink()
    reads = counted(monkeypatch)
    assert run(path, tiny_bundle, out).exit_code == 0
    assert reads == ([] if change == "nothing" else ["p1"])
    assert (out / "a" / "report.json").is_file()


def test_a_second_run_is_refused_while_the_first_one_answers(
    studies: Path, tiny_bundle: Path
) -> None:
    path, out = clicks_file(studies, *ROWS), studies / "out"
    out.mkdir()
    with held_alone(out, "answers clicks"):
        result = run(path, tiny_bundle, out)
        assert result.exit_code == 2, result.output
        assert "another process answers clicks in" in result.output
    assert run(path, tiny_bundle, out).exit_code == 0
    assert len(table(out)) == len(ROWS)


def lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a folder behind one that may not be entered is to its user (root may enter any)."""
    real = Path.stat

    def refused(self: Path, **options: Any) -> Any:
        if self.is_relative_to(folder):
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, **options)

    monkeypatch.setattr(Path, "stat", refused)
