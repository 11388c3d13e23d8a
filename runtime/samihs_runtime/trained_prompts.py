"""What a bundle says of the prompts that its model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from samihs_runtime.errors import BundleError


@dataclass(frozen=True)
class TrainedPrompts:
    """The prompts that a model has learnt to answer (``answering.py`` asks it no others)."""

    points: int | None = None
    """Points at once, corrections among them; None where nothing is known: any number is taken."""
    boxes: bool = True

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> Self:
        """As the export wrote them into a manifest's or an adapter set's ``provenance``.

        Raises:
            BundleError: they are stated, but not as a number of points and a word on boxes.
        """
        stated = provenance.get("prompts")
        if not isinstance(stated, Mapping):
            return cls()
        points, boxes = stated.get("points"), stated.get("boxes")
        # A bool is an int to Python, and no number of points.
        if type(points) is not int or not isinstance(boxes, bool):
            raise BundleError(
                f"provenance.prompts is {dict(stated)}: expected points, a whole number, "
                "and boxes, true or false; export the bundle again"
            )
        return cls(points=max(points, 1), boxes=boxes)
