"""The dura: falx, tentorium and the lining of the skull, sheets about as thin as a pixel."""

from __future__ import annotations

import numpy as np

from .brain import Brain
from .canvas import Lifted
from .options import Tissue
from .scene import Scene


def paint_dura(brain: Brain, scene: Scene) -> None:
    """Paint all sheets, and record the cover of the lining, below which bleeds are painted."""
    canvas, grid, f = scene.canvas, scene.grid, scene.fields
    for sheet, edge in (
        (f.fissure, np.maximum(f.falx_floor, scene.inner)),
        (f.tentorium, np.maximum(f.tentorium_edge, scene.inner)),
    ):
        lifted = grid.lift(np.maximum(np.abs(sheet) - 2.0, edge), 0.0)
        if lifted is not None:
            cover = grid.lift_to(sheet, lifted.window).within(brain.falx)
            cover *= grid.lift_to(edge, lifted.window).below()
            canvas.blend(lifted.window, cover, scene.dura_hu, Tissue.DURA)
    half = scene.dura_mm / 2
    lining = grid.lift(scene.inner + half, half)
    if lining is not None:
        cover = lining.within(half)
        canvas.blend(lining.window, cover, scene.dura_hu, Tissue.DURA)
        scene.lining[:, *lining.window.index] = cover


def paint_stripped_dura(scene: Scene, collection: Lifted) -> None:
    """The lining where a `collection` has stripped it off the bone: on the brain's side of it."""
    cover = collection.below(scene.dura_mm) - collection.below()
    scene.canvas.blend(collection.window, cover, scene.dura_hu, Tissue.DURA)
