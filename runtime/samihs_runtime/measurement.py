"""Millilitres, millimetres and Hounsfield units of a lesion, and which of them are uncertain.

Rules, all applied to the masks in patient geometry:

- Volume: sum over slices of mask area x the slice's own extent along the normal. This is correct
  under gantry tilt and with uneven gaps, where "voxel size x voxel count" is not.
- Diameters are measured between pixel edges: the outline of a pixel is the diamond of its four edge
  midpoints, so n pixels in a row measure n pixel widths (centres give one too few; corners give
  41 % too much for a single pixel).
- ABC/2 (Kothari et al., Stroke 1996;27:1304): on the slice of largest area, A is the largest
  diameter and B the width perpendicular to it. C is the height, for which a slice counts whole if
  its area is at least 75 % of that largest area, half if at least 25 %, and not at all below that.
- Parts: voxels that share a corner, an edge or a face belong together (26-neighbourhood in slice
  indices; a slice without mask separates parts).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from samihs_runtime.segmentation import Lesion
    from samihs_runtime.series import CTSeries, SlicePlane

Mask = NDArray[np.bool_]

MM3_PER_ML = 1000.0
WHOLE_SLICE, HALF_SLICE = 0.75, 0.25
"""Shares of the largest area from which a slice counts whole or half in ABC/2's C (Kothari)."""
UNEVEN_EXTENTS_MM = 0.1
"""Slices of one lesion whose extents differ by more get a note. Scanners round positions to 0.01 to
0.1 mm, so smaller differences mean nothing."""
FEW_PIXELS = 20
"""A lesion of fewer pixels is mostly edge, so that partial volume determines its size."""


@dataclass(frozen=True)
class SliceMeasurement:
    """One slice of the lesion."""

    index: int
    """Zero-based slice index in the series."""
    area_mm2: float
    extent_mm: float
    """The length along the normal that the slice represents."""
    diameter_mm: float
    """Largest in-plane diameter."""
    width_mm: float
    """Width perpendicular to that diameter."""
    mean_hu: float

    @property
    def volume_ml(self) -> float:
        """Area x extent, mL."""
        return self.area_mm2 * self.extent_mm / MM3_PER_ML


@dataclass(frozen=True)
class Measurement:
    """All numbers of one lesion; zeros and None if nothing was found."""

    volume_ml: float = 0.0
    abc2_ml: float | None = None
    """A x B x C / 2, the bedside estimate, for comparison."""
    abc_mm: tuple[float, float, float] | None = None
    """Its A, B and C."""
    largest_diameter_mm: float | None = None
    """Largest in-plane diameter over all slices."""
    largest_diameter_slice: int | None = None
    height_mm: float = 0.0
    """Sum of the extents of the slices with mask."""
    parts_ml: tuple[float, ...] = ()
    """Volume of each connected part, largest first."""
    mean_hu: float | None = None
    """Mean over the lesion, each voxel weighted by its volume."""
    sd_hu: float | None = None
    """Standard deviation about that mean, weighted in the same way."""
    slices: tuple[SliceMeasurement, ...] = ()
    """Ascending by index."""
    notes: tuple[str, ...] = field(default=())
    """What is uncertain about the numbers, in words."""

    @property
    def parts(self) -> int:
        """Number of connected parts."""
        return len(self.parts_ml)


def measure(series: CTSeries, lesion: Lesion) -> Measurement:
    """Measure a lesion in the series in which it was found.

    Args:
        series: the series; its extents and pixel spacings are taken slice by slice.
        lesion: slices with masks [rows, columns]; several entries of one slice are united.

    Returns:
        The numbers, unrounded. A lesion without a mask pixel gives zeros and None.

    Raises:
        IndexError: a slice of the lesion is not in the series.
    """
    masks = masks_by_slice(lesion)
    if not masks:
        return Measurement()
    slices = tuple(_measure_slice(series, index, mask) for index, mask in masks.items())
    mean, sd = _weighted_hu(series, masks)
    abc = _abc(slices)
    widest = max(slices, key=lambda each: each.diameter_mm)
    return Measurement(
        volume_ml=sum(each.volume_ml for each in slices),
        abc2_ml=abc[0] * abc[1] * abc[2] / 2 / MM3_PER_ML,
        abc_mm=abc,
        largest_diameter_mm=widest.diameter_mm,
        largest_diameter_slice=widest.index,
        height_mm=sum(each.extent_mm for each in slices),
        parts_ml=_parts_ml(series, masks),
        mean_hu=mean,
        sd_hu=sd,
        slices=slices,
        notes=tuple(_uncertainties(series, masks, slices)),
    )


def masks_by_slice(lesion: Lesion) -> dict[int, Mask]:
    """Slice index -> mask [rows, columns], ascending; slices with an empty mask are left out."""
    masks: dict[int, Mask] = {}
    for part in sorted(lesion.slices, key=lambda each: each.index):
        if part.mask.any():
            known = masks.get(part.index)
            masks[part.index] = part.mask if known is None else known | part.mask
    return masks


def _measure_slice(series: CTSeries, index: int, mask: Mask) -> SliceMeasurement:
    plane = series.planes[index]
    diameter, width = _diameters(mask, plane)
    return SliceMeasurement(
        index=index,
        area_mm2=float(np.count_nonzero(mask)) * plane.pixel_area,
        extent_mm=float(series.extents_mm[index]),
        diameter_mm=diameter,
        width_mm=width,
        mean_hu=float(series.hu[index][mask].mean(dtype=np.float64)),
    )


