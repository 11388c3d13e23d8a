"""Binary cross entropy, averaged over pixels or over the lesion of each sample.

For logits, p = sigmoid(logits) and a mask y, [B, 1, H, W]::

    e = -(w y log p + (1 - y) log(1 - p))
    over pixels:  mean of e
    over lesion:  mean over samples of (sum of e) / max(sum y, number of p > 1/2, 32)

Hemorrhages cover from ten to thousands of a slice's pixels. A mean over all pixels weights them by
area, and a collection of which half is confidently missed has little effect: there the gradient of
Dice vanishes with p (1 - p), and the boundary-sensitive loss is flat. Over the lesion, every sample
counts equally, and what is missed still counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from samihs_runtime.errors import UsageError

Over = Literal["pixels", "lesion"]
LEAST_AREA = 32
"""Pixels of the mask; the smallest area that a sample's cross entropy is divided by."""


@dataclass(frozen=True)
class CrossEntropyLoss:
    """Callable: logits [B, 1, H, W] and masks [B, 1, H, W] in {0, 1} -> scalar."""

    pos_weight: float = 2.0
    """w: weight of foreground pixels; 2 as in the authors' loss."""
    over: Over = "pixels"

    def __post_init__(self) -> None:
        if self.pos_weight <= 0:
            raise UsageError(f"loss pos_weight {self.pos_weight}: expected above 0")
        if self.over not in ("pixels", "lesion"):
            raise UsageError(f"loss over {self.over!r}: expected pixels or lesion")

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        target, weight = target.to(logits.dtype), logits.new_tensor(self.pos_weight)
        if self.over == "pixels":
            return F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
        each = F.binary_cross_entropy_with_logits(
            logits, target, pos_weight=weight, reduction="none"
        )
        areas = torch.stack([target.sum((1, 2, 3)), (logits > 0).sum((1, 2, 3))])
        return (each.sum((1, 2, 3)) / areas.amax(0).clamp(min=LEAST_AREA)).mean()
