"""A command whose output nobody reads does its work all the same, and ends as it would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .dicom_factory import write_bleed

COMMAND = """
import sys
from pathlib import Path

import click
from rich.console import Console

from samihs_runtime.errors import StudyError, one_line_errors

@click.command()
@click.argument("done")
@click.argument("end")
@one_line_errors
def command(done, end):
    for _ in range(3):
        print("printed")
        click.echo("echoed")
        Console().print("shown")
        print("told", file=sys.stderr)
    Path(done).write_text("done")
    if end == "refused":
        raise StudyError("no series")
    print("not flushed", end="")

command()
"""


@contextmanager
def unread_pipe() -> Iterator[int]:
    """The end to write to of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    try:
        yield write
    finally:
        os.close(write)


@pytest.mark.parametrize("python", [[], ["-u"]], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(("end", "code"), [("well", 0), ("refused", 2)])
@pytest.mark.parametrize("stderr", ["read", "unread"])
def test_work_goes_on_when_nobody_reads(
    stderr: str, end: str, code: int, python: list[str], tmp_path: Path
) -> None:
    with unread_pipe() as unread:
        done = subprocess.run(
            [sys.executable, *python, "-c", COMMAND, tmp_path / "done", end],
            stdout=unread,
            stderr=subprocess.PIPE if stderr == "read" else unread,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == code
    assert (tmp_path / "done").read_text() == "done"
    if stderr == "read":
        assert done.stderr == "told\n" * 3 + ("error: no series\n" if code else "")


def test_what_is_read_stays_as_it_was(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, tmp_path / "done", "well"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0
    assert done.stdout == "printed\nechoed\nshown\n" * 3 + "not flushed"
    assert done.stderr == "told\n" * 3


@pytest.mark.parametrize("many", [False, True], ids=["one click", "many clicks"])
def test_results_are_written_when_nobody_reads(
    many: bool, tiny_bundle: Path, tmp_path: Path
) -> None:
    study, out = write_bleed(tmp_path / "study"), tmp_path / "out"
    clicks = tmp_path / "clicks.json"
    clicks.write_text('[{"id": "a", "study": "study", "points": [[36, 30, 2]]}]')
    click = ["--clicks", clicks] if many else [study, "--point", "36,30,2"]
    with unread_pipe() as unread:
        done = subprocess.run(
            [sys.executable, "-m", "samihs_runtime.cli", *click, "--bundle", tiny_bundle,
             "--out", out, "--format", "json"],
            stdout=unread,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=120,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (out / "a" / "report.json" if many else out / "report.json").is_file()
