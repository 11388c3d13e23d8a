"""What one step asks of the model: clicks, a corrective click at times, and the loss of both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samihs_runtime.segmentation import BACKGROUND, FOREGROUND, NOT_A_POINT
from samihs_training.config import Recipe
from samihs_training.data.slices import Batch
from samihs_training.losses import BoundarySensitiveLoss, mask_iou, score_loss
from samihs_training.model import SamihsModel


@dataclass(frozen=True, eq=False)
class Answered:
    """What came of one batch."""

    loss: Tensor
    """Scalar, with its graph."""
    iou: float
    """Mean IoU of the clicks that have a mask; NaN where none has."""
    dice: float
    """Mean Dice of the same clicks."""


class Objective(nn.Module):
    """The model with its loss: what DDP wraps, so that gradients are reduced as they arise."""

    def __init__(self, model: SamihsModel, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.window = recipe.window
        self.loss = BoundarySensitiveLoss(reduction=recipe.loss_reduction)
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[recipe.amp_dtype]
        self.amp = recipe.amp

    def forward(self, batch: Batch, correct: bool = False) -> Answered:
        """First clicks, and with ``correct`` a second, corrective one on what they left wrong."""
        target = low_resolution(batch.masks, self.model.config.mask_size)
        window = batch.hu.new_tensor(self.window).expand(len(batch.hu), 2)
        with self._autocast(batch.hu.device):
            embedding = self.model.encode(batch.hu, window)
        kinds = torch.full(batch.points.shape[:2], FOREGROUND, device=batch.points.device)
        points, labels = _with_pad(batch.points, kinds)
        loss, logits = self._answer(embedding, points, labels, None, target, batch)
        if correct:
            points, labels = corrected(batch.points, logits, target, batch.masks.shape[-1])
            prior = logits.detach()
            second, logits = self._answer(embedding, points, labels, prior, target, batch)
            loss = (loss + second) / 2
        return Answered(loss, *_overlap(logits.detach(), target))

    def _answer(
        self,
        embedding: Tensor,
        points: Tensor,
        labels: Tensor,
        prior: Tensor | None,
        target: Tensor,
        batch: Batch,
    ) -> tuple[Tensor, Tensor]:
        with self._autocast(batch.hu.device):
            logits, score = self.model.decode(
                embedding, points, labels, prior, slice_size=batch.hu.shape[-1]
            )
        logits, score = logits.float(), score.float()
        return self.loss(logits, target) + score_loss(score, logits, target), logits

    def _autocast(self, device: torch.device) -> Any:
        return torch.autocast(device.type, self.dtype, enabled=self.amp)


def _overlap(logits: Tensor, target: Tensor) -> tuple[float, float]:
    """Mean IoU and Dice of the clicks whose mask is not empty; NaN where there is none."""
    has_mask = target.flatten(1).any(1)
    if not has_mask.any():
        return math.nan, math.nan
    iou = mask_iou(logits, target)[has_mask]
    return iou.mean().item(), (2 * iou / (1 + iou)).mean().item()


def low_resolution(masks: Tensor, size: int) -> Tensor:
    """Masks [B, 1, S, S] as float [B, 1, size, size]: cells at least 40 % covered.

    A lesion too thin to cover any cell so far takes every cell that it touches: it must not
    become an empty target, which means "no blood here".
    """
    covered = F.interpolate(masks.float(), size=(size, size), mode="area")
    low = covered >= 0.4
    vanished = ~low.flatten(1).any(1)
    low[vanished] = covered[vanished] > 0
    return low.float()


def corrected(
    points: Tensor, logits: Tensor, target: Tensor, slice_size: int
) -> tuple[Tensor, Tensor]:
    """The first clicks and one corrective click each, with SAM's pad point: [B, 3, 2] and [B, 3].

    The new click falls on a random wrong pixel of the low-resolution answer, foreground where the
    answer missed and background where it spilled; on the first click again where nothing is wrong.
    """
    wrong = ((logits > 0) != (target > 0.5)).flatten(1)
    weights = wrong.float()
    weights[~wrong.any(1), 0] = 1.0
    index = torch.multinomial(weights, 1)[:, 0]
    width = target.shape[-1]
    scale = slice_size / width
    cell = torch.stack([index % width, index // width], dim=1).float()
    second = (cell + 0.5) * scale - 0.5
    label = torch.where(target.flatten(1).gather(1, index[:, None])[:, 0] > 0.5, 1, 0)
    fine = ~wrong.any(1)
    second[fine], label[fine] = points[fine, 0], FOREGROUND
    on_nothing = ~target.flatten(1).any(1) & fine
    label[on_nothing] = BACKGROUND
    first_label = torch.full_like(label, FOREGROUND)
    both = torch.stack([points[:, 0], second], dim=1)
    return _with_pad(both, torch.stack([first_label, label], dim=1))


def _with_pad(points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """SAM's own "not a point", which stands wherever there is no box."""
    pad = torch.full_like(labels[:, :1], NOT_A_POINT)
    return torch.cat([points, torch.zeros_like(points[:, :1])], 1), torch.cat([labels, pad], 1)
