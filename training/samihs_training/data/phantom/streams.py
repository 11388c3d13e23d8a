"""Random streams beside the main one, so that a new structure does not alter existing draws."""

from __future__ import annotations

from copy import deepcopy

import numpy as np

SUTURES, FRACTURES, UNDERSIZE, SINUSES, DURA, OFF_FOCAL_BLUR = range(1, 7)
"""One number for each structure, never reused for another."""


class SideStreams:
    """Generators that depend on the state of the main generator and leave it unchanged."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._key = [int(word) for word in deepcopy(rng).integers(2**32, size=4)]

    def stream(self, number: int) -> np.random.Generator:
        """The generator of one structure, at its beginning."""
        return np.random.default_rng([number, *self._key])
