"""What a bundle says of the prompts that its model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class TrainedPrompts:
    """The prompts that a model has learnt to answer (``answering.py`` asks it no others)."""

    points: int | None = None
    """Points at once, corrections among them; None where nothing is known: any number is taken."""
    boxes: bool = True

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> Self:
        """As the export wrote them into a manifest's or an adapter set's ``provenance``."""
        stated = provenance.get("prompts")
        if not isinstance(stated, Mapping):
            return cls()
        return cls(points=max(int(stated["points"]), 1), boxes=bool(stated["boxes"]))
