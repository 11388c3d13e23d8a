"""Cranial sutures: where they run, how they interlock, and how age closes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .arrays import Array, Points
from .gaps import Course, Gap
from .ranges import Range
from .skull import Skull
from .waves import Waves

WIDTH_MM = Range(0.7, 1.9, "mm", "textbook: open sutures of adults below 2 mm")
LEAST_WIDTH_MM = 0.5  # what is left of a suture's width before it is closed
FIBROUS_HU = Range(30, 130, "HU", "chosen: connective tissue, some bone in it")
SERRATION_MM = Range(4.5, 8.0, "mm", "chosen: wavelength of the interdigitations, by eye")
SWAY_MM = {
    "coronal": Range(0.7, 1.5, "mm", "chosen: deviation on the outer table, by eye"),
    "sagittal": Range(1.0, 2.1, "mm", "chosen: as coronal, more strongly serrated"),
    "lambdoid": Range(1.1, 2.3, "mm", "chosen: the most strongly serrated suture"),
    "squamosal": Range(0.2, 0.6, "mm", "textbook: bevelled, hardly serrated"),
    "metopic": Range(0.6, 1.4, "mm", "chosen: as coronal"),
}
INNER_SHARE = 0.12  # share of the sway left on the inner table, where sutures run straight
BEVEL_MM = Range(3.0, 7.0, "mm", "textbook: temporal squama overlaps the parietal bone")
CLOSING = {  # age at which closure begins, years it takes
    "coronal": (24.0, 70.0),
    "sagittal": (22.0, 66.0),
    "lambdoid": (26.0, 78.0),
    "squamosal": (36.0, 95.0),
    "metopic": (30.0, 80.0),
}
"""Beginnings on the inner table, sagittal before coronal before lambdoid: after Todd and Lyon, Am J
Phys Anthropol 7 (1924); of squamosal and metopic: chosen. How long: chosen, as CT shows most
sutures into old age."""
CLOSING_SPREAD = 0.16  # share of the closing time by which persons differ (standard deviation)
PATCHINESS = 0.22  # how unevenly a suture closes along its length
INSIDE_FIRST = 0.55  # how far closure on the inner table is ahead of the outer
PERSISTENT_METOPIC = 0.05  # share of adults: textbook 2 to 10 %
RIM_MM = Range(0.7, 1.6, "mm", "chosen: dense bone along old sutures")
RIM_SHARE = Range(0.3, 1.0, "1", "chosen: how far old edges are as dense as the tables")
BREGMA = Range(-0.36, -0.22, "1", "textbook: 125 mm of arc from the nasion; of the half length")
PTERION_MM = Range(10, 20, "mm", "textbook: in front of the level of the bregma")
LAMBDA = Range(0.46, 0.62, "1", "textbook: 120 mm of arc behind the bregma; of the height")
LAMBDOID_SLOPE = Range(0.9, 1.2, "1", "textbook: from the lambda down to the asterion")
SQUAMA_TOP_MM = Range(-2, 12, "mm", "textbook: 40 to 50 mm above the ear canal; here, of height z")
SQUAMA_LENGTH_MM = Range(34, 42, "mm", "chosen: half its length, from the pterion backward")


class Landmarks:
    """The courses of one skull's sutures: signed distances to their mean sheets, mm."""

    def __init__(self, rng: np.random.Generator, skull: Skull) -> None:
        self.bregma = skull.half_length * BREGMA.draw(rng)
        self._top = skull.height
        self._lean = PTERION_MM.draw(rng) / (skull.height + 12.0)
        self._lambda = skull.height * LAMBDA.draw(rng)
        self._slope = LAMBDOID_SLOPE.draw(rng)
        self._squama_top = SQUAMA_TOP_MM.draw(rng)
        self._squama_length = SQUAMA_LENGTH_MM.draw(rng)
        self._off = float(rng.normal(0, 0.8))  # of the sagittal suture, to the left, mm

    def coronal(self, p: Points) -> Array:
        """Positive behind."""
        line = np.float32(self.bregma) - np.float32(self._lean) * (self._top - p.z)
        return np.asarray((p.y - line) / np.float32(np.hypot(1.0, self._lean)))

    def lambdoid(self, p: Points) -> Array:
        """Positive above."""
        roof = self._lambda - np.float32(self._slope) * np.abs(p.x)
        return np.asarray((p.z - roof) / np.float32(np.hypot(1.0, self._slope)))

    def sagittal(self, p: Points) -> Array:
        """Positive on the left."""
        return np.asarray(p.x - np.float32(self._off))

    def squamosal(self, p: Points) -> Array:
        """Positive above the arch."""
        length, height = np.float32(self._squama_length), np.float32(self._squama_top + 24.0)
        y, z = (p.y - 4.0) / length, (p.z + 24.0) / height
        r = np.sqrt(y * y + z * z) + 1e-3
        slope = np.sqrt((y / length) ** 2 + (z / height) ** 2) / r
        return np.asarray((r - 1) / np.maximum(slope, 1e-3))


