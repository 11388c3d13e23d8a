"""What is known about a phantom: volumes, and where to click."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from .options import BleedType
from .study import PhantomStudy


@dataclass(frozen=True)
class Click:
    """A pixel to click on: zero-based column, row and slice, slices ascending along the normal."""

    x: int
    y: int
    z: int
    kind: BleedType
    """The type of bleeding at that pixel."""

    @property
    def text(self) -> str:
        """The click as the runtime's `--point` takes it: "x,y,z"."""
        return f"{self.x},{self.y},{self.z}"


def suggested_click(study: PhantomStudy) -> Click | None:
    """The deepest interior pixel of the largest bleed; None for a study without bleeding.

    Largest: most pixels of one type connected in three dimensions. Deepest: farthest within its
    slice from anything else.
    """
    best = np.zeros(0, bool)
    for kind in BleedType:
        if kind is not BleedType.NONE and (study.bleeds == kind).any():
            parts, _ = ndimage.label(study.bleeds == kind)
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            if not best.size or sizes.max() > best.sum():
                best = parts == int(sizes.argmax())
    if not best.size:
        return None
    depths = [ndimage.distance_transform_edt(np.pad(plane, 1))[1:-1, 1:-1] for plane in best]
    z, y, x = np.unravel_index(int(np.argmax(depths)), best.shape)
    return Click(int(x), int(y), int(z), BleedType(int(study.bleeds[z, y, x])))


def truth(study: PhantomStudy) -> dict[str, Any]:
    """The record that is stored beside a written study as `truth.json`."""
    click = suggested_click(study)
    kinds = [kind for kind in BleedType if kind is not BleedType.NONE]
    return {
        "synthetic": True,
        "seed": study.seed,
        "slices": int(study.hu.shape[0]),
        "suggested_click": None
        if click is None
        else {
            "x": click.x,
            "y": click.y,
            "z": click.z,
            "point": click.text,
            "type": click.kind.name.lower(),
        },
        "volume_ml": {kind.name.lower(): round(study.volume_ml(kind), 3) for kind in kinds},
        "volume_total_ml": round(study.volume_ml(), 3),
        "area_mm2": [
            round(float((plane > 0).sum()) * study.pixel_spacing**2, 2) for plane in study.bleeds
        ],
        "parameters": study.parameters,
    }


def write_truth(study: PhantomStudy, folder: Path) -> Path:
    """Write `truth.json` into an existing folder."""
    path = folder / "truth.json"
    path.write_text(json.dumps(truth(study), indent=2) + "\n", encoding="utf-8")
    return path
