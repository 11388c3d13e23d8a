"""The boundary-sensitive loss of SAMIHS (arXiv 2311.08190).

For probabilities p and a mask y, with C the foreground pixels that have at least one of their four
neighbours outside (outside the image counts as outside), S the foreground pixels, e = 1e-5::

    a   = min(2 (1 - (C + e) / (S + e)) - 1, 0.8)
    L_b = (sum p^2 + sum y^2 - 2 sum p y + e) / (sum p^2 + sum y^2 - (1 + a) sum p y + e)
    L   = (1 - w) BCE(logits, y; pos_weight 2) + w L_b

A large compact lesion has a near 0.8. A thin one, which is all boundary, has a near -1, where L_b
is the Dice loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from samihs_runtime.errors import UsageError
from samihs_training.losses.cross_entropy import CrossEntropyLoss, Over

EPSILON = 1e-5
Reduction = Literal["batch", "sample"]


@dataclass(frozen=True)
class BoundarySensitiveLoss:
    """Callable: logits [B, 1, H, W] and masks [B, 1, H, W] in {0, 1} -> scalar."""

    weight: float = 0.5
    """w: share of the boundary term."""
    cap: float = 0.8
    """Upper bound of a."""
    pos_weight: float = 2.0
    """Weight of foreground pixels in the cross entropy."""
    reduction: Reduction = "sample"
    """``sample``: the mean of each sample's L_b, so that a large lesion does not outweigh a small
    one; ``batch``: one C, S and L_b over all samples, as the authors do."""
    over: Over = "pixels"
    """What the cross entropy is averaged over; ``pixels`` as the authors (``cross_entropy.py``)."""

    def __post_init__(self) -> None:
        CrossEntropyLoss(self.pos_weight, self.over)
        if not 0 <= self.weight <= 1:
            raise UsageError(f"loss weight {self.weight}: expected 0 to 1")
        if self.reduction not in ("batch", "sample"):
            raise UsageError(f"loss reduction {self.reduction!r}: expected batch or sample")

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        target = target.to(logits.dtype)
        bce = CrossEntropyLoss(self.pos_weight, self.over)(logits, target)
        return (1 - self.weight) * bce + self.weight * self.boundary(logits.sigmoid(), target)

    def boundary(self, probability: Tensor, target: Tensor) -> Tensor:
        """L_b of probabilities and masks [B, 1, H, W]: a scalar."""
        axes = (0, 1, 2, 3) if self.reduction == "batch" else (1, 2, 3)
        contour = contour_of(target).sum(axes)
        area = target.sum(axes)
        ratio = (contour + EPSILON) / (area + EPSILON)
        a = (2 * (1 - ratio) - 1).clamp(max=self.cap)
        squares = probability.square().sum(axes) + target.square().sum(axes)
        overlap = (probability * target).sum(axes)
        numerator = squares - 2 * overlap + EPSILON
        denominator = squares - (1 + a) * overlap + EPSILON
        return (numerator / denominator).mean()


def contour_of(target: Tensor) -> Tensor:
    """Foreground pixels [B, 1, H, W] with a 4-neighbour outside it, or on the image's edge."""
    padded = F.pad(target, (1, 1, 1, 1))
    inside = padded[..., :-2, 1:-1] * padded[..., 2:, 1:-1]
    inside = inside * padded[..., 1:-1, :-2] * padded[..., 1:-1, 2:]
    return target * (1 - inside)
