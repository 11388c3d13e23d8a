"""Square parts of slices to train on: a lesion is small, and a step costs what its pixels cost.

Crops are given in tokens of the model's grid, so that the model can place them in its frame
(``network/cropped.py``). Everything here is numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samihs_runtime.errors import UsageError
from samihs_training.data.clicks import Mask

AROUND_LESIONS = 0.9
"""Share of the crops of slices with lesions that are drawn to show one."""

Origin = tuple[int, int]
"""Row and column of a crop's first token."""
Part = tuple[slice, slice]
"""Rows and columns of a slice."""


@dataclass(frozen=True)
class Crops:
    """Where crops may lie in a frame; all are of one size."""

    grid: int
    """Tokens along a side of the frame."""
    side: int
    """Tokens along a side of a crop."""
    starts: tuple[int, ...]
    """Rows, and columns, at which a crop may begin: tokens. Every token is in some crop."""

    def draw(self, lesions: Sequence[Mask], head: Mask, rng: np.random.Generator) -> Origin:
        """A crop that shows some of a lesion, each being equally likely, or some of the head.

        Masks [S, S]. Of the crops that contain a pixel drawn from either, each is equally likely;
        of all, if there is no such pixel.
        """
        aimed = bool(lesions) and rng.random() < AROUND_LESIONS
        places = np.argwhere(lesions[int(rng.integers(len(lesions)))] if aimed else head)
        if not len(places):
            return self._start(rng), self._start(rng)
        row, column = places[rng.integers(len(places))] * self.grid // len(head)
        return self._start(rng, int(row)), self._start(rng, int(column))

    def part(self, origin: Origin, size: int) -> Part:
        """Rows and columns of a crop in a slice of ``size`` pixels a side."""
        if size % self.grid:
            raise UsageError(
                f"crop: expected slices whose size is a multiple of {self.grid}, the tokens along "
                f"a side of the model's frame; they have {size} pixels"
            )
        pixels = size // self.grid
        rows, columns = (slice(o * pixels, (o + self.side) * pixels) for o in origin)
        return rows, columns

    def _start(self, rng: np.random.Generator, token: int | None = None) -> int:
        """One of the starts, or of those of crops that contain ``token``."""
        fitting = [
            start for start in self.starts if token is None or 0 <= token - start < self.side
        ]
        return int(rng.choice(fitting))


def enough_of(mask: Mask, part: Part, least: int) -> bool:
    """Whether a crop shows ``least`` pixels of a mask, or all of it."""
    return bool(mask[part].sum() >= min(least, mask.sum()))
