"""A run's folder belongs to one recipe, and to one process at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from samihs_runtime.errors import OutputError
from samihs_training.config import Recipe, StageConfig
from samihs_training.runs.run_folder import run_folder

RECIPE = Recipe(
    base=StageConfig(steps=1, learning_rate=1e-3), adapt=StageConfig(steps=1, learning_rate=1e-3)
)


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with run_folder(out, RECIPE, resume=False, overwrite=False, progress=None):
        for resume, overwrite in ((True, False), (False, True)):
            with (
                pytest.raises(OutputError, match="another process trains in"),
                run_folder(out, RECIPE, resume, overwrite, None),
            ):
                pass
    with run_folder(out, RECIPE, resume=True, overwrite=False, progress=None):
        assert (out / "recipe.json").is_file()


def test_a_run_of_another_recipe_is_left_as_it_is(tmp_path: Path) -> None:
    with run_folder(tmp_path, RECIPE, resume=False, overwrite=False, progress=None):
        before = (tmp_path / "recipe.json").read_bytes()
    with (
        pytest.raises(OutputError, match="another recipe"),
        run_folder(tmp_path, replace(RECIPE, seed=5), resume=True, overwrite=False, progress=None),
    ):
        pass
    assert (tmp_path / "recipe.json").read_bytes() == before


@pytest.mark.parametrize("name", ["base.safetensors", "adapters.safetensors", "adapt.state.pt"])
def test_weights_of_no_run_are_neither_taken_up_nor_overwritten(tmp_path: Path, name: str) -> None:
    """A folder such as ``models/vit_mini``: a base in it is not that of a run that begins."""
    (tmp_path / name).write_bytes(b"precious")
    (tmp_path / "evaluation.json").write_text("{}")
    for resume in (False, True):
        with (
            pytest.raises(OutputError, match=rf"holds {name} but no run .recipe\.json.: choose"),
            run_folder(tmp_path, RECIPE, resume, overwrite=False, progress=None),
        ):
            pass
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([name, "evaluation.json"])
    with run_folder(tmp_path, RECIPE, resume=False, overwrite=True, progress=None):
        left = {each.name for each in tmp_path.iterdir()}
    assert left == {"evaluation.json", "recipe.json"}


def test_folds_of_no_run_are_neither_taken_up_nor_overwritten(tmp_path: Path) -> None:
    """Nobody makes them a second time who made them by hand."""
    (tmp_path / "folds.json").write_text("{}")
    for resume in (False, True):
        with (
            pytest.raises(OutputError, match=r"holds folds\.json but no run .*move it .* --folds;"),
            run_folder(tmp_path, RECIPE, resume, overwrite=False, progress=None),
        ):
            pass
    assert (tmp_path / "folds.json").read_text() == "{}"


def test_what_a_killed_overwrite_leaves_is_still_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_folder(tmp_path, RECIPE, resume=False, overwrite=False, progress=None):
        for name in ("folds.json", "report.json", "base.safetensors"):
            (tmp_path / name).write_text("{}")
    unlink = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name == "recipe.json":
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with (
        pytest.raises(KeyboardInterrupt),
        run_folder(tmp_path, replace(RECIPE, seed=2), False, overwrite=True, progress=None),
    ):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["recipe.json"]


def test_a_base_is_not_cleared_away_by_the_run_that_is_to_adapt_it(tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    base.write_bytes(b"precious")
    given = replace(RECIPE, base=None, base_checkpoint=str(base))
    for recipe in (given, replace(RECIPE, start=str(base))):
        with (
            pytest.raises(OutputError, match="which --overwrite would clear"),
            run_folder(tmp_path, recipe, resume=False, overwrite=True, progress=None),
        ):
            pass
    assert base.read_bytes() == b"precious"


def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    with run_folder(tmp_path, RECIPE, resume=False, overwrite=False, progress=None):
        (tmp_path / ".adapt.state.pt.17-ab.partial").write_bytes(b"half")
        (tmp_path / "adapt.state.pt").write_bytes(b"whole")
        (tmp_path / "cache" / ".volumes-0123.17").mkdir(parents=True)
        (tmp_path / "cache" / ".volumes-0123.17" / "hu.i16").write_bytes(b"half")
    with run_folder(tmp_path, RECIPE, resume=True, overwrite=False, progress=None):
        names = {each.name for each in tmp_path.rglob("*")}
    assert names == {"adapt.state.pt", "recipe.json", "cache"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="cannot write a run to"),
        run_folder(tmp_path / "file" / "run", RECIPE, False, False, None),
    ):
        pass
