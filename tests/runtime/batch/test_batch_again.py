"""``--clicks`` in a folder that has results: what is kept, what is asked anew, what never goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from samihs_runtime.batch import jobs as batch_jobs
from samihs_runtime.batch import run as batch
from samihs_runtime.errors import OutputError
from samihs_runtime.folder_lock import held_alone
from tests.runtime.dicom_factory import dicomdir, write_series

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
    assert run(path, tiny_bundle, out).exit_code == 130
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


def test_a_changed_row_or_setting_is_answered_anew(
    studies: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = studies / "out"
    run(clicks_file(studies, *ROWS), tiny_bundle, out)
    reads = counted(monkeypatch)
    moved = {**ROWS[2], "points": [[5, 5, 1]]}
    assert run(clicks_file(studies, *ROWS[:2], moved), tiny_bundle, out).exit_code == 0
    assert reads == ["p2"]
    assert run(clicks_file(studies, *ROWS), tiny_bundle, out, "--no-propagation").exit_code == 0
    assert reads == ["p2", "p1", "p2"]


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


def test_a_failed_click_leaves_no_earlier_answer_in_its_folder(
    studies: Path, tiny_bundle: Path
) -> None:
    out = studies / "out"
    run(clicks_file(studies, ROWS[0]), tiny_bundle, out)
    assert (out / "a" / "report.json").is_file()
    done = run(clicks_file(studies, {**ROWS[0], "points": [[4, 5, 77]]}), tiny_bundle, out)
    assert done.exit_code == 2
    assert table(out)["a"]["status"] == "failed"
    assert not (out / "a" / "report.json").exists()


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
