"""How closely two implementations of one model must agree; if they do not, nothing is written.

::

    weights     judged by                                       against
    trained     masks, volume, score, logits, embedding         float32 torch, fixed limits
    random      embedding and logits: a mask near 0 everywhere  float64 torch, as a multiple of
                says little about precision                     float32 torch's own error
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Gates:
    """Limits of one comparison. Relative: max abs difference / max abs of the reference."""

    embedding_relative: float
    logits_relative: float
    score_difference: float | None
    mask_iou_mean: float | None
    """None if masks are not judged: with random weights every logit is near 0."""
    mask_iou_min: float | None
    volume_relative: float | None
    """Difference in total mask area, relative to the reference's."""


MERGE_GATES = Gates(1e-5, 1e-4, 1e-3, 0.999, 0.99, 1e-3)
"""float32 rounding of a folded product; cancellation in the decoder amplifies it."""
FP32_GATES = Gates(1e-4, 1e-3, 1e-3, 0.999, 0.99, 1e-3)
"""The same arithmetic in another order of summation."""
HALF_GATES = Gates(5e-2, 1e-1, 2e-2, 0.995, 0.95, 1e-2)
"""fp16 and bf16: 11 and 8 bits of mantissa; what matters is the mask."""
EIGHT_BIT_GATES = Gates(1e-1, 2e-1, 5e-2, 0.98, 0.90, 2e-2)
"""int8 and fp8: 4 to 8 bits in the encoder's linear layers; what matters is the mask."""

GATES = {
    "fp32": FP32_GATES,
    "fp16": HALF_GATES,
    "bf16": HALF_GATES,
    "int8": EIGHT_BIT_GATES,
    "fp8": EIGHT_BIT_GATES,
}

ROUNDOFF = {"fp32": 2**-24, "fp16": 2**-11, "bf16": 2**-8, "int8": 1 / 254, "fp8": 2**-4}
"""Unit roundoff: half a unit in the last place; for int8, half a step at the largest value."""
OWN_ERROR_FACTOR = 10.0
"""For random weights: an implementation's error may be this many times float32 torch's own error,
scaled by the ratio of roundoffs. A different order of summation gives a few times that error; a
fault, thousands of times."""
MOST_RANDOM_ERROR = 0.2
"""Upper bound of that limit, relative: for bf16 and fp8 the ratio alone would let faults pass."""


def gates_for(precision: str, *, trained: bool = True) -> Gates:
    """The fixed limits of a precision; for random weights, without those of the masks."""
    gates = GATES[precision]
    return gates if trained else numbers_only(gates)


def numbers_only(gates: Gates) -> Gates:
    """The gates without those of the masks, for random weights."""
    return dataclasses.replace(gates, mask_iou_mean=None, mask_iou_min=None, volume_relative=None)


@dataclass(frozen=True)
class OwnError:
    """Relative errors of float32 torch against float64 torch, with the weights at hand."""

    embedding: float
    logits: float

    def gates(self, precision: str) -> Gates:
        """Limits for random weights: :data:`OWN_ERROR_FACTOR` times this error, by roundoff."""
        factor = OWN_ERROR_FACTOR * ROUNDOFF[precision] / ROUNDOFF["fp32"]
        embedding, logits = (
            min(factor * max(error, ROUNDOFF["fp32"]), MOST_RANDOM_ERROR)
            for error in (self.embedding, self.logits)
        )
        return Gates(embedding, logits, None, None, None, None)
