"""Files that are whole or not at all, on a disk that is full."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from samihs_runtime.errors import OutputError
from samihs_training import fit
from samihs_training.checkpoints.tensorfile import write_safetensors, write_state
from samihs_training.config import Recipe, StageConfig
from samihs_training.data.folds import Folds, write_folds
from samihs_training.evaluation import compare
from samihs_training.output import output_path, write_output
from samihs_training.recipe_grid import RecipeGrid

STAGE = StageConfig(steps=1, learning_rate=1e-3)
RECIPE = Recipe(base=STAGE, adapt=STAGE)


def test_a_file_appears_with_its_folder_and_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "a.txt"
    write_output(path, "first")
    with output_path(path) as partial:
        partial.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert [each.name for each in path.parent.iterdir()] == ["a.txt"]


WRITERS: dict[str, Callable[[Path], object]] = {
    "report.json": lambda out: fit._write_report(
        SimpleNamespace(out=out, base=Path("b")),  # type: ignore[arg-type]
        {},
    ),
    "comparison.md": lambda out: compare._write(out, [], RecipeGrid(RECIPE, {"method": ("pr",)})),
    "folds.json": lambda out: write_folds(Folds(1, 0, {"a": 0}), out / "folds.json"),
    "adapt.state.pt": lambda out: write_state(out / "adapt.state.pt", {"a": torch.zeros(2)}),
    "a.safetensors": lambda out: write_safetensors(out / "a.safetensors", {"a": torch.ones(2)}, {}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name != "folds.json":  # which are never overwritten
        (tmp_path / name).write_text("before")
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}

    def full(*paths: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match=rf"cannot write .*{name}: No space left on device"):
        WRITERS[name](tmp_path)
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["adapt.state.pt", "a.safetensors"])
def test_what_torch_and_safetensors_make_of_a_full_disk_is_one_line_too(
    tmp_path: Path, name: str
) -> None:
    """Their writers raise errors of their own: here the file's size has a limit."""
    resource = pytest.importorskip("resource")
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    write = write_state if name.endswith(".pt") else lambda path, state: write_safetensors(
        path, state, {}
    )  # fmt: skip
    try:
        with pytest.raises(OutputError, match=rf"cannot write .*{name}: "):
            write(tmp_path / name, {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())
