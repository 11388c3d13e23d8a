"""What all subjects of ``peers.py`` are given: slices, clicks, weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # torch is loaded by those subjects that need it
    from samihs_training.network.sam import SamConfig

SIZE = 512
"""Side of a slice, pixels."""
FRAMES = (SIZE, 2 * SIZE)
"""Sides of a model's frame at which all subjects see the same picture: a slice is taken as it is,
or enlarged to values that 8 bits hold (:func:`grey_of`). Elsewhere a rival rounds what this project
does not, and where it shrinks a picture, averages more pixels."""
CONFIG, WEIGHTS = "config.json", "weights.pt"


def write_random(folder: Path, config: SamConfig) -> Any:
    """A SAM with random weights, which all subjects share; its sizes and weights are written.

    Tables of positions, which begin as zeros, are drawn too: else nobody would see them mixed up.
    """
    import torch

    from samihs_training.network.sam import build_sam

    torch.manual_seed(0)
    sam = build_sam(config)
    for parameter in sam.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    torch.save(sam.state_dict(), folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(asdict(config)), encoding="utf-8")
    return sam


def config_of(folder: Path) -> SamConfig:
    """The sizes that :func:`write_random` wrote."""
    from samihs_training.network.sam import SamConfig

    raw = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return SamConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()})


def sam_of(folder: Path) -> Any:
    """segment-anything's own model with the weights that all subjects share."""
    import torch

    from samihs_training.network.sam import build_sam

    sam = build_sam(config_of(folder))
    sam.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
    return sam


def grey_of(turn: int) -> np.ndarray:
    """[S, S] of 8 bits, another for each turn.

    Multiples of 16: twice as large, bilinearly, they are whole numbers still.
    """
    random = np.random.default_rng(turn)
    return 16 * random.integers(0, 16, (SIZE, SIZE), np.uint8)


def slice_of(turn: int) -> np.ndarray:
    """[S, S] HU that the window -20 to 100 makes :func:`grey_of` of."""
    return grey_of(turn).astype(np.float32) * (120 / 255) - 20


def picture_of(turn: int) -> np.ndarray:
    """The same as a picture of three channels [S, S, 3]."""
    return np.repeat(grey_of(turn)[..., None], 3, axis=2)


def points_of(count: int, turn: int) -> np.ndarray:
    """[count, 2] clicks (x, y), slice pixels."""
    return np.random.default_rng(turn).uniform(100, SIZE - 100, (count, 2))
