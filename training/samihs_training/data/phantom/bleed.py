"""What all bleeds have in common, and the ranges they share."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .arrays import Array, Points
from .canvas import Window
from .options import BleedType
from .ranges import Range
from .scene import Scene
from .shapes import Vector

VOLUMES = {
    BleedType.INTRAPARENCHYMAL: Range(
        0.1, 90, "mL", "textbook; log so that small ones count", True
    ),
    BleedType.INTRAVENTRICULAR: Range(
        0.3, 45, "mL", "textbook: up to a cast of the ventricles", True
    ),
    BleedType.SUBARACHNOID: Range(0.5, 40, "mL", "textbook: thin layers to filled cisterns", True),
    BleedType.SUBDURAL: Range(1.0, 150, "mL", "textbook: thin film to 150 mL chronic", True),
    BleedType.EPIDURAL: Range(0.8, 110, "mL", "textbook", True),
}
ACUTE_HU = Range(52, 82, "HU", "textbook: clotted blood 50 to 90 HU, by hematocrit")
SUBACUTE_HU = Range(32, 48, "HU", "textbook: isodense after one to three weeks")


class Bleed(ABC):
    """One bleed of one patient."""

    kind: BleedType
    volume_ml: float
    """Volume asked for, mL."""
    centre: Vector
    """A point in or near the middle, mm."""
    heights: tuple[float, float]
    """Its lowest and highest point, mm along the head's z."""

    def push(
        self, p: Points, depth: Array, vault_depth: Array
    ) -> tuple[Array, Array, Array] | None:
        """Step from displaced to undisplaced tissue, mm, or None if the bleed displaces nothing.

        `depth` is below the inner surface of the skull, `vault_depth` below the vault, mm.
        """
        return None

    def widen_sulci(self, p: Points) -> Array | None:
        """mm that blood adds to the half width of sulci, or None."""
        return None

    @abstractmethod
    def paint(self, scene: Scene) -> None:
        """Add HU, tissue and bleed labels to the scene's slice."""

    def _label(self, scene: Scene, window: Window, cover: Array) -> None:
        mask = cover.mean(axis=0) > 0.5
        scene.canvas.bleeds[window.index][mask] = self.kind
