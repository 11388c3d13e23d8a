"""Paint one slice of a patient: from skin to metal, before the scanner blurs and adds noise."""

from __future__ import annotations

import numpy as np

from .arrays import Array, Points, ramp
from .canvas import Canvas, Grid, Lifted, SlicePlane, Window
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
        _paint_brain(patient, scene)
        _paint_inside(patient, scene)
    _paint_skull(patient, scene, skin)
    patient.face.paint_bones(canvas, grid)
    for thing in patient.incidentals:
        if thing_is_hardware(thing):
            thing.paint(scene)
    canvas.bleeds[~np.isin(canvas.tissues, _BLOODY)] = 0
    return canvas


def thing_is_hardware(thing: Rod | Grain | Patch) -> bool:
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
    )


def _paint_brain(patient: Patient, scene: Scene) -> None:
    """CSF everywhere inside the skull, then brain with its cortex, nuclei and sulci."""
    canvas, grid, brain, f = scene.canvas, scene.grid, patient.brain, scene.fields
    inside = grid.lift(scene.inner, 1.5)
    if inside is None:
        return
    window = inside.window
    canvas.blend(window, inside.below(1.5), brain.csf_hu, Tissue.CSF)

    def lift(field: Array) -> Lifted:
        return grid.lift_to(field, window)

    cover_in = inside.below()
    open_share = 1 - 0.9 * scene.effacement
    half_width = grid.values(brain.sulcus * open_share + scene.swelling, window)
    below_space = f.depth - brain.space_width(scene.q) * open_share - scene.swelling
    surface = lift(-below_space)
    sulcus, sulcus_floor = lift(f.sulcus), lift(f.sulcus_floor)
    petrous = 3.0 + 0.5 * np.maximum(np.abs(scene.q.x) - 8, 0)
    infra = lift(np.maximum(np.maximum(f.tentorium, petrous - scene.q.y), -40 - f.depth))
    cover_infra = infra.below()
    fissure, fissure_floor = lift(f.fissure), lift(f.fissure_floor)
    spaces = lift(np.minimum(f.sylvian + 1.2 * scene.effacement - scene.swelling, f.cistern))
    furrow = sulcus.within(half_width) * sulcus_floor.below() * (1 - cover_infra)
    split = fissure.within(0.35 + 0.5 * half_width) * fissure_floor.below() * (1 - cover_infra)
    fluid = np.maximum(np.maximum(furrow, split), np.maximum(spaces.below(), 1 - surface.below()))
    ventricle = lift(scene.ventricles)
    chamber = ventricle.below()
    tissue = np.clip(1 - np.maximum(fluid, chamber), 0, 1) * cover_in

    from_surface = np.minimum(
        np.minimum(-surface.middle, spaces.middle),
        np.minimum(
            np.maximum(np.abs(sulcus.middle) - half_width, sulcus_floor.middle),
            np.maximum(np.abs(fissure.middle) - half_width, fissure_floor.middle),
        ),
    )
    cortex = ramp(from_surface - brain.ribbon, 1.6)
    deep = lift(f.deep).below() * 0.85
    grey = np.maximum(cortex, deep)
    aged = brain.leukoaraiosis * np.exp(-np.maximum(ventricle.middle, 0) / 7.0)
    tone = grid.values(brain.tone(scene.q), window)
    hu = brain.white_hu - aged + tone + (brain.grey_hu - brain.white_hu + aged) * grey
    folia = grid.values(brain.folia(scene.q), window)
    hu += cover_infra * (brain.grey_hu - 1.0 + 1.1 * folia - hu)
    stem = lift(f.stem).below()
    hu += stem * (0.5 * (brain.white_hu + brain.grey_hu) - hu)

    fluid_in = np.maximum(fluid - chamber, 0) * cover_in
    canvas.blend(window, tissue, hu, None)
    part = canvas.tissues[window.index]
    solid = tissue.mean(axis=0) > 0.5
    part[solid] = np.where(grey.mean(axis=0) > 0.5, Tissue.GREY, Tissue.WHITE)[solid]
    part[solid & (cover_infra.mean(axis=0) > 0.5)] = Tissue.CEREBELLUM
    part[solid & (stem.mean(axis=0) > 0.5)] = Tissue.BRAINSTEM
    part[(chamber.mean(axis=0) > 0.5) & (cover_in.mean(axis=0) > 0.5)] = Tissue.VENTRICLE
    full = (canvas.hu.shape[0], canvas.plane.matrix, canvas.plane.matrix)
    scene.csf = np.zeros(full, np.float32)
    scene.parenchyma = np.zeros(full, np.float32)
    scene.csf[:, *window.index] = fluid_in
    scene.parenchyma[:, *window.index] = tissue
    _paint_dura(patient, scene)


def _paint_dura(patient: Patient, scene: Scene) -> None:
    """Falx and tentorium: sheets thinner than a pixel."""
    canvas, grid, brain, f = scene.canvas, scene.grid, patient.brain, scene.fields
    for sheet, edge in (
        (f.fissure, np.maximum(f.falx_floor, scene.inner)),
        (f.tentorium, np.maximum(f.tentorium_edge, scene.inner)),
    ):
        lifted = grid.lift(np.maximum(np.abs(sheet) - 2.0, edge), 0.0)
        if lifted is not None:
            cover = grid.lift_to(sheet, lifted.window).within(brain.falx)
            cover *= grid.lift_to(edge, lifted.window).below()
            canvas.blend(lifted.window, cover, brain.dura_hu, Tissue.DURA)


def _paint_inside(patient: Patient, scene: Scene) -> None:
    """Incidental findings under blood, then blood, then what shines through it."""
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


__all__ = ["Points", "paint_slice"]
