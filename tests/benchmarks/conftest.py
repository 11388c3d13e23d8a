"""The benchmarks are scripts in one folder, not a package."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from samihs_training.data.studies import StudySlice
from samihs_training.data.targets import Target

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

SliceMaker = Callable[[int, np.ndarray, tuple[Target, ...]], StudySlice]


@pytest.fixture(scope="session")
def make_slice() -> SliceMaker:
    """(study's seed, slice in HU, its clicks) -> a slice of 0.5 mm pixels and 4 mm extent."""

    def made(study: int, hu: np.ndarray, clicks: tuple[Target, ...]) -> StudySlice:
        volumes = (1.0,) * len(clicks)
        bleeds = np.zeros(hu.shape, np.uint8)
        for target in clicks:
            bleeds[target.mask] = target.kind
        return StudySlice(study, 0, hu, 0.5, 4.0, clicks, volumes, bleeds)

    return made
