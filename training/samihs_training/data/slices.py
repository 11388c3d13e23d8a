"""Training samples: phantom slices with clicks and masks, augmented, as torch tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from samihs_training.data.cache import SliceCache
from samihs_training.data.phantom import PhantomSlice, wear_8bit
from samihs_training.data.targets import Target, bleed_target, lesions, structure_target

Task = Literal["structures", "bleeds"]


@dataclass(frozen=True)
class Batch:
    """B slices, P clicks on each: prompt i belongs to slice i // P."""

    hu: Tensor
    """float32 [B, 1, S, S]."""
    points: Tensor
    """float32 [B * P, 1, 2], column first."""
    masks: Tensor
    """uint8 [B * P, 1, S, S]."""


class ClickedSlices(IterableDataset[Batch]):
    """An endless stream of batches from a cache; seeded, and different in each worker."""

    def __init__(
        self, cache: SliceCache, task: Task, *, batch: int, prompts: int, seed: int
    ) -> None:
        self.home = cache.home
        self.task = task
        self.batch = batch
        self.prompts = prompts
        self.seed = seed

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, 0 if worker is None else worker.id])
        cache = SliceCache.load(self.home)
        while True:
            drawn = [self._draw(cache, rng) for _ in range(self.batch)]
            hu = torch.from_numpy(np.stack([hu for hu, _ in drawn])[:, None])
            targets = [target for _, each in drawn for target in each]
            points = torch.tensor([[target.click] for target in targets], dtype=torch.float32)
            masks = torch.from_numpy(np.stack([target.mask for target in targets])[:, None])
            yield Batch(hu, points, masks.to(torch.uint8))

    def _draw(
        self, cache: SliceCache, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], list[Target]]:
        sample = flipped(cache[int(rng.integers(len(cache)))], rng)
        draw = structure_target if self.task == "structures" else bleed_target
        found = lesions(sample)
        return worn(sample.hu, rng), [draw(sample, found, rng) for _ in range(self.prompts)]


def flipped(sample: PhantomSlice, rng: np.random.Generator) -> PhantomSlice:
    """Mirrored left to right half of the time, upside down in one of ten (prone patients)."""
    arrays = [np.asarray(each) for each in (sample.hu, sample.bleeds, sample.tissues)]
    if rng.random() < 0.5:
        arrays = [each[:, ::-1] for each in arrays]
    if rng.random() < 0.1:
        arrays = [each[::-1] for each in arrays]
    hu, bleeds, tissues = (np.ascontiguousarray(each) for each in arrays)
    return PhantomSlice(hu, bleeds, tissues, sample.pixel_spacing)


def worn(hu: NDArray[np.int16], rng: np.random.Generator) -> NDArray[np.float32]:
    """Scanners differ by a few HU; some archives hold 8-bit JPEG windows only."""
    image = hu.astype(np.float32)
    image = image * np.float32(rng.normal(1.0, 0.03)) + np.float32(rng.normal(0.0, 2.0))
    draw = rng.random()
    if draw < 0.25:
        return np.asarray(wear_8bit(image, rng), np.float32)
    if draw < 0.4:
        image += rng.normal(0, rng.uniform(1, 4), image.shape).astype(np.float32)
    return image
