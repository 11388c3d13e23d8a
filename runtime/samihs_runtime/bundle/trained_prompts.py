"""What a bundle states about the prompts that its model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from samihs_runtime.errors import BundleError


@dataclass(frozen=True)
class TrainedPrompts:
    """The prompts that a model was trained to answer (``answering.py`` uses no others)."""

    points: int | None = None
    """Points at once, corrections included; None if unknown: any number is then accepted."""
    boxes: bool = True

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> Self:
        """Read what the export wrote into the ``provenance`` of a manifest or an adapter set.

        Raises:
            BundleError: the prompts are stated, but not as an integer ``points`` and a bool
                ``boxes``.
        """
        stated = provenance.get("prompts")
        if not isinstance(stated, Mapping):
            return cls()
        points, boxes = stated.get("points"), stated.get("boxes")
        # In Python a bool is an int, but it is not a number of points.
        if type(points) is not int or not isinstance(boxes, bool):
            raise BundleError(
                f"provenance.prompts is {dict(stated)}: expected points, a whole number, "
                "and boxes, true or false; export the bundle again"
            )
        return cls(points=max(points, 1), boxes=boxes)
