"""Paint the brain: CSF inside the skull, tissue with its cortex and nuclei, ventricles, dura."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import Array, ramp
from .brain import Brain
from .canvas import Window
from .dura import paint_dura
from .options import Tissue
from .scene import Scene


@dataclass(frozen=True)
class Parts:
    """Covers (0 to 1) of the parts of a brain, each [segments, rows, columns] of `window`."""

    window: Window
    inside: Array
    """Cover of the braincase."""
    fluid: Array
    """Cover of sulci, fissures, cisterns and the space over the convexity."""
    chamber: Array
    """Cover of the ventricles."""
    infratentorial: Array
    from_surface: Array
    """Not a cover: distance of brain from the nearest CSF outside the ventricles, mm."""
    from_chamber: Array
    """Not a cover: distance from the walls of the ventricles, mm."""

    @property
    def tissue(self) -> Array:
        """Cover of brain tissue."""
        fluid = np.maximum(self.fluid, self.chamber)
        return np.asarray(np.clip(1 - fluid, 0, 1) * self.inside)


def paint_brain(brain: Brain, scene: Scene) -> None:
    """Everything that a brain without bleeding has, and the covers that bleeds need."""
    parts = _parts(brain, scene)
    if parts is None:
        return
    canvas, window = scene.canvas, parts.window
    tissue = parts.tissue
    grey = _grey_share(brain, scene, parts)
    stem = scene.grid.lift_to(scene.fields.stem, window).below()
    canvas.blend(window, tissue, _tissue_hu(brain, scene, parts, grey, stem))
    _label(scene, parts, tissue, grey, stem)
    full = (canvas.hu.shape[0], canvas.plane.matrix, canvas.plane.matrix)
    scene.csf = np.zeros(full, np.float32)
    scene.parenchyma = np.zeros(full, np.float32)
    scene.csf[:, *window.index] = np.maximum(parts.fluid - parts.chamber, 0) * parts.inside
    scene.parenchyma[:, *window.index] = tissue
    scene.lining = np.zeros(full, np.float32)
    paint_dura(brain, scene)


def _parts(brain: Brain, scene: Scene) -> Parts | None:
    """Cut the brain's fields at their surfaces; fills the braincase with CSF on the way."""
    grid, f = scene.grid, scene.fields
    inside = grid.lift(scene.inner, 1.5)
    if inside is None:
        return None
    window = inside.window
    scene.canvas.blend(window, inside.below(1.5), brain.csf_hu, Tissue.CSF)
    open_share = 1 - 0.9 * scene.effacement
    half_width = grid.values(brain.sulcus * open_share + scene.swelling, window)
    space = brain.space_width(scene.q) * open_share + scene.swelling
    surface = grid.lift_to(space - f.depth, window)
    sulcus, sulcus_floor = grid.lift_to(f.sulcus, window), grid.lift_to(f.sulcus_floor, window)
    fissure, fissure_floor = grid.lift_to(f.fissure, window), grid.lift_to(f.fissure_floor, window)
    sylvian = f.sylvian + 1.2 * scene.effacement - scene.swelling
    cisterns = grid.lift_to(np.minimum(sylvian, f.cistern), window)
    petrous = 3.0 + 0.5 * np.maximum(np.abs(scene.q.x) - 8, 0)
    below = np.maximum(np.maximum(f.tentorium, petrous - scene.q.y), -40 - f.depth)
    infratentorial = grid.lift_to(below, window).below()
    cerebral = 1 - infratentorial
    furrow = sulcus.within(half_width) * sulcus_floor.below() * cerebral
    split = fissure.within(0.35 + 0.5 * half_width) * fissure_floor.below() * cerebral
    outside = np.maximum(cisterns.below(), 1 - surface.below())
    ventricles = grid.lift_to(scene.ventricles, window)
    from_furrow = np.maximum(np.abs(sulcus.middle) - half_width, sulcus_floor.middle)
    from_split = np.maximum(np.abs(fissure.middle) - half_width, fissure_floor.middle)
    from_outside = np.minimum(-surface.middle, cisterns.middle)
    return Parts(
        window=window,
        inside=inside.below(),
        fluid=np.maximum(np.maximum(furrow, split), outside),
        chamber=ventricles.below(),
        infratentorial=infratentorial,
        from_surface=np.minimum(from_outside, np.minimum(from_furrow, from_split)),
        from_chamber=ventricles.middle,
    )


def _grey_share(brain: Brain, scene: Scene, parts: Parts) -> Array:
    """Share of grey matter: the ribbon under every surface, and the deep nuclei (paler)."""
    cortex = ramp(parts.from_surface - brain.ribbon, 1.6)
    deep = scene.grid.lift_to(scene.fields.deep, parts.window).below() * 0.85
    return np.asarray(np.maximum(cortex, deep))


def _tissue_hu(brain: Brain, scene: Scene, parts: Parts, grey: Array, stem: Array) -> Array:
    """HU of brain tissue, `grey` and `stem` being covers."""
    window = parts.window
    aged = brain.leukoaraiosis * np.exp(-np.maximum(parts.from_chamber, 0) / 7.0)
    white = brain.white_hu - aged
    hu = white + scene.grid.values(brain.tone(scene.q), window) + (brain.grey_hu - white) * grey
    folia = scene.grid.values(brain.folia(scene.q), window)
    hu += parts.infratentorial * (brain.grey_hu - 1.0 + 1.1 * folia - hu)
    hu += stem * (0.5 * (brain.white_hu + brain.grey_hu) - hu)
    return np.asarray(hu)


def _label(scene: Scene, parts: Parts, tissue: Array, grey: Array, stem: Array) -> None:
    labels = scene.canvas.tissues[parts.window.index]
    solid = _most(tissue)
    labels[solid] = np.where(_most(grey), Tissue.GREY, Tissue.WHITE)[solid]
    labels[solid & _most(parts.infratentorial)] = Tissue.CEREBELLUM
    labels[solid & _most(stem)] = Tissue.BRAINSTEM
    labels[_most(parts.chamber) & _most(parts.inside)] = Tissue.VENTRICLE


def _most(cover: Array) -> Array:
    return np.asarray(cover.mean(axis=0) > 0.5)
