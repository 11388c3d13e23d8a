"""What the user asks of a slice, and what comes back: prompts, slice masks, lesions.

Plain frozen values, shared by the segmenter, propagation, measurement and the writers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from samihs_runtime.probability import Evidence

FOREGROUND, BACKGROUND, BOX_MIN, BOX_MAX, NOT_A_POINT = 1, 0, 2, 3, -1
"""Prompt labels of segment-anything's prompt encoder (``prompt_encoder.py``)."""


@dataclass(frozen=True)
class Prompt:
    """Clicks and at most one box on one slice, in slice pixels (column x, row y)."""

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    """One per point: 1 foreground, 0 background."""
    box: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1."""

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Points [N, 2] and labels [N] as the decoder graph takes them.

        SAM adds exactly one "not a point" if there is no box, and none if there is one. More
        padding would change the answer, so none is added.
        """
        points = [*self.points]
        labels = [*self.labels]
        if self.box is None:
            points.append((0.0, 0.0))
            labels.append(NOT_A_POINT)
        else:
            x0, y0, x1, y1 = self.box
            points += [(x0, y0), (x1, y1)]
            labels += [BOX_MIN, BOX_MAX]
        return np.asarray(points, np.float32), np.asarray(labels, np.int32)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The decoder's answer to one prompt on one slice."""

    mask: NDArray[np.bool_]
    """[rows, columns] of the slice."""
    logits: NDArray[np.float32]
    """[M, M] low-resolution logits: the prior for a following prompt."""
    score: float
    """The model's own estimate of its mask's IoU, calibrated if the bundle says so."""


@dataclass(frozen=True, eq=False)
class SliceMask:
    """One slice of a lesion, as it is reported and written."""

    index: int
    """Zero-based slice index in the series."""
    mask: NDArray[np.bool_]
    """[rows, columns]."""
    score: float
    origin: Literal["clicked", "propagated"]
    prompt: Prompt
    evidence: Evidence | None = None
    """What the mask was derived from; None if only the mask is known."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """The answer to one request, which may be that the click hit no hemorrhage."""

    found: bool
    score: float
    """Score of the clicked slice."""
    clicked_slice: int
    slices: tuple[SliceMask, ...]
    """Ascending by index; empty if nothing was found."""
    stop_reasons: tuple[str, ...] = field(default=())
    """Why propagation ended, towards lower and towards higher indices, in words."""
    notes: tuple[str, ...] = field(default=())

    def volume_mask(self, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
        """The lesion as one array ``[Z, rows, columns]``."""
        volume = np.zeros(shape, dtype=bool)
        for part in self.slices:
            volume[part.index] |= part.mask
        return volume
