"""The loss of the predicted score: how far it is from the mask's IoU."""

from __future__ import annotations

import torch
from torch import Tensor


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU [B] of logits > 0 with masks [B, 1, H, W]; 0 where the target is empty.

    That zero is what teaches the score to say "no blood at this click".
    """
    predicted, wanted = logits > 0, target > 0.5
    both = (predicted & wanted).sum((1, 2, 3))
    either = (predicted | wanted).sum((1, 2, 3))
    return both / either.clamp(min=1)


def dice_of(iou: Tensor) -> Tensor:
    """The Dice of masks with these IoUs."""
    return 2 * iou / (1 + iou)


def score_loss(score: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """The error of the predicted IoU [B] of masks [B, 1, H, W]."""
    return score_error(score, mask_iou(logits.detach(), target))


def score_error(score: Tensor, iou: Tensor) -> Tensor:
    """Mean squared error of a predicted IoU [B], as segment-anything trains its IoU head."""
    return torch.mean((score - iou) ** 2)
