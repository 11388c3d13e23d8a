"""The objective of one step: prompts, at times a corrective click, and the loss of the answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samihs_training.compute.hardware import mixed_precision
from samihs_training.config import Recipe, StageConfig
from samihs_training.data.slices import Batch
from samihs_training.losses import dice_of, mask_iou, score_loss
from samihs_training.network.bleed_map import BleedMap
from samihs_training.network.cropped import CroppedModel
from samihs_training.network.model import SamihsModel, ScoreInput, logits_at_slice_size
from samihs_training.stages.corrections import corrected


@dataclass(frozen=True, eq=False)
class Answered:
    """The results of one batch."""

    loss: Tensor
    """Scalar, with its graph; for a corrected batch, the mean of both answers' losses."""
    iou: float
    """Mean IoU of the first answers to the prompts that have a mask; NaN where none has."""
    dice: float
    """Mean Dice of the same answers."""
    prompts: int
    """Number of prompts."""
    with_mask: int
    """Number of prompts with a mask, over which ``iou`` and ``dice`` are means."""


@dataclass(frozen=True, eq=False)
class Heard:
    """What the score of N answers is computed from, and their IoU at T thresholds: it should
    predict that at 0."""

    token: Tensor
    """[N, E]: see :class:`~samihs_training.network.model.ScoreInput`."""
    evidence: Tensor
    """[N, R]: see there."""
    iou: Tensor
    """[N, T]."""
    on_mask: Tensor
    """bool [N]: whether it is the first answer to a prompt that has a mask."""

    def to(self, device: torch.device) -> Heard:
        """The same on another device."""
        return Heard(*(getattr(self, each.name).to(device) for each in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Heard]) -> Heard:
        """All parts concatenated."""
        names = [each.name for each in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


class _Decoded(NamedTuple):
    logits: Tensor
    """[B, 1, M, M], float32."""
    judged: Tensor
    """The same at the size of the target."""
    known: ScoreInput


class Objective(nn.Module):
    """The model with its loss: what DDP wraps, so that gradients are reduced as they arise."""

    def __init__(
        self,
        model: SamihsModel,
        recipe: Recipe,
        stage: StageConfig | None = None,
        bleed_map: BleedMap | None = None,
    ) -> None:
        """``stage``: gives the loss and the score's weight; None: the recipe's loss, weight 1.
        ``bleed_map``: trained as well, if given."""
        super().__init__()
        self.model = model
        self.bleed_map = bleed_map
        self.map_weight = 0.0 if stage is None else stage.bleed_map
        self.score_weight = 1.0 if stage is None else stage.score_weight
        self.empty_masks = stage is None or stage.empty_masks
        self.at_slice_size = stage is not None and stage.at_slice_size
        self.loss = recipe.make_loss(stage)
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[recipe.amp_dtype]
        self.amp = recipe.amp

    def forward(self, batch: Batch, correct: bool = False, map_alone: bool = False) -> Answered:
        """Answer the first prompts and, with ``correct``, one more click each on what was wrong.

        ``map_alone``: the map of blood learns, but its gradient does not reach the model.
        """
        target = self._target(batch)
        embedding = self._encoded(batch)
        answers = self._answers(embedding, batch, target, correct)
        loss = torch.stack([self._loss_of(each, target) for each in answers]).mean()
        if self.bleed_map is not None:
            read = embedding.detach() if map_alone else embedding
            loss = loss + self.map_weight * self._map_loss(self.bleed_map, read, batch)
        first = answers[0].judged.detach()
        with_mask = int(target.flatten(1).any(1).sum())
        return Answered(loss, *_overlap(first, target), len(target), with_mask)

    @torch.no_grad()
    def heard(
        self, batch: Batch, correct: bool = False, thresholds: Sequence[float] = (0.0,)
    ) -> Heard:
        """What the score of the answers to the same prompts is computed from.

        ``thresholds``: logits, above each of which a mask is compared with the truth.
        """
        target = self._target(batch)
        has_mask = target.flatten(1).any(1)
        parts: list[Heard] = []
        for each in self._answers(self._encoded(batch), batch, target, correct):
            iou = torch.stack([mask_iou(each.judged - t, target) for t in thresholds], dim=1)
            on_mask = has_mask & (not parts)
            parts.append(Heard(each.known.token.float(), each.known.evidence, iou, on_mask))
        return Heard.joined(parts)

    def _encoded(self, batch: Batch) -> Tensor:
        if isinstance(self.model, CroppedModel):
            if batch.origins is None:
                raise ValueError("whole slices for a model of crops")
            self.model.look_at(batch.origins)
        with self._autocast(batch.hu.device):
            return self.model.encode(batch.hu, batch.window)

    def _answers(
        self, embedding: Tensor, batch: Batch, target: Tensor, correct: bool
    ) -> list[_Decoded]:
        points, labels = batch.points, batch.labels
        size = batch.hu.shape[-1]
        first = self._answer(embedding, points, labels, None, target, size)
        if not correct:
            return [first]
        points, labels = corrected(
            points, labels, first.judged.detach(), target, batch.masks.shape[-1]
        )
        return [first, self._answer(embedding, points, labels, first.logits.detach(), target, size)]

    def _answer(
        self,
        embedding: Tensor,
        points: Tensor,
        labels: Tensor,
        prior: Tensor | None,
        target: Tensor,
        slice_size: int,
    ) -> _Decoded:
        with self._autocast(embedding.device):
            logits, known = self.model.answer(
                embedding, points, labels, prior, slice_size=slice_size
            )
        logits = logits.float()
        judged = logits_at_slice_size(logits, target.shape[-1]) if self.at_slice_size else logits
        return _Decoded(logits, judged, known)

    def _loss_of(self, answer: _Decoded, target: Tensor) -> Tensor:
        with self._autocast(target.device):
            score = self.model.score(answer.known).float()
        loss = self._mask_loss(answer.judged, target)
        return loss + self.score_weight * score_loss(score, answer.judged, target)

    def _map_loss(self, bleed_map: BleedMap, embedding: Tensor, batch: Batch) -> Tensor:
        with self._autocast(batch.hu.device):
            logits = bleed_map(embedding)
        size = batch.bleeds.shape[-1]
        if self.at_slice_size:
            return self.loss(logits_at_slice_size(logits, size), batch.bleeds.float())
        return self.loss(logits, low_resolution(batch.bleeds, logits.shape[-1]))

    def _target(self, batch: Batch) -> Tensor:
        """The target masks [B, 1, H, W], at the size at which answers are compared with them."""
        if self.at_slice_size:
            return batch.masks.float()
        return low_resolution(batch.masks, self.model.config.mask_size)

    def _mask_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of all prompts, or of those whose mask is not empty; 0 if there are none."""
        if self.empty_masks:
            return self.loss(logits, target)
        asked = target.flatten(1).any(1)
        return self.loss(logits[asked], target[asked]) if asked.any() else 0 * logits.sum()

    def _autocast(self, device: torch.device) -> Any:
        return mixed_precision(device, self.dtype, wanted=self.amp)


def _overlap(logits: Tensor, target: Tensor) -> tuple[float, float]:
    """Mean IoU and Dice of the prompts whose mask is not empty; NaN if there are none."""
    has_mask = target.flatten(1).any(1)
    if not has_mask.any():
        return math.nan, math.nan
    iou = mask_iou(logits, target)[has_mask]
    return iou.mean().item(), dice_of(iou).mean().item()


def low_resolution(masks: Tensor, size: int) -> Tensor:
    """Masks [B, 1, S, S] as float [B, 1, size, size]: cells at least 40 % covered.

    A lesion too thin to cover any cell by that much takes every cell that it touches: it must not
    become an empty target, which means "no blood here".
    """
    covered = F.interpolate(masks.float(), size=(size, size), mode="area")
    low = covered >= 0.4
    vanished = ~low.flatten(1).any(1)
    low[vanished] = covered[vanished] > 0
    return low.float()