def _diameters(mask: Mask, plane: SlicePlane) -> tuple[float, float]:
    """Largest diameter of the mask, and its width perpendicular to that, mm."""
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist, squareform

    rows, columns = np.nonzero(mask)
    row_mm, column_mm = plane.spacing
    centres = np.column_stack([columns * column_mm, rows * row_mm])
    diamond = np.array([[column_mm, 0], [-column_mm, 0], [0, row_mm], [0, -row_mm]]) / 2
    outline = (centres[:, None, :] + diamond).reshape(-1, 2)
    hull = outline[ConvexHull(outline).vertices]
    distances = squareform(pdist(hull))
    one, other = np.unravel_index(int(distances.argmax()), distances.shape)
    axis = (hull[other] - hull[one]) / distances[one, other]
    across = hull @ np.array([-axis[1], axis[0]])
    return float(distances[one, other]), float(np.ptp(across))


def _abc(slices: tuple[SliceMeasurement, ...]) -> tuple[float, float, float]:
    """A, B, C in mm by Kothari's rule (see the module's docstring)."""
    largest = max(slices, key=lambda each: each.area_mm2)
    height = 0.0
    for each in slices:
        share = each.area_mm2 / largest.area_mm2
        weight = 1.0 if share >= WHOLE_SLICE else 0.5 if share >= HALF_SLICE else 0.0
        height += weight * each.extent_mm
    return largest.diameter_mm, largest.width_mm, height


def _weighted_hu(series: CTSeries, masks: dict[int, Mask]) -> tuple[float, float]:
    values = [series.hu[index][mask].astype(np.float64) for index, mask in masks.items()]
    volumes = [series.planes[index].pixel_area * series.extents_mm[index] for index in masks]
    weights = np.repeat(volumes, [len(each) for each in values])
    hu = np.concatenate(values)
    mean = float(np.average(hu, weights=weights))
    return mean, float(np.sqrt(np.average((hu - mean) ** 2, weights=weights)))


def _parts_ml(series: CTSeries, masks: dict[int, Mask]) -> tuple[float, ...]:
    """Volume of each 26-connected part, largest first."""
    from scipy import ndimage

    first, last = min(masks), max(masks)
    volume = np.zeros((last - first + 1, *series.shape), dtype=bool)
    for index, mask in masks.items():
        volume[index - first] = mask
    labels, count = ndimage.label(volume, structure=np.ones((3, 3, 3)))
    parts = np.zeros(count + 1)
    for index in masks:
        voxel = series.planes[index].pixel_area * series.extents_mm[index]
        parts += np.bincount(labels[index - first].ravel(), minlength=count + 1) * voxel
    return tuple(sorted((float(part) / MM3_PER_ML for part in parts[1:]), reverse=True))


def _uncertainties(
    series: CTSeries, masks: dict[int, Mask], slices: tuple[SliceMeasurement, ...]
) -> list[str]:
    """What someone who reads the numbers should know, in words."""
    return [
        *_uncertain_ends(series, masks),
        *_uncertain_extents(series, masks),
        *_uncertain_pixels(series, masks, slices),
    ]


def _uncertain_ends(series: CTSeries, masks: dict[int, Mask]) -> list[str]:
    notes = []
    last = len(series) - 1
    if last == 0:
        notes.append(
            "one slice only: the volume is its area x its thickness, not that of the whole lesion"
        )
    else:
        ends = [end for end in (0, last) if end in masks]
        if ends:
            which = " and ".join(f"slice {end}" for end in ends)
            notes.append(
                f"the lesion reaches the end of the series ({which}): it may go on beyond, and "
                "the volume is a lower bound"
            )
    if any(series.planes[end].thickness is None for end in {0, last} & set(masks)):
        notes.append(
            "the file gives no slice thickness for an end slice: its extent, and its share of the "
            "volume, is an assumption"
        )
    if any(mask[[0, -1]].any() or mask[:, [0, -1]].any() for mask in masks.values()):
        notes.append("the mask touches the image's edge: the lesion may be cut off there")
    return notes


def _uncertain_extents(series: CTSeries, masks: dict[int, Mask]) -> list[str]:
    notes = []
    extents = series.extents_mm[list(masks)]
    if np.ptp(extents) > UNEVEN_EXTENTS_MM:
        notes.append(
            f"slices are unevenly spaced: each counts with its own extent ({extents.min():.2f} to "
            f"{extents.max():.2f} mm)"
        )
    missing = sorted(set(range(min(masks), max(masks))) - set(masks))
    if missing:
        named = ", ".join(map(str, missing))
        notes.append(f"no mask on slice {named} between others: nothing was added for it")
    return notes


def _uncertain_pixels(
    series: CTSeries, masks: dict[int, Mask], slices: tuple[SliceMeasurement, ...]
) -> list[str]:
    notes = []
    lossy = [each for index in masks if (each := series.sources[index].lossy) is not None]
    if lossy:
        named = ", ".join(sorted({each.words for each in lossy}))
        notes.append(
            f"the images were compressed with loss ({named}): small differences in HU and outline "
            "are possible"
        )
    pixels = sum(int(np.count_nonzero(mask)) for mask in masks.values())
    if pixels < FEW_PIXELS:
        area = sum(each.area_mm2 for each in slices)
        notes.append(
            f"small lesion ({pixels} pixels, {area:.1f} mm2): partial volume decides its size"
        )
    return notes
