"""How commands end: one line and an exit code, whatever was raised."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import CliRunner, Result

from samihs_runtime import errors
from samihs_runtime.errors import PromptError, Reason, SamihsError, StudyError, one_line_errors

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # Click's runner


def run(error: BaseException) -> Result:
    @click.command()
    @one_line_errors
    def command() -> None:
        raise error

    return CliRunner().invoke(command)


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("no such attribute"),
        ImportError("no such library"),
        AssertionError("never"),
        ZeroDivisionError("division by zero"),
        zlib.error("incorrect header check"),
        ExceptionGroup("several", [ValueError("one")]),
        OSError("disk"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_fault_of_ours_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAMIHS_DEBUG", raising=False)
    result = run(error)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"internal error: {type(error).__name__}: ")
    assert result.stderr.count("\n") == 1
    monkeypatch.setenv("SAMIHS_DEBUG", "1")
    assert run(error).exception is error


def test_errors_on_purpose_bring_their_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAMIHS_DEBUG", raising=False)
    for error, code in ((StudyError("no\nseries"), 2), (SamihsError("no\nseries"), 1)):
        result = run(error)
        assert (result.exit_code, result.stderr) == (code, "error: no series\n")


def test_the_tree_at_the_top_of_the_module_is_the_tree() -> None:
    from samihs_runtime.backends import cuda, onnx_cuda, tensorrt  # noqa: F401  whatever they add

    def names(kind: type[SamihsError]) -> set[str]:
        return {kind.__name__}.union(*map(names, kind.__subclasses__()))

    drawn = re.findall(r"^(?:[\s│├└─]*)(\w+Error)  ", str(errors.__doc__), re.MULTILINE)
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == names(SamihsError)


def test_every_reason_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "clicking.md").read_text()
    documented = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert documented == [reason for reason in get_args(Reason) if reason]


def test_a_reason_stays_with_its_error() -> None:
    error = PromptError("slice 9", reason="no_such_slice")
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert (str(each), each.reason, each.args) == ("slice 9", "no_such_slice", ("slice 9",))
    assert StudyError("no series").reason == ""


def test_an_interruption_is_said() -> None:
    result = run(KeyboardInterrupt())
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (click.UsageError("no such thing"), 2, "Error: no such thing"),
        (click.FileError("a.txt", "locked"), 1, "Could not open file"),
        (click.Abort(), 1, "Aborted!"),
        (click.exceptions.Exit(3), 3, ""),
    ],
    ids=lambda each: type(each).__name__,
)
def test_clicks_own_exceptions_are_clicks_to_handle(error: Exception, code: int, said: str) -> None:
    result = run(error)
    assert result.exit_code == code
    assert said in result.stderr
    assert "internal error" not in result.stderr


def test_a_terminal_of_few_characters_ends_no_command() -> None:
    body = """
import click
from samihs_runtime.errors import one_line_errors

@click.command()
@one_line_errors
def command():
    print("254 mm\\N{SUPERSCRIPT TWO}")

command()
"""
    surroundings = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", body], env=surroundings, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "254 mm?\n", "")
