"""Whole studies and single slices of phantoms, from one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Array
from .canvas import SlicePlane
from .options import BleedType, PhantomOptions
from .patient import Patient
from .render import paint_slice
from .scan import Scan, draw_scan
from .scanner import scan_slice
from .threads import one_thread

TOP_MARGIN_MM = 14.0  # above the inner vault: bone, scalp, a little air
CENTRE_Y_MM = -7.0  # the image is centred in front of the brain's middle, to hold the face
BOTTOM_MM = -62.0  # a study starts near the foramen magnum
SLICE_RANGE = (-0.72, 0.97)  # single slices: share of the depth below and height above the origin


@dataclass(frozen=True)
class PhantomSlice:
    """One axial slice with its truth."""

    hu: Array
    """int16 [matrix, matrix], HU; -2000 outside the scan circle where there is one."""
    bleeds: Array
    """uint8 [matrix, matrix], values of `BleedType`."""
    tissues: Array
    """uint8 [matrix, matrix], values of `Tissue`."""
    pixel_spacing: float
    """mm between pixel centres, both ways."""


@dataclass(frozen=True)
class PhantomStudy:
    """A series of slices, ascending along the slice normal (from the neck to the vertex)."""

    hu: Array
    """int16 [slices, matrix, matrix], HU."""
    bleeds: Array
    """uint8, same shape, values of `BleedType`."""
    tissues: Array
    """uint8, same shape, values of `Tissue`."""
    positions_mm: Array
    """float64 [slices, 3]: centre of the first pixel of each slice, DICOM patient coordinates."""
    thickness_mm: float
    spacing_mm: float
    """Distance between neighbouring slices along their normal, mm."""
    row_direction: tuple[float, float, float]
    """Unit vector along a row (to the next column), patient coordinates."""
    column_direction: tuple[float, float, float]
    """Unit vector along a column (to the next row), patient coordinates; tilted with the gantry."""
    pixel_spacing: float
    """mm between pixel centres, both ways."""
    tilt_deg: float
    seed: int
    parameters: dict[str, Any]
    """The drawn parameters, for the record."""

    @property
    def extents_mm(self) -> Array:
        """Extent of each slice along the normal, mm, float64 [slices].

        Half the distance to each neighbour, half the thickness at an open end.
        """
        extents = np.full(self.hu.shape[0], self.spacing_mm)
        extents[0] += (self.thickness_mm - self.spacing_mm) / 2
        extents[-1] += (self.thickness_mm - self.spacing_mm) / 2
        return extents

    @property
    def step_mm(self) -> Array:
        """From one slice's first pixel to the next one's, patient coordinates, float64 [3]."""
        tilt = np.deg2rad(self.tilt_deg)
        return np.array([0.0, 0.0, self.spacing_mm / np.cos(tilt)])

    def volume_ml(self, kind: BleedType | None = None) -> float:
        """Volume of one type of bleeding (all when None), mL: area times extent, summed."""
        mask = self.bleeds > 0 if kind is None else self.bleeds == kind
        areas = mask.sum(axis=(1, 2)) * self.pixel_spacing**2
        return float(areas @ self.extents_mm) / 1000


class Acquisition:
    """A patient in the scanner: renders the slice at any height.

    Scanner coordinates are DICOM patient coordinates (x left, y back, z top). With a tilted gantry
    the slices are inclined, and the table moves along z.
    """

    def __init__(self, patient: Patient, scan: Scan) -> None:
        self.patient = patient
        self.scan = scan
        self.turn = _rotation(scan.turn_deg)  # head <- scanner
        tilt = np.deg2rad(scan.tilt_deg)
        self.row_direction = np.array([1.0, 0.0, 0.0])
        self.column_direction = np.array([0.0, np.cos(tilt), -np.sin(tilt)])
        self.normal = np.cross(self.row_direction, self.column_direction)
        # Of the slice at height 0. The table moves along z, so each slice's middle has its x and y.
        self._middle = np.array([-scan.shift_mm[0], CENTRE_Y_MM - scan.shift_mm[1], 0.0])

    def corner(self, height: float) -> Array:
        """Centre of the first pixel of the slice whose middle lies `height` mm along the normal."""
        half = (self.scan.matrix - 1) / 2 * self.scan.pixel_mm
        centre = self._middle + np.array([0.0, 0.0, height / self.normal[2]])
        return np.asarray(centre - half * (self.row_direction + self.column_direction))

    def height_of(self, point: tuple[float, float, float]) -> float:
        """Height along the normal at which a point of the head lies in the slice, mm."""
        beside = self.turn.T @ np.asarray(point) - self._middle
        return float(beside @ self.normal)

    def slice_at(self, height: float, rng: np.random.Generator) -> PhantomSlice:
        """The slice at a height along the normal, mm."""
        scan = self.scan
        plane = SlicePlane(
            origin=self.turn @ self.corner(height),
            u=self.turn @ self.row_direction * scan.pixel_mm,
            v=self.turn @ self.column_direction * scan.pixel_mm,
            normal=self.turn @ self.normal,
            thickness=scan.thickness_mm,
            matrix=scan.matrix,
        )
        down = self.turn @ np.array([0.0, 1.0, 0.0])
        canvas = paint_slice(self.patient, plane, (float(down[0]), float(down[1]), float(down[2])))
        hu = scan_slice(canvas, scan, rng)
        return PhantomSlice(hu, canvas.bleeds, canvas.tissues, scan.pixel_mm)


@one_thread
def generate_slice(
    seed: int | np.random.Generator, options: PhantomOptions | None = None
) -> PhantomSlice:
    """One slice at a random height of a random patient; the fast path for training.

    `options.crossing_probability` of the slices (of patients with a bleed) are placed to cross one.
    """
    options = options or PhantomOptions()
    rng = np.random.default_rng(seed)
    acquisition = Acquisition(Patient(rng, options), draw_scan(rng, options))
    patient = acquisition.patient
    if patient.bleeds and rng.random() < options.crossing_probability:
        height = crossing_height(acquisition, rng)
    else:
        height = float(
            rng.uniform(SLICE_RANGE[0] * patient.skull.depth, SLICE_RANGE[1] * patient.skull.height)
        )
    return acquisition.slice_at(height, rng)


def crossing_height(acquisition: Acquisition, rng: np.random.Generator) -> float:
    """Height along the normal, mm, of a slice that crosses one of the patient's bleeds.

    It lies near a bleed's ends more often than in its middle (arcsine): they are the harder part,
    and a third of the six slices of a study that an evaluation uses.
    """
    bleeds = acquisition.patient.bleeds
    bleed = bleeds[int(rng.integers(len(bleeds)))]
    low, high = bleed.heights
    z = (low + high) / 2 + (high - low) / 2 * float(np.sin(np.pi * rng.uniform(-0.5, 0.5)))
    return acquisition.height_of((bleed.centre[0], bleed.centre[1], z))


@one_thread
def generate_study(
    seed: int,
    options: PhantomOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PhantomStudy:
    """A whole series, from the skull base to the vertex (or `options.slices` slices of it).

    `progress(done, total)` is called after each slice.
    """
    options = options or PhantomOptions()
    rng = np.random.default_rng(seed)
    acquisition = Acquisition(Patient(rng, options), draw_scan(rng, options))
    heights = _heights(acquisition, options)
    slices = []
    for index, height in enumerate(heights):
        slices.append(acquisition.slice_at(float(height), np.random.default_rng([seed, index])))
        if progress is not None:
            progress(index + 1, len(heights))
    scan = acquisition.scan
    return PhantomStudy(
        hu=np.stack([s.hu for s in slices]),
        bleeds=np.stack([s.bleeds for s in slices]),
        tissues=np.stack([s.tissues for s in slices]),
        positions_mm=np.stack([acquisition.corner(float(h)) for h in heights]),
        thickness_mm=scan.thickness_mm,
        spacing_mm=scan.spacing_mm,
        row_direction=_triple(acquisition.row_direction),
        column_direction=_triple(acquisition.column_direction),
        pixel_spacing=scan.pixel_mm,
        tilt_deg=scan.tilt_deg,
        seed=seed,
        parameters=_record(acquisition),
    )


def _heights(acquisition: Acquisition, options: PhantomOptions) -> Array:
    """Heights of a study's slices, ascending, the top one over the vertex."""
    patient, spacing = acquisition.patient, acquisition.scan.spacing_mm
    top = acquisition.height_of((0.0, 0.0, patient.skull.height + TOP_MARGIN_MM))
    bottom = acquisition.height_of((0.0, 0.0, BOTTOM_MM))
    whole = int(np.ceil((top - bottom) / spacing)) + 1
    count = options.slices or whole
    if count < whole and patient.bleeds:
        # A short series is moved down from the vertex until it shows the lowest bleed.
        lowest = min(acquisition.height_of(bleed.centre) - 10.0 for bleed in patient.bleeds)
        top = max(min(top, lowest + spacing * (count - 1)), bottom + spacing * (count - 1))
    return top - spacing * np.arange(count)[::-1]


def _record(acquisition: Acquisition) -> dict[str, Any]:
    patient, scan = acquisition.patient, acquisition.scan
    return {
        "age_years": round(patient.age, 1),
        "kernel": scan.kernel,
        "noise_hu": round(scan.noise_hu, 2),
        "blur_mm": round(scan.blur_mm, 2),
        "tilt_deg": round(scan.tilt_deg, 2),
        "motion_mm": round(scan.motion_mm, 2),
        "bleeds": [
            {"type": bleed.kind.name.lower(), "requested_ml": round(bleed.volume_ml, 3)}
            for bleed in patient.bleeds
        ],
    }


def _rotation(degrees: tuple[float, float, float]) -> Array:
    """Rotation about x, then y, then z, float64 [3, 3]."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        c, s = np.cos(angle), np.sin(angle)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[i, i], step[i, j], step[j, i], step[j, j] = c, -s, s, c
        matrix = step @ matrix
    return matrix


def _triple(vector: Array) -> tuple[float, float, float]:
    return (float(vector[0]), float(vector[1]), float(vector[2]))
