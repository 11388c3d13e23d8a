"""Ranges that phantom parameters are drawn from; each carries its unit and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Range:
    """A closed interval with a unit and a source; values are drawn uniformly (or log-uniformly)."""

    low: float
    """Smallest value, in `unit`."""
    high: float
    """Largest value, in `unit`."""
    unit: str
    """Unit of both ends: "mm", "HU", "mL", "deg", "years" or "1" for ratios."""
    source: str
    """Why these numbers: a publication, "textbook" (a range any radiology text gives), "measured"
    (on a real scan) or "chosen" (a modelling choice, judged by eye)."""
    log: bool = False
    """Draw log-uniformly, so that small values are as frequent per octave as large ones."""

    def __post_init__(self) -> None:
        if not self.low <= self.high or (self.log and self.low <= 0):
            raise ValueError(f"not a range: {self.low} to {self.high} {self.unit}, log={self.log}")

    def draw(self, rng: np.random.Generator) -> float:
        """One value from the range, in `unit`."""
        if self.log:
            return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return float(rng.uniform(self.low, self.high))

    def clipped(self, low: float, high: float) -> Range:
        """The part of this range inside [low, high]; the nearest end if they do not overlap."""
        new_low = min(max(self.low, low), high)
        new_high = max(min(self.high, high), new_low)
        return Range(new_low, new_high, self.unit, self.source, self.log)
