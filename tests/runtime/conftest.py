"""Fixtures of the runtime's tests: the tiny bundle, and which tests a machine without GPU runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from .tiny_model import SIZE, write_tiny_bundle


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` run only where ``-m`` names the mark; then they fail without a GPU."""
    if "gpu" in str(config.getoption("markexpr")):
        return
    chosen = [each for each in items if each.get_closest_marker("gpu") is None]
    if len(chosen) < len(items):
        config.hook.pytest_deselected(items=[each for each in items if each not in chosen])
        items[:] = chosen


@pytest.fixture(scope="session")
def _tiny_bundle_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("tiny")
    return write_tiny_bundle(scratch, scratch / "bundle").root


@pytest.fixture
def tiny_bundle(_tiny_bundle_original: Path, tmp_path: Path) -> Path:
    """A bundle with hand-written ONNX graphs (``tiny_model.py``), S = 64; yours to change."""
    return Path(shutil.copytree(_tiny_bundle_original, tmp_path / "tiny-bundle"))


@pytest.fixture
def bright_slice() -> NDArray[np.float32]:
    """[64, 64] HU: brain at 30 with one disc of blood at 70, centre (40, 24), radius 8."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    disc = (columns - 40) ** 2 + (rows - 24) ** 2 <= 64
    return np.where(disc, 70, 30).astype(np.float32)
