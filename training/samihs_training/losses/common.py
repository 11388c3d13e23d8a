"""The usual losses of segmentation: Dice, its sum with cross entropy, focal.

All take logits [B, 1, H, W] and masks [B, 1, H, W] in {0, 1} and give a scalar. For probabilities
p = sigmoid(logits), a mask y, and p_t = p where y is 1, else 1 - p::

    Dice  = 1 - (2 sum p y + e) / (sum p + sum y + e)
    focal = mean over pixels of -(alpha y + (1 - alpha)(1 - y)) (1 - p_t)^gamma log p_t

Dice is MONAI's ``DiceLoss`` (Milletari et al., 2016, without squares), focal its
``sigmoid_focal_loss`` (Lin et al., 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from samihs_runtime.errors import UsageError
from samihs_training.losses.boundary_sensitive import EPSILON, Reduction
from samihs_training.losses.cross_entropy import CrossEntropyLoss, Over


@dataclass(frozen=True)
class DiceLoss:
    """Soft Dice. For an empty mask it is least if nothing is predicted, and nearly 1 otherwise."""

    reduction: Reduction = "sample"
    """``sample``: the mean of the samples' losses; ``batch``: sums run over all samples."""

    def __post_init__(self) -> None:
        if self.reduction not in ("batch", "sample"):
            raise UsageError(f"loss reduction {self.reduction!r}: expected batch or sample")

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        from monai.losses.dice import DiceLoss as MonaiDice  # MONAI is slow to import

        loss = MonaiDice(
            sigmoid=True, batch=self.reduction == "batch", smooth_nr=EPSILON, smooth_dr=EPSILON
        )
        value: Tensor = loss(logits, target.to(logits.dtype))
        return value


@dataclass(frozen=True)
class DiceCrossEntropyLoss:
    """(1 - weight) BCE + weight Dice."""

    weight: float = 0.5
    pos_weight: float = 1.0
    reduction: Reduction = "sample"
    over: Over = "pixels"
    """What the cross entropy is averaged over (:class:`CrossEntropyLoss`)."""

    def __post_init__(self) -> None:
        check_weight(self.weight)
        CrossEntropyLoss(self.pos_weight, self.over)
        DiceLoss(self.reduction)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        cross_entropy = CrossEntropyLoss(self.pos_weight, self.over)(logits, target)
        return (1 - self.weight) * cross_entropy + self.weight * DiceLoss(self.reduction)(
            logits, target
        )


@dataclass(frozen=True)
class FocalLoss:
    """Cross entropy that gives less weight to easy pixels."""

    gamma: float = 2.0
    """0 is (alpha-weighted) cross entropy."""
    alpha: float = 0.75
    """Weight of the foreground, 1 - alpha that of the background: hemorrhage is the rare class."""

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise UsageError(f"loss gamma {self.gamma}: expected 0 or more")
        if not 0 < self.alpha < 1:
            raise UsageError(f"loss alpha {self.alpha}: expected between 0 and 1")

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        # Not MONAI's FocalLoss class, which rounds everything to float32 first.
        from monai.losses.focal_loss import sigmoid_focal_loss

        loss: Tensor = sigmoid_focal_loss(logits, target.to(logits.dtype), self.gamma, self.alpha)
        return loss.mean()


def check_weight(weight: float) -> None:
    """Refuse a weight that is not a share.

    Raises:
        UsageError: ``weight`` outside 0 to 1.
    """
    if not 0 <= weight <= 1:
        raise UsageError(f"loss weight {weight}: expected 0 to 1")
