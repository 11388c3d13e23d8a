"""Runs of ``--clicks`` for tests: three clicks in two studies, and what came of them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from samihs_runtime.batch import run as batch
from samihs_runtime.batch.clicks import TABLE_NAME
from samihs_runtime.cli import main


def run(path: Path, bundle: Path, out: Path, *more: object) -> Result:
    arguments = ["--clicks", path, "--bundle", bundle, "--out", out, "--format", "json", *more]
    return CliRunner().invoke(main, [str(each) for each in arguments])


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / TABLE_NAME).open(newline="") as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


SEG = ("--format", "seg")


ROWS = (
    {"id": "a", "study": "p1", "points": [[4, 5, 1]]},
    {"id": "b", "study": "p1", "points": [[6, 5, 2]]},
    {"id": "c", "study": "p2", "points": [[4, 5, 1]]},
)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reads: list[str] = []
    real = batch.read_study

    def reading(path: Path, **options: Any) -> Any:
        reads.append(path.name)
        return real(path, **options)

    monkeypatch.setattr(batch, "read_study", reading)
    return reads


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """Let the click of this id end in an error."""
    real = batch.answer_click

    def answering(*arguments: Any) -> Any:
        if arguments[3].out.name == name:
            raise error
        return real(*arguments)

    monkeypatch.setattr(batch, "answer_click", answering)
