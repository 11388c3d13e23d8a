"""Paint one slice of a patient: from skin to metal, before the scanner blurs and adds noise."""

from __future__ import annotations

import numpy as np

from .arrays import Array
from .canvas import Canvas, Grid, SlicePlane, Window
from .cerebrum import paint_brain
from .gaps import paint_gaps
from .incidentals import Grain, Patch, Rod
from .options import Tissue
from .patient import Patient
from .scene import Scene
from .skull import bone_hu

_BLOODY = (Tissue.BLOOD, Tissue.MEMBRANE)


def paint_slice(patient: Patient, plane: SlicePlane, down: tuple[float, float, float]) -> Canvas:
    """HU [segments, matrix, matrix] and labels of a slice; `down` is gravity, head coordinates."""
    canvas = Canvas(plane)
    window = _head_window(patient, canvas)
    if window is None:
        return canvas
    grid = canvas.grid(window)
    skin = patient.face.skin(grid.points)
    patient.face.paint_soft(canvas, grid, skin)
    scene = _scene(patient, canvas, grid, down)
    if (scene.inner < 1.0).any():
        paint_brain(patient.brain, scene)
        _paint_inside(patient, scene)
    _paint_skull(patient, scene, skin)
    if patient.fracture is not None and patient.fracture.depression is not None:
        patient.fracture.depression.paint(scene)
    patient.face.paint_bones(canvas, grid)
    for thing in patient.incidentals:
        if _is_hardware(thing):
            thing.paint(scene)
    paint_gaps(patient.gaps, scene)
    canvas.bleeds[~np.isin(canvas.tissues, _BLOODY)] = 0
    return canvas


def _is_hardware(thing: Rod | Grain | Patch) -> bool:
    """Catheters and metal pass through everything, so they are painted last."""
    return not isinstance(thing, Patch) and thing.tissue in (Tissue.CATHETER, Tissue.METAL)


def _head_window(patient: Patient, canvas: Canvas) -> Window | None:
    matrix = canvas.plane.matrix
    step = max(4, matrix // 64)
    grid = canvas.grid(Window(0, matrix, 0, matrix), step)
    near = np.any(patient.face.skin(grid.points) < 4.0, axis=0)
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if rows.size == 0:
        return None
    return Window(
        max(0, (rows[0] - 1) * step),
        min(matrix, (rows[-1] + 1) * step + 1),
        max(0, (columns[0] - 1) * step),
        min(matrix, (columns[-1] + 1) * step + 1),
    )


def _scene(patient: Patient, canvas: Canvas, grid: Grid, down: tuple[float, float, float]) -> Scene:
    p = grid.points
    vault = patient.skull.vault(p)
    inner = patient.skull.inner(p, vault)
    q = patient.displaced(p, -inner, -vault)
    gap = float(np.diff(canvas.plane.offsets).mean())
    fields = patient.brain.fields(q, -patient.skull.inner(q), (gap, grid.step * grid.pixel))
    return Scene(
        canvas=canvas,
        grid=grid,
        vault=vault,
        inner=inner,
        outer=patient.skull.outer(p, vault),
        q=q,
        fields=fields,
        ventricles=patient.ventricles.distance(q),
        down=down,
        effacement=patient.effacement(p),
        swelling=patient.swelling(p),
        dura_hu=patient.brain.dura_hu,
        dura_mm=patient.dura_mm,
    )


def _paint_inside(patient: Patient, scene: Scene) -> None:
    """Incidental findings under blood, then blood, what shines through it, and air."""
    for thing in patient.incidentals:
        if isinstance(thing, Patch):
            thing.paint(scene)
    for thing in patient.incidentals:
        if not isinstance(thing, Patch) and thing.tissue is Tissue.VESSEL:
            thing.paint(scene)
    for bleed in patient.bleeds:
        bleed.paint(scene)
    for thing in patient.incidentals:
        if not isinstance(thing, Patch) and thing.tissue is Tissue.CALCIFICATION:
            thing.paint(scene)
    if patient.fracture is not None:
        for bubble in patient.fracture.air:
            bubble.paint(scene)


def _paint_skull(patient: Patient, scene: Scene, skin: Array) -> None:
    """The bone shell over everything that reaches it, and the air of the frontal sinus."""
    canvas, grid, skull = scene.canvas, scene.grid, patient.skull
    outer = np.maximum(scene.outer, skin + 2.5)
    lifted = grid.lift(outer, 0.0)
    if lifted is None:
        return
    window = lifted.window
    inner = grid.lift_to(scene.inner, window)
    cover = lifted.below() * (1 - inner.below())
    diploe = grid.values(skull.diploe(scene.p), window)
    hu = bone_hu(inner.middle, lifted.middle, skull.table, skull.table_hu, diploe)
    canvas.blend(window, cover, hu, Tissue.BONE)
    if float(scene.p.z.min()) < 15:
        canvas.paint(grid, skull.frontal_sinus(scene.p), -970.0, Tissue.AIR)
