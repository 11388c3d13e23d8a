"""Blood between skull and brain: what subdural and epidural collections share."""

from __future__ import annotations

import numpy as np

from .arrays import Array, Points
from .bleed import Bleed
from .content import Content
from .dura import paint_stripped_dura
from .layers import Layer
from .scene import Scene


class ExtraAxial(Bleed):
    """A layer under the skull that is filled with blood."""

    strips_dura = False
    """Whether it lies between bone and dura, or within the dura."""
    content: Content
    _layer: Layer
    _reach: float

    @property
    def thickness_mm(self) -> float:
        """Thickness where it is largest."""
        return self._layer.thickness

    def push(self, p: Points, depth: Array, vault_depth: Array) -> tuple[Array, Array, Array]:
        """The brain under the collection moves away from the skull, less so the deeper it lies."""
        thick = np.maximum(self._layer.at(p), 0)
        step = thick * np.exp(-np.maximum(vault_depth - thick, 0) / self._reach)
        out = self._layer.skull.outward(p)
        return out.x * step, out.y * step, out.z * step

    def paint(self, scene: Scene) -> None:
        """Fill the layer."""
        field = np.maximum(-scene.vault - self._layer.at(scene.p), self._bounds(scene.p))
        lifted = scene.grid.lift(np.maximum(field, scene.inner - 2), 0.0)
        if lifted is None:
            return
        cover = lifted.below()
        if self.strips_dura:
            paint_stripped_dura(scene, lifted)
        else:
            cover *= scene.within_dura(lifted.window)
        self.content.paint(self, scene, lifted, cover)
        self._label(scene, lifted.window, cover)

    def _bounds(self, p: Points) -> Array | float:
        """mm beyond what limits the collection besides bone and brain; negative inside."""
        return -np.inf
