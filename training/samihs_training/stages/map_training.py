"""How the map of all blood is trained beside the model: alone at first, and then as its teacher.

The map is new in each round, while the model whose features it reads may be well trained. A map
with random weights gives logits of either sign; while those of a whole slice turn negative, a cross
entropy over what little bleeds is a hundred times any other loss (for a model that had trained for
hours: 1.2, then 36 six steps later). With gradients clipped together, the model would follow that
loss alone. So the map starts as "no blood anywhere", learns fast, and is clipped separately; its
gradient reaches the model only once the map knows what the model knew.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from samihs_training.network.bleed_map import BleedMap

ALONE_STEPS = 40
"""Steps before the map's gradient reaches the model: two half-lives of the map's own rate."""
FIRST_RATE = 5e-2
"""Its learning rate at step 0: it has few weights, which read features of 1 to 20."""
HALVED_EVERY = 20
"""Steps; the rate falls to the stage's own and then follows it."""


class MapTraining:
    """A map of blood with an optimiser of its own."""

    def __init__(self, bleed_map: BleedMap, clip: float) -> None:
        """``clip``: largest norm of the map's gradient; 0 for none."""
        self.bleed_map = bleed_map
        self.clip = clip
        self.optimiser = torch.optim.AdamW(bleed_map.parameters(), FIRST_RATE)

    def is_alone(self, step: int) -> bool:
        """Whether the map learns at this step without training the model."""
        return step < ALONE_STEPS

    def set_rate(self, step: int, rate: float) -> None:
        """Set the map's learning rate for step ``step``, at which the stage has ``rate``."""
        for group in self.optimiser.param_groups:
            group["lr"] = max(rate, FIRST_RATE * 0.5 ** (step / HALVED_EVERY))

    def clip_gradient(self) -> None:
        """Clip by the map's own norm, which leaves the model's gradient as it is."""
        if self.clip:
            nn.utils.clip_grad_norm_(self.bleed_map.parameters(), self.clip)

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser."""
        return {"map": self.bleed_map.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.bleed_map.load_state_dict(state["map"])
        self.optimiser.load_state_dict(state["optimiser"])
