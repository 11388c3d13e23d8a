"""The inputs of all subjects of ``peers.py``: slices, clicks, weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # torch is loaded only by subjects that need it
    from samihs_training.network.sam import SamConfig

SIZE = 512
"""Side of a slice, pixels."""
FRAMES = (SIZE, 2 * SIZE)
"""Sides of a model's frame at which all subjects see the same picture: a slice is used as it is, or
enlarged to values that fit in 8 bits (:func:`grey_of`). At other sizes a rival rounds where this
project does not, and averages more pixels when it shrinks a picture."""
CONFIG, WEIGHTS = "config.json", "weights.pt"


def write_random(folder: Path, config: SamConfig) -> Any:
    """A SAM with random weights, which all subjects share; writes its sizes and weights.

    Position tables, initially zero, are drawn as well; otherwise a mix-up would go unnoticed.
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
    """[S, S] of 8 bits, different for each turn.

    Multiples of 16, so that bilinear enlargement by 2 still gives whole numbers.
    """
    random = np.random.default_rng(turn)
    return 16 * random.integers(0, 16, (SIZE, SIZE), np.uint8)


def slice_of(turn: int) -> np.ndarray:
    """[S, S] HU that the window -20 to 100 maps to :func:`grey_of`."""
    return grey_of(turn).astype(np.float32) * (120 / 255) - 20


def picture_of(turn: int) -> np.ndarray:
    """The same as a picture of three channels [S, S, 3]."""
    return np.repeat(grey_of(turn)[..., None], 3, axis=2)


def points_of(count: int, turn: int) -> np.ndarray:
    """[count, 2] clicks (x, y), slice pixels."""
    return np.random.default_rng(turn).uniform(100, SIZE - 100, (count, 2))
