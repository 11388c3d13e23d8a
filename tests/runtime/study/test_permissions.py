"""Files and folders that may not be read: named, never left out without a word."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samihs_runtime.errors import StudyError
from samihs_runtime.study import list_series, read_study
from tests.runtime.dicom_factory import ct_image, dicomdir, save, write_series


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As permissions would, which do not bind root: what has one of these names does not open."""
    opens, lists = Path.open, os.scandir

    def refuse(path: str | Path) -> None:
        if Path(path).name in names:
            raise PermissionError(13, "Permission denied", str(path))

    def open_(path: Path, *args: Any, **options: Any) -> Any:
        refuse(path)
        return opens(path, *args, **options)

    def scandir(path: str) -> Any:
        refuse(path)
        return lists(path)

    monkeypatch.setattr(Path, "open", open_)
    monkeypatch.setattr(os, "scandir", scandir)


def test_files_that_may_not_be_read_are_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last slices among them: no gap shows that they are missing."""
    write_series(tmp_path, 6)
    write_series(tmp_path / "more", 2)
    forbid(monkeypatch, "IM4", "IM5", "more")
    series = read_study(tmp_path)
    assert len(series) == 4
    assert series.notes == ("3 files or folders unreadable (permissions): IM4, IM5, more",)


def test_where_no_file_may_be_read_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_series(tmp_path / "study", 5)
    (study / "notes.txt").write_text("hello")
    forbid(monkeypatch, *(f"IM{k}" for k in range(5)))
    unread = r"5 files or folders unreadable \(permissions\): IM0, IM1, IM2"
    with pytest.raises(StudyError, match=f"study: no DICOM image among 6 files; {unread}; expect"):
        read_study(study)
    forbid(monkeypatch, "study")
    with pytest.raises(StudyError, match=r"no DICOM image; 1 file or folder .*: study; "):
        list_series(study)


def test_a_folder_that_may_be_listed_but_not_entered_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path)
    stats = Path.stat

    def stat(path: Path, **options: Any) -> os.stat_result:
        if path.name == "IM3":
            raise PermissionError(13, "Permission denied", str(path))
        return stats(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert read_study(tmp_path).notes == ("1 file or folder unreadable (permissions): IM3",)


def lock(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As a folder that may not be entered: what lies in it cannot even be asked for."""
    stats = Path.stat

    def stat(path: Path, **options: Any) -> os.stat_result:
        if folder in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stats(path, **options)

    monkeypatch.setattr(Path, "stat", stat)


@pytest.mark.parametrize("read", [read_study, list_series])
@pytest.mark.parametrize("name", ["", "IM0", "nowhere"])
def test_a_study_behind_a_locked_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], name: str
) -> None:
    path = write_series(tmp_path / "locked" / "study") / name
    lock(monkeypatch, tmp_path / "locked")
    with pytest.raises(StudyError, match=rf"^{path.name}: cannot be read \(Permission denied\)$"):
        read(path)


def test_a_study_below_a_file_or_with_an_impossible_name_is_refused(tmp_path: Path) -> None:
    save(ct_image(0), tmp_path / "IM0")
    with pytest.raises(StudyError, match=r"^IM1: no such file or folder$"):
        read_study(tmp_path / "IM0" / "IM1")
    with pytest.raises(StudyError, match="cannot be read"):
        read_study(tmp_path / "a\0b")


def test_a_folder_of_a_dicomdir_that_is_locked_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path, 3)
    save(ct_image(3), tmp_path / "LOCKED" / "IM3")
    path = dicomdir(tmp_path, [*([f"IM{k}"] for k in range(3)), ["LOCKED", "IM3"]])
    lock(monkeypatch, tmp_path / "LOCKED")
    assert read_study(path).notes == ("1 file or folder unreadable (permissions): IM3",)


def test_a_file_of_a_dicomdir_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path)
    path = dicomdir(tmp_path, [[f"IM{k}"] for k in range(4)])
    forbid(monkeypatch, "IM3")
    assert read_study(path).notes == ("1 file or folder unreadable (permissions): IM3",)
