"""What the GPU benchmark's processes share: a common folder, and timing."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENCODE_BATCHES = (1, 4, 8)
CLICK_PROMPTS = (1, 2, 8)
WINDOW = (-20.0, 100.0)
"""HU; the window of the shipped model."""


@dataclass(frozen=True)
class Effort:
    """How long each figure is measured for."""

    seconds: float
    """Until at least this much has been spent ..."""
    most: int
    """... or this many runs were made; never fewer than 3."""
    warm_up: int = 3
    """Uncounted runs at the start; in the runtime's rows, all graphs were captured before."""


FULL, BRIEF = Effort(2.0, 200), Effort(0.05, 5)


@dataclass(frozen=True)
class Work:
    """The folder that the parent and its child processes share."""

    folder: Path

    @property
    def weights(self) -> Path:
        """torch: state dict of the merged model."""
        return self.folder / "weights.pt"

    @property
    def settings(self) -> Path:
        """JSON: sizes of the model, slice size, device, brief or not."""
        return self.folder / "settings.json"

    @property
    def study(self) -> Path:
        """DICOM folder of 32 slices."""
        return self.folder / "study"

    @property
    def cases(self) -> Path:
        """npz: hu [K, S, S], points [K, 1, 2, 2], labels [K, 1, 2]."""
        return self.folder / "cases.npz"

    @property
    def onnx_files(self) -> Path:
        """ONNX Runtime's graphs, which every bundle gets."""
        return self.folder / "files-onnx"

    def bundle(self, precision: str) -> Path:
        """The bundle of one precision."""
        return self.folder / f"bundle-{precision}"

    def answers(self, row: str) -> Path:
        """npz: what a row answered to the cases."""
        return self.folder / f"answers-{row.replace(' ', '-')}.npz"

    def figures(self, row: str) -> Path:
        """JSON: what a row measured."""
        return self.folder / f"figures-{row.replace(' ', '-')}.json"

    def read_settings(self) -> dict[str, Any]:
        """The settings that the parent wrote."""
        settings: dict[str, Any] = json.loads(self.settings.read_text())
        return settings


def measure(what: Callable[[], object], effort: Effort) -> list[float]:
    """Seconds of each call, which must not return before its work has finished."""
    for _ in range(effort.warm_up):
        what()
    samples: list[float] = []
    began = time.perf_counter()
    while len(samples) < 3 or (
        len(samples) < effort.most and time.perf_counter() - began < effort.seconds
    ):
        start = time.perf_counter()
        what()
        samples.append(time.perf_counter() - start)
    return samples


def prompt_arrays(
    size: int, count: int, shift: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """``count`` prompts of one click each, at different places for each shift."""
    spots = [(size / 2 + (7 * i + shift) % 40, size / 2 - 5 * i) for i in range(count)]
    points = np.asarray([(spot, (0, 0)) for spot in spots], np.float32)
    return points, np.tile(np.asarray((1, -1), np.int32), (count, 1))


def memory_taken_mb(before: float | None) -> float | None:
    """Increase in MB since ``before`` (:func:`device_memory_mb`); None if either is not known.

    As counted by nvidia-smi: including CUDA's context, and what an allocator keeps for later.
    """
    now = device_memory_mb()
    return None if before is None or now is None else now - before


def device_memory_mb() -> float | None:
    """MB in use on the first GPU, by all processes; None if nvidia-smi does not report it."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    try:
        return float(done.stdout.strip().splitlines()[0])
    except (IndexError, ValueError):
        return None
