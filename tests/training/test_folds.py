"""Folds: no patient in two, volumes alike, seeded; the authors' table leaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from samihs_runtime.errors import DataError, OutputError, UsageError
from samihs_training.cli import main
from samihs_training.data import cli
from samihs_training.data.folds import (
    held_out,
    make_folds,
    read_folds,
    read_slice_table,
    write_folds,
)

from .test_data_sets import bcihm

VOLUMES = {
    f"{i:03}": float(v) for i, v in enumerate(np.random.default_rng(2).lognormal(2, 1.2, 73))
}


def test_every_patient_once_and_folds_of_one_size() -> None:
    folds = make_folds(VOLUMES, seed=3)
    members = [folds.cases(fold) for fold in range(5)]
    assert sorted(name for each in members for name in each) == sorted(VOLUMES)
    assert {len(each) for each in members} <= {14, 15}


def test_volumes_are_stratified() -> None:
    """Of each five neighbours in volume, every fold has one: medians lie within two strata."""
    folds = make_folds(VOLUMES, seed=3)
    ordered = sorted(VOLUMES, key=VOLUMES.__getitem__)
    for start in range(0, 70, 5):
        assert {folds.fold_of[name] for name in ordered[start : start + 5]} == set(range(5))


def test_seeded_written_and_read(tmp_path: Path) -> None:
    folds = make_folds(VOLUMES, seed=3)
    assert make_folds(dict(reversed(VOLUMES.items())), seed=3) == folds
    assert make_folds(VOLUMES, seed=4) != folds
    write_folds(folds, tmp_path / "new" / "folds.json")
    assert read_folds(tmp_path / "new" / "folds.json") == folds
    with pytest.raises(OutputError, match="not overwritten"):
        write_folds(folds, tmp_path / "new" / "folds.json")


def test_scans_of_one_patient_share_a_fold() -> None:
    patients = {name: f"{int(name) // 3 * 3:03}" for name in VOLUMES}  # three scans of each
    folds = make_folds(VOLUMES, patients, seed=3)
    for name, patient in patients.items():
        assert folds.fold_of[name] == folds.fold_of[patient]
    held_out(folds, 1, patients, "folds.json")
    with pytest.raises(DataError, match=r"are scans of one patient, .* holds out one of them only"):
        held_out(make_folds(VOLUMES, seed=3), 1, patients, "folds.json")
    with pytest.raises(UsageError, match="25 patients for 30 folds"):
        make_folds(VOLUMES, patients, count=30)


def test_bad_folds() -> None:
    with pytest.raises(UsageError, match="3 patients for 5 folds"):
        make_folds({"a": 1, "b": 2, "c": 3})
    with pytest.raises(UsageError, match="folds: 1; expected 2 or more"):
        make_folds(VOLUMES, count=1)


@pytest.mark.parametrize("text", ["{", "[]", '{"folds": 2, "seed": 0, "patients": {"a": 7}}'])
def test_bad_files_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "folds.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"folds\.json"):
        read_folds(path)


def test_the_authors_table_leaks(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    lines = ["img,gt,fold,label"]
    lines += [f"img/049_{i}.png,gt/049_{i}.png,{i % 5},1" for i in range(10)]
    lines += [f"img/050/{i}.png,gt/050/{i}.png,2,0" for i in range(3)]
    table.write_text("\n".join(lines) + "\n")
    read = read_slice_table(table)
    assert read.leaking == ["049"]
    assert read.folds_of["050"] == {2}
    done = CliRunner().invoke(main, ["check-folds", str(table)])
    assert done.exit_code == 0
    assert "13 slices, 1 of 2 patients have slices in more than one fold: LEAKING" in done.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("img,gt,label\na_1,b,1\n", "no column fold"),
        ("img,gt,fold,label\na_1,b,one,1\n", "line 2"),
        ("img,gt,fold,label\n1.png,b,1,1\n", "line 2"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_slice_table(path)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = bcihm(tmp_path / "data", 5), tmp_path / "folds.json"
    done = CliRunner().invoke(main, ["make-folds", str(root), str(out), "--seed", "1"])
    assert done.exit_code == 0, done.output
    assert len(read_folds(out).fold_of) == 5
    monkeypatch.setattr(cli, "check_cases", lambda cases: pytest.fail("read for nothing"))
    again = CliRunner().invoke(main, ["make-folds", str(root), str(out)])
    assert again.exit_code == 2
    assert len(again.stderr.strip().splitlines()) == 1
