"""Which slices and prompts a step sees: a function of the seed and the step only.

So a run that is stopped and resumed, split over several processes, or accumulates gradients sees
what a single uninterrupted process would have seen. An epoch is a permutation of the slices;
process r takes its share of each batch, and no slice twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from samihs_runtime.errors import UsageError
from samihs_training.data.slices import Batch
from samihs_training.data.sources import Drawing, Drawn, Source
from samihs_training.prompts import filled

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """The part of every batch that one process takes, in pieces."""

    rank: int = 0
    world: int = 1
    pieces: int = 1
    """Pieces a batch is cut into (gradient accumulation)."""


class NumberedBatches(Dataset[Batch]):
    """Piece n of this process: step ``n // pieces``, piece ``n % pieces``."""

    def __init__(
        self, source: Source, drawing: Drawing, *, batch: int, seed: int, share: Share
    ) -> None:
        """``batch``: slices per step, over all processes."""
        parts = share.world * share.pieces
        if batch % parts:
            raise UsageError(
                f"batch = {batch} cannot be shared by {share.world} processes in {share.pieces} "
                f"pieces: expected a multiple of {parts}"
            )
        self.source = source
        self.drawing = drawing
        self.count = len(source)
        self.batch = batch
        self.seed = seed
        self.share = share

    def __getitem__(self, number: int) -> Batch:
        return self._batch(self.positions(*divmod(number, self.share.pieces)))

    def epoch(self) -> Iterator[Batch]:
        """This process's share of one pass over all slices; the last batch may be smaller."""
        for number in range(-(-self.count // self.batch) * self.share.pieces):
            positions = self.positions(*divmod(number, self.share.pieces))
            first = [each for each in positions if each < self.count]
            if first:
                yield self._batch(first)

    def _batch(self, positions: Iterable[int]) -> Batch:
        drawn = [self._draw(position) for position in positions]
        asked = [each for one in drawn for each in one.asked]
        arrays = [filled(prompt, self.drawing.rule.count).arrays() for prompt, _ in asked]
        masks = np.stack([mask for _, mask in asked])[:, None]
        bleeds = np.stack([one.bleeds for one in drawn])[:, None]
        origins = [one.origin for one in drawn if one.origin is not None]
        return Batch(
            hu=torch.from_numpy(np.stack([one.hu for one in drawn])[:, None]),
            window=torch.tensor([one.window for one in drawn], dtype=torch.float32),
            points=torch.from_numpy(np.stack([points for points, _ in arrays])),
            labels=torch.from_numpy(np.stack([labels for _, labels in arrays])).long(),
            masks=torch.from_numpy(masks).to(torch.uint8),
            bleeds=torch.from_numpy(bleeds).to(torch.uint8),
            origins=torch.tensor(origins) if origins else None,
        )

    def positions(self, step: int, piece: int = 0) -> range:
        """Positions in the endless sequence of epochs that this process takes at a step."""
        first = step * self.batch + self.share.rank * self.share.pieces + piece
        return range(first, (step + 1) * self.batch, self.share.world * self.share.pieces)

    def slice_at(self, position: int) -> int:
        """The number in the source of the slice at a position in the sequence of epochs."""
        epoch, place = divmod(position, self.count)
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(self.count)
        return int(order[place])

    def _draw(self, position: int) -> Drawn:
        rng = np.random.default_rng([self.seed, 1, position])
        return self.source.draw(self.slice_at(position), self.drawing, rng)


def stream(data: Dataset[T], numbers: Iterable[int], workers: int) -> Iterator[T]:
    """The batches of ``numbers``, in order, prepared by ``workers`` processes ahead of time."""
    loader: DataLoader[T] = DataLoader(
        data,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,  # a fork may hang in torch's threads
        generator=torch.Generator(),  # its own: the loader leaves the global one as it is
    )
    return iter(loader)
