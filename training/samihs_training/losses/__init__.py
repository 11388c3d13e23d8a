"""Losses by name.

>>> loss = build_loss("boundary_sensitive", weight=0.7)
>>> loss(logits, masks)  # [B, 1, H, W] each -> scalar
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from samihs_runtime.errors import UsageError
from samihs_training.losses.boundary_sensitive import BoundarySensitiveLoss, contour_of
from samihs_training.losses.common import DiceCrossEntropyLoss, DiceLoss, FocalLoss
from samihs_training.losses.cross_entropy import CrossEntropyLoss
from samihs_training.losses.distance import HausdorffLoss, KervadecBoundaryLoss
from samihs_training.losses.score import dice_of, mask_iou, score_error, score_loss
from samihs_training.options import with_options

__all__ = [
    "LOSSES",
    "BoundarySensitiveLoss",
    "CrossEntropyLoss",
    "DiceCrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "HausdorffLoss",
    "KervadecBoundaryLoss",
    "Loss",
    "build_loss",
    "contour_of",
    "dice_of",
    "mask_iou",
    "score_error",
    "score_loss",
]

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits and masks, both [B, 1, H, W] -> scalar."""

LOSSES: dict[str, Callable[..., Loss]] = {
    "boundary_sensitive": BoundarySensitiveLoss,
    "bce": CrossEntropyLoss,
    "dice": DiceLoss,
    "dice_bce": DiceCrossEntropyLoss,
    "focal": FocalLoss,
    "kervadec": KervadecBoundaryLoss,
    "hausdorff": HausdorffLoss,
}
"""Name in a recipe -> frozen dataclass; its fields are the loss's options."""


def build_loss(name: str, **options: Any) -> Loss:
    """The loss of that name.

    Raises:
        UsageError: no such loss, an option that it does not have, or a value out of range.
    """
    if name not in LOSSES:
        raise UsageError(f"loss {name!r}: expected one of {', '.join(LOSSES)}")
    return with_options(LOSSES[name], options, f"loss {name}")
