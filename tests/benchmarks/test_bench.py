"""`make bench` has a time limit, and reports what exceeds it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import ModuleType

import bench
import pytest
from bench import ELSEWHERE, SUITES, Suite
from record import Record
from stopwatch import Budget


def test_the_shares_of_all_suites_are_below_15_minutes() -> None:
    assert sum(suite.seconds for suite in SUITES.values()) <= 14 * 60


def test_a_benchmark_is_in_a_suite_or_help_says_why_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Benchmarks are the scripts with the option ``--results``, which ``command_line`` adds."""
    sources = {path.stem: path.read_text() for path in Path(bench.__file__).parent.glob("*.py")}
    benchmarks = {name for name, text in sources.items() if "= command_line(" in text} - {"bench"}
    in_suites = {name for name in benchmarks if isinstance(getattr(bench, name, None), ModuleType)}
    assert "robustness" in in_suites
    assert benchmarks - in_suites <= {script.partition(".")[0] for script in ELSEWHERE}
    monkeypatch.setattr(sys, "argv", ["bench.py", "--help"])
    with pytest.raises(SystemExit):
        bench.main()
    told = " ".join(capsys.readouterr().out.split())
    assert all(f"{script} {why}" in told for script, why in ELSEWHERE.items())


def test_a_suite_that_is_cut_short_or_over_its_share_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(budget: Budget) -> Record:
        list(budget.rounds(5, "rounds"))
        return Record("quick", ())

    suite = Suite(1e-9, measured, lambda: Record("quick", ()), lambda: Record("quick", ()))
    monkeypatch.setitem(SUITES, "quick", suite)
    bench.run("quick", "usual", tmp_path)
    said = capsys.readouterr().out
    assert "cut short by its share of 0 s: rounds: 2 of 5" in said
    assert "quick: over its share" in said
    bench.run("quick", "full", tmp_path)
    said = capsys.readouterr().out
    assert "share" not in said
    assert len(list(tmp_path.iterdir())) == 1


def test_a_brief_run_writes_to_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(*_: object) -> Record:
        return Record("quick", ())

    monkeypatch.setitem(SUITES, "quick", Suite(0, made, made, made))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["bench.py", "--only", "quick", "--brief"])
    bench.main()
    (folder,) = tmp_path.iterdir()
    assert {each.name for each in folder.iterdir()} >= {"REPORT.md"}
    assert f"written  {folder}" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--results", str(tmp_path / "named")])
    bench.main()
    assert list((tmp_path / "named").glob("quick-*.json"))
