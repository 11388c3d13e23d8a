"""A file is there whole, or as it was before."""

from __future__ import annotations

from pathlib import Path

import pytest

from samihs_runtime.atomic_file import atomic_path, atomic_write


def test_text_and_bytes_take_the_place_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "Müller.json"
    atomic_write(path, "höher\n")
    assert path.read_bytes() == "höher\n".encode()
    atomic_write(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    atomic_write(path, "before")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as partial:  # noqa: PT012
        partial.write_text("half of it")
        raise ZeroDivisionError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    with atomic_path(path) as first, atomic_path(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # renamed last
