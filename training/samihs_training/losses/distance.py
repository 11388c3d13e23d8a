"""Losses that weight an error by its distance from the lesion's outline.

Distances are Euclidean, in pixels of the logits, from scipy through MONAI. With d_m(i) the distance
of pixel i to the other side of a mask m (0 everywhere for a mask that is empty or full)::

    boundary  = mean over pixels of phi(i) p(i),  phi = d_y outside y, -(d_y - 1) inside
    Hausdorff = mean over pixels of (p(i) - y(i))^2 (d_y(i)^alpha + d_[p > 0.5](i)^alpha)

Neither has any effect where the mask is empty and nothing is predicted above one half, and the
first is unbounded below; both were proposed, and are used here, together with an overlap loss::

    loss = (1 - weight) Dice + weight (boundary or Hausdorff)

Sources: Kervadec et al., MIDL 2019 (arXiv 1812.07032), which starts with a weight of 0.01; Karimi
and Salcudean, IEEE TMI 39(2) 2020 (arXiv 1904.10030).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from samihs_runtime.errors import UsageError
from samihs_training.losses.boundary_sensitive import Reduction
from samihs_training.losses.common import DiceLoss, check_weight


@dataclass(frozen=True)
class KervadecBoundaryLoss:
    """Kervadec's boundary loss with Dice: logits and masks [B, 1, H, W] -> scalar."""

    weight: float = 0.01
    reduction: Reduction = "sample"
    """How the Dice part is averaged."""

    def __post_init__(self) -> None:
        check_weight(self.weight)
        DiceLoss(self.reduction)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        from monai.losses.boundary_loss import BoundaryLoss

        boundary: Tensor = BoundaryLoss(sigmoid=True)(logits, target.to(logits.dtype))
        dice = DiceLoss(self.reduction)(logits, target)
        return (1 - self.weight) * dice + self.weight * boundary


@dataclass(frozen=True)
class HausdorffLoss:
    """Karimi's Hausdorff-distance loss (by distance transforms) with Dice."""

    weight: float = 0.01
    alpha: float = 2.0
    """Exponent of the distance; Karimi and Salcudean found 1 to 3 to do well."""
    reduction: Reduction = "sample"
    """How the Dice part is averaged."""

    def __post_init__(self) -> None:
        check_weight(self.weight)
        DiceLoss(self.reduction)
        if self.alpha <= 0:
            raise UsageError(f"loss alpha {self.alpha}: expected above 0")

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        from monai.losses.hausdorff_loss import HausdorffDTLoss

        loss = HausdorffDTLoss(alpha=self.alpha, sigmoid=True, include_background=True)
        distance: Tensor = loss(logits, target.to(logits.dtype))
        dice = DiceLoss(self.reduction)(logits, target)
        return (1 - self.weight) * dice + self.weight * distance