@dataclass(eq=False)
class Suture(Gap):
    """One suture, or one side of a paired one."""

    name: str
    """Coronal, sagittal, lambdoid, squamosal or metopic."""
    sheet: Callable[[Points], Array]
    """Signed distance to its mean sheet, mm."""
    region: Callable[[Points], Array]
    """How far inside its ends a point lies, mm; negative beyond."""
    openness: float
    """1 in the young, 0 where it has closed everywhere."""
    width_mm: float
    """Width where it is open."""
    sway_mm: float
    bevel_mm: float
    filling_hu: float
    rim_hu: float
    rim_mm: float
    serration: Waves
    patches: Waves

    def near(self, p: Points) -> Array:
        """Close to the mean sheet, between the ends."""
        reach = 2.5 + 2.2 * self.sway_mm + self.bevel_mm + self.rim_mm
        return np.asarray((np.abs(self.sheet(p)) < reach) & (self.region(p) > -2.0))

    def course(self, p: Points) -> Course:
        """Serrated by a random wave; `width` is how open the suture is."""
        beyond = np.minimum(self.region(p) / 3.0, 0.0)
        open_here = self.openness + np.float32(PATCHINESS) * self.patches.at(p) + beyond
        sway = self.sway_mm * self.serration.at(p) - np.float32(self.bevel_mm)
        return Course(self.sheet(p), sway, open_here)

    def sway_share(self, across: Array) -> Array:
        """Straighter on the inner table; a bevel runs evenly through the bone."""
        if self.bevel_mm:
            return across
        return np.asarray(INNER_SHARE + (1 - INNER_SHARE) * across * np.sqrt(across))

    def half_width(self, width: Array, across: Array) -> Array:
        """Closure is ahead inside, and patchy."""
        late = (1 - self.openness) * INSIDE_FIRST * (1 - across)
        return np.asarray(0.5 * self.width_mm * np.clip((width - late) / 0.3, 0.0, 1.0))


def draw_sutures(rng: np.random.Generator, skull: Skull, age: float) -> list[Suture]:
    """The sutures that are still open somewhere."""
    marks = Landmarks(rng, skull)
    found = []
    for name, sides in (
        ("coronal", (-1.0, 1.0)),
        ("sagittal", (0.0,)),
        ("lambdoid", (-1.0, 1.0)),
        ("squamosal", (-1.0, 1.0)),
        ("metopic", (0.0,)),
    ):
        begin, years = CLOSING[name]
        closed = max(0.0, (age - begin) / years) + CLOSING_SPREAD * float(rng.normal())
        openness = float(np.clip(1 - closed, 0.0, 1.0))
        width = LEAST_WIDTH_MM + (WIDTH_MM.draw(rng) - LEAST_WIDTH_MM) * openness
        present = name != "metopic" or rng.random() < PERSISTENT_METOPIC
        for side in sides:
            suture = _suture(rng, skull, marks, name, side, openness, width, age)
            if present and openness > 0.04:
                found.append(suture)
    return found


def _suture(
    rng: np.random.Generator,
    skull: Skull,
    marks: Landmarks,
    name: str,
    side: float,
    openness: float,
    width: float,
    age: float,
) -> Suture:
    old = min(max((age - 35) / 40, 0.0), 1.0) * RIM_SHARE.draw(rng)
    sheet, region = _course_of(marks, name, side)
    wavelength = SERRATION_MM.draw(rng)
    return Suture(
        name=name,
        sheet=sheet,
        region=region,
        openness=openness,
        width_mm=width,
        sway_mm=SWAY_MM[name].draw(rng),
        bevel_mm=BEVEL_MM.draw(rng) if name == "squamosal" else 0.0,
        filling_hu=FIBROUS_HU.draw(rng),
        rim_hu=skull.diploe_hu + old * (skull.table_hu - skull.diploe_hu),
        rim_mm=RIM_MM.draw(rng) * (old > 0.1),
        serration=Waves(rng, wavelength, 8),
        patches=Waves(rng, 22.0, 6),
    )


def _course_of(
    marks: Landmarks, name: str, side: float
) -> tuple[Callable[[Points], Array], Callable[[Points], Array]]:
    """Mean sheet of a suture, and how far inside its ends a point lies."""

    def beside(p: Points) -> Array:
        return np.asarray(np.minimum(p.x * np.float32(side), p.z + 16.0))

    def between(p: Points) -> Array:
        return np.minimum(np.minimum(marks.coronal(p), marks.lambdoid(p)), p.z)

    courses = {
        "coronal": (marks.coronal, beside),
        "lambdoid": (marks.lambdoid, lambda p: np.minimum(beside(p), p.y - 20.0)),
        "squamosal": (marks.squamosal, lambda p: np.minimum(beside(p), np.abs(p.x) - 30.0)),
        "sagittal": (marks.sagittal, between),
        "metopic": (
            marks.sagittal,
            lambda p: np.minimum(np.minimum(-marks.coronal(p), -p.y), p.z + 4.0),
        ),
    }
    return courses[name]
