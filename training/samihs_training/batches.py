"""Which slices and clicks a step sees: a function of the seed and the step, and of nothing else.

So a run that stops and goes on, that is cut over several processes, or that accumulates gradients
sees what one process in one go would have seen. An epoch is a permutation of the slices; process r
takes its share of each batch, and no slice twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from samihs_runtime.errors import UsageError
from samihs_training.data.cache import SliceCache
from samihs_training.data.slices import Batch, Task, flipped, worn
from samihs_training.data.targets import Target, bleed_target, lesions, structure_target

Purpose = Literal["train", "validate"]


@dataclass(frozen=True)
class Share:
    """The part of every batch that one process takes, in pieces."""

    rank: int = 0
    world: int = 1
    pieces: int = 1
    """Pieces a batch is cut into (gradient accumulation)."""


class NumberedBatches(Dataset[Batch]):
    """Piece n of this process: step ``n // pieces``, piece ``n % pieces``. Reads from a cache."""

    def __init__(
        self,
        cache: SliceCache,
        task: Task,
        *,
        batch: int,
        prompts: int,
        seed: int,
        share: Share,
        purpose: Purpose = "train",
    ) -> None:
        """``batch``: slices of a step, of all processes; ``prompts``: clicks on each."""
        parts = share.world * share.pieces
        if batch % parts:
            raise UsageError(
                f"batch = {batch} cannot be shared by {share.world} processes in {share.pieces} "
                f"pieces: expected a multiple of {parts}"
            )
        self.home: Path = cache.home
        self.count = len(cache)
        self.task = task
        self.batch = batch
        self.prompts = prompts
        self.seed = seed
        self.share = share
        self.purpose = purpose
        self._cache: SliceCache | None = None  # each worker maps the files for itself

    def __getitem__(self, number: int) -> Batch:
        step, piece = divmod(number, self.share.pieces)
        drawn = [self._draw(position) for position in self.positions(step, piece)]
        hu = torch.from_numpy(np.stack([hu for hu, _ in drawn])[:, None])
        targets = [target for _, each in drawn for target in each]
        points = torch.tensor([[target.click] for target in targets], dtype=torch.float32)
        masks = torch.from_numpy(np.stack([target.mask for target in targets])[:, None])
        return Batch(hu, points, masks.to(torch.uint8))

    def positions(self, step: int, piece: int = 0) -> range:
        """Places in the endless row of epochs that this process takes at a step."""
        first = step * self.batch + self.share.rank * self.share.pieces + piece
        return range(first, (step + 1) * self.batch, self.share.world * self.share.pieces)

    def slice_at(self, position: int) -> int:
        """Index in the cache of a place in the row of epochs."""
        epoch, place = divmod(position, self.count)
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(self.count)
        return int(order[place])

    def _draw(self, position: int) -> tuple[NDArray[np.float32], list[Target]]:
        if self._cache is None:
            self._cache = SliceCache.load(self.home)
        rng = np.random.default_rng([self.seed, 1, position])
        sample = self._cache[self.slice_at(position)]
        draw = structure_target if self.task == "structures" else bleed_target
        if self.purpose == "train":
            sample = flipped(sample, rng)
        found = lesions(sample)
        hu = worn(sample.hu, rng) if self.purpose == "train" else sample.hu.astype(np.float32)
        return hu, [draw(sample, found, rng) for _ in range(self.prompts)]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cache": None}


def stream(data: NumberedBatches, numbers: range, workers: int) -> Iterator[Batch]:
    """The batches of ``numbers``, in order, prepared by ``workers`` processes ahead of time."""
    loader: DataLoader[Batch] = DataLoader(
        data,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,  # a fork may hang in torch's threads
        generator=torch.Generator(),  # of its own: the loader draws from it, and so from no other
    )
    return iter(loader)
