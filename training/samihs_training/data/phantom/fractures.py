"""Fractures of the vault: lines through both tables, fragments driven in, and air let in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .arrays import Array, Points
from .bleed import Bleed
from .gaps import Course, Gap
from .incidentals import Grain
from .layers import Layer
from .options import BleedType, Tissue
from .ranges import Range
from .scene import Scene
from .shapes import Vector
from .sites import at_level, moved_inward
from .skull import Skull, bone_hu
from .subarachnoid import Subarachnoid
from .subdural import Subdural
from .waves import Waves

CHANCE = 0.02  # of a patient without any of the signs below: chosen
CHANCE_UNDER_BRUISE = 0.45  # chosen: of scalp hematomas seen in emergency
CHANCE_BY_BLEED = {
    BleedType.EPIDURAL: 0.6,  # textbook: 75 to 95 % of epidural hematomas of adults
    BleedType.SUBDURAL: 0.2,  # acute ones; chosen
    BleedType.SUBARACHNOID: 0.15,  # over the convexity: traumatic; chosen
}
DEPRESSED = 0.22  # share of fractures; textbook: linear ones are 70 to 80 %
AIR = 0.25  # share of fractures with pneumocephalus: chosen
BRANCHED = 0.3  # share of linear fractures with a second line: chosen
LENGTH_MM = Range(35, 110, "mm", "chosen: from a few cm to across a bone")
WIDTH_MM = Range(0.7, 2.4, "mm", "textbook: hairline to more than 2 mm", log=True)
BEND_MM = Range(0.3, 1.6, "mm", "chosen: fracture lines run nearly straight")
FILLING_HU = Range(35, 65, "HU", "chosen: blood and marrow between the edges")
TAPER_MM = 14.0  # a line narrows toward its ends over this length
TURN_RAD = 0.9  # lines run mostly from the vault toward the base, within this angle
FRAGMENT_MM = Range(10, 22, "mm", "chosen: half the size of a depressed area")
DEPTH_MM = Range(3.5, 11, "mm", "textbook: depressed by the bone's thickness or more")
BUBBLES = (2, 9)  # fewest and most
BUBBLE_MM = Range(0.7, 3.2, "mm", "textbook: radius of scattered bubbles of air", log=True)
AIR_HU = -1000.0


@dataclass(frozen=True)
class Frame:
    """A place on the vault: its point, and two directions along the bone."""

    centre: Vector
    out: Array
    """Unit vector outward, float64 [3]."""
    along: Array
    """Unit vector in the surface, float64 [3]."""
    across: Array
    """Unit vector in the surface, perpendicular to `along`, float64 [3]."""

    def local(self, p: Points) -> tuple[Array, Array, Array]:
        """Along, across and outward coordinates of points, mm."""
        d = [a - np.float32(b) for a, b in zip(p, self.centre, strict=True)]
        along, across, out = (
            d[0] * np.float32(axis[0]) + d[1] * np.float32(axis[1]) + d[2] * np.float32(axis[2])
            for axis in (self.along, self.across, self.out)
        )
        return along, across, out


@dataclass(eq=False)
class FractureLine(Gap):
    """A straight, sharp crack through both tables that ignores sutures."""

    frame: Frame
    length_mm: float
    width_mm: float
    filling_hu: float
    bend_mm: float
    bend: Waves
    jag: Waves
    rim_hu: float = 0.0
    rim_mm: float = 0.0

    def near(self, p: Points) -> Array:
        """Close to the plane of the crack, between its ends."""
        along, across, out = self.frame.local(p)
        return np.asarray(
            (np.abs(across) < 2.5 + 3 * self.bend_mm)
            & (np.abs(along) < self.length_mm / 2)
            & (out > -0.8 * self.length_mm)
        )

    def course(self, p: Points) -> Course:
        """A plane, slightly bent and jagged, the same through the whole bone."""
        along, across, _ = self.frame.local(p)
        left = np.clip((self.length_mm / 2 - np.abs(along)) / TAPER_MM, 0.0, 1.0)
        sway = self.bend_mm * self.bend.at(p) + np.float32(0.18) * self.jag.at(p)
        return Course(across, sway, 0.5 * self.width_mm * np.sqrt(left))


@dataclass(eq=False)
class Depression:
    """An area of the vault broken in along its middle: two plates that dip toward each other."""

    frame: Frame
    half_mm: tuple[float, float]
    """Half its size along and across, mm."""
    depth_mm: float
    """Depth of the dip in the middle, mm."""
    filling_hu: float
    """HU of the blood over the plates."""
    skull: Skull
    edge: Waves

    def paint(self, scene: Scene) -> None:
        """Take the bone out, and put it back deeper."""
        canvas, skull = scene.canvas, self.skull
        grid = canvas.around(self.frame.centre, max(self.half_mm) * 1.3 + 8.0)
        if grid is None:
            return
        p = grid.points
        along, across, out = self.frame.local(p)
        uneven = 1.2 * self.edge.at(p)
        a, b = np.abs(along) / self.half_mm[0], np.abs(across) / self.half_mm[1]
        area = np.maximum(np.abs(along) - self.half_mm[0], np.abs(across) - self.half_mm[1])
        area = np.maximum(area + uneven, -20.0 - out)
        inner, outer = skull.inner(p), skull.outer(p)
        canvas.paint(
            grid,
            np.maximum(area, np.maximum(-inner, outer)),
            self.filling_hu,
            Tissue.SCALP_HEMATOMA,
        )
        dip = self.depth_mm * np.clip(1 - a, 0, 1) * np.clip(1.6 - 0.9 * b, 0.3, 1)
        inner, outer = inner + dip, outer + dip
        lifted = grid.lift(np.maximum(area + 0.4, np.maximum(-inner, outer)), 0.0)
        if lifted is None:
            return
        depths = grid.lift_to(inner, lifted.window), grid.lift_to(outer, lifted.window)
        diploe = grid.values(skull.diploe(p), lifted.window)
        hu = bone_hu(depths[0].middle, depths[1].middle, skull.table, skull.table_hu, diploe)
        canvas.blend(lifted.window, lifted.below(), hu, Tissue.BONE)


@dataclass(frozen=True)
class Fracture:
    """All that one blow did to the bone."""

    lines: tuple[FractureLine, ...] = ()
    depression: Depression | None = None
    air: tuple[Grain, ...] = ()


def draw_fracture(
    rng: np.random.Generator, skull: Skull, bruise: Layer | None, bleeds: Sequence[Bleed]
) -> Fracture | None:
    """The fracture of a patient, if there is one: beneath the bruise, or over the bleed."""
    chances = [CHANCE, CHANCE_UNDER_BRUISE if bruise is not None else 0.0]
    chances += [_chance(bleed) for bleed in bleeds]
    whole = float(np.prod([1 - chance for chance in chances]))
    if rng.random() < whole:
        return None
    frame = _frame(rng, skull, _site(rng, skull, bruise, bleeds))
    depression = None
    if rng.random() < DEPRESSED:
        depression = _depression(rng, skull, frame)
    lines = _lines(rng, frame, depression)
    air = _air(rng, skull, frame) if rng.random() < AIR else ()
    return Fracture(lines, depression, air)


def _chance(bleed: Bleed) -> float:
    """Probability that a bleed came with a fracture: only fresh or traumatic ones may."""
    if isinstance(bleed, Subdural) and bleed.content.stage not in ("acute", "mixed"):
        return 0.0
    if isinstance(bleed, Subarachnoid) and bleed.basal:
        return 0.0
    return CHANCE_BY_BLEED.get(bleed.kind, 0.0)


def _site(
    rng: np.random.Generator, skull: Skull, bruise: Layer | None, bleeds: Sequence[Bleed]
) -> Vector:
    """A point on the inner surface of the vault."""
    epidurals = [bleed.centre for bleed in bleeds if bleed.kind is BleedType.EPIDURAL]
    beside = rng.normal(0, 7.0, 3)
    if bruise is not None:
        direction = np.asarray(bruise.centre) + beside
    elif epidurals:
        direction = np.asarray(epidurals[0]) + beside
    else:
        direction = np.array([rng.normal(), rng.normal(0, 0.8), rng.uniform(0.05, 0.8)])
    return at_level(skull, direction, 1.0)


def _frame(rng: np.random.Generator, skull: Skull, centre: Vector) -> Frame:
    """A frame at `centre` whose first direction runs toward the base, turned a little."""
    point = Points(*(np.full(1, c, np.float32) for c in centre))
    out = np.array([float(c[0]) for c in skull.outward(point)])
    down = np.array([0.0, 0.35, -1.0])
    down -= (down @ out) * out
    down /= np.linalg.norm(down)
    return _turned(Frame(centre, out, down, np.cross(out, down)), float(rng.uniform(-1, 1)))


def _turned(frame: Frame, share: float) -> Frame:
    angle = TURN_RAD * share
    along = np.cos(angle) * frame.along + np.sin(angle) * frame.across
    return Frame(frame.centre, frame.out, along, np.cross(frame.out, along))


def _lines(
    rng: np.random.Generator, frame: Frame, depression: Depression | None
) -> tuple[FractureLine, ...]:
    """The main line, seldom a branch, and the lines that run out of a depressed area."""
    first = _line(rng, frame)
    if depression is not None:
        return first, _line(rng, _turned(frame, 1.7))
    if rng.random() < BRANCHED:
        turn = float(rng.choice([-1, 1]) * rng.uniform(0.5, 1.2))
        start = np.asarray(frame.centre) + 0.2 * first.length_mm * frame.along
        moved = Frame((start[0], start[1], start[2]), frame.out, frame.along, frame.across)
        return first, _line(rng, _turned(moved, turn))
    return (first,)


def _line(rng: np.random.Generator, frame: Frame) -> FractureLine:
    return FractureLine(
        frame=frame,
        length_mm=LENGTH_MM.draw(rng),
        width_mm=WIDTH_MM.draw(rng),
        filling_hu=FILLING_HU.draw(rng),
        bend_mm=BEND_MM.draw(rng),
        bend=Waves(rng, 65.0, 6),
        jag=Waves(rng, 6.0, 8),
    )


def _depression(rng: np.random.Generator, skull: Skull, frame: Frame) -> Depression:
    size = FRAGMENT_MM.draw(rng)
    return Depression(
        frame=frame,
        half_mm=(size, size * float(rng.uniform(0.7, 1.2))),
        depth_mm=min(DEPTH_MM.draw(rng), 0.55 * size),
        filling_hu=FILLING_HU.draw(rng),
        skull=skull,
        edge=Waves(rng, 18.0, 8),
    )


def _air(rng: np.random.Generator, skull: Skull, frame: Frame) -> tuple[Grain, ...]:
    """Bubbles just inside the bone, near the fracture and where air rises in a supine patient."""
    found = []
    for _ in range(int(rng.integers(BUBBLES[0], BUBBLES[1] + 1))):
        radius = BUBBLE_MM.draw(rng)
        if rng.random() < 0.7:
            direction = np.asarray(frame.centre) + rng.normal(0, 10.0, 3)
        else:
            direction = np.array([rng.normal(0, 0.3), -1.0, rng.uniform(0.0, 0.6)])
        depth = radius + float(rng.exponential(1.5)) + 0.6
        spot = moved_inward(at_level(skull, direction, 1.0), skull, depth)
        flat = tuple(float(radius * r) for r in np.exp(rng.normal(0, 0.2, 3)))
        found.append(Grain(spot, (flat[0], flat[1], flat[2]), AIR_HU, Tissue.AIR))
    return tuple(found)
