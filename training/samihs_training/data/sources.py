"""Where training slices come from, and what is drawn from one: an image, prompts, masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.bundle.entries import WindowRule
from samihs_runtime.encoding.preprocessing import window_of
from samihs_runtime.segmentation import Prompt
from samihs_training.data.cache import SliceCache
from samihs_training.data.clicks import Mask
from samihs_training.data.crops import Crops, Origin, enough_of
from samihs_training.data.slices import cut, flipped, moved, worn
from samihs_training.data.targets import (
    HAND,
    MIN_LESION_PIXELS,
    bleed_target,
    head_of,
    lesions,
    structure_target,
)
from samihs_training.prompts import PromptRule

Task = Literal["structures", "bleeds"]


@dataclass(frozen=True)
class Drawing:
    """What is drawn from a slice."""

    task: Task
    """Prompts on any structure, or on hemorrhage."""
    prompts: int
    """Prompts per slice."""
    rule: PromptRule = HAND
    negatives: float = 0.3
    """Share of the prompts where nothing bleeds; for the task ``bleeds``."""
    window: WindowRule = WindowRule("fixed", -20.0, 100.0)  # noqa: RUF009 - it is frozen
    vary: bool = True
    """Whether slices are augmented, as in training; otherwise each is as stored."""
    crops: Crops | None = None
    """If given, a crop is drawn from each slice, and the prompts from that. A lesion is what it is
    in the whole slice: two arms of it that meet outside the crop are one target."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """One slice with its prompts and their masks."""

    hu: NDArray[np.float32]
    """[S, S]."""
    window: tuple[float, float]
    """Low and high HU."""
    asked: list[tuple[Prompt, Mask]]
    """Each prompt with its mask [S, S], empty where it is on no hemorrhage."""
    bleeds: Mask
    """[S, S]: all hemorrhage of the slice."""
    origin: Origin | None = None
    """Of a crop; S is then its size."""


class Source(Protocol):
    """Slices by number. It can be sent to another process, which opens the files for itself."""

    def __len__(self) -> int:
        """Number of slices."""

    def draw(self, index: int, drawing: Drawing, rng: np.random.Generator) -> Drawn:
        """Slice ``index``; the same state of the generator gives the same result."""


class PhantomSlices:
    """The slices of a cache of phantoms."""

    def __init__(self, cache: SliceCache) -> None:
        self.home: Path = cache.home
        self.count = len(cache)
        self._cache: SliceCache | None = None  # each process maps the files for itself

    def __len__(self) -> int:
        return self.count

    def draw(self, index: int, drawing: Drawing, rng: np.random.Generator) -> Drawn:
        """See :class:`Source`."""
        if self._cache is None:
            self._cache = SliceCache.load(self.home)
        sample = self._cache[index]
        if drawing.vary:
            sample = moved(flipped(sample, rng), rng)
        found = lesions(sample)
        hu = worn(sample.hu, rng) if drawing.vary else sample.hu.astype(np.float32)
        window = window_of(hu, drawing.window)
        origin = None
        if drawing.crops is not None:
            origin = drawing.crops.draw([mask for _, mask in found], head_of(sample), rng)
            part = drawing.crops.part(origin, len(hu))
            sample, hu = cut(sample, part), hu[part]
            shown = [each for each in found if enough_of(each[1], part, MIN_LESION_PIXELS)]
            found = [(kind, mask[part]) for kind, mask in shown]
        asked = []
        for _ in range(drawing.prompts):
            if drawing.task == "structures":
                target = structure_target(sample, found, rng, drawing.rule)
            else:
                target = bleed_target(sample, found, rng, drawing.negatives, drawing.rule)
            asked.append((target.prompt, target.mask))
        return Drawn(hu, window, asked, sample.bleeds > 0, origin)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cache": None}
