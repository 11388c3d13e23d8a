"""Where one may click in a head without hemorrhage: inside the skull, half of it on what is bright.

Nothing but HU is known of the tissue here, so it is found by rules: the skull is closed where it
has gaps, and what it encloses is soft tissue, brain for the most part; in the lowest slices some
muscle and eye. Phantoms, whose tissues are known, are clicked by the same shares
(``samihs_training.data.targets.negative_target``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.errors import StudyError

if TYPE_CHECKING:
    from samihs_runtime.encoding.slice_encoder import Spacing
    from samihs_runtime.series import CTSeries

Mask = NDArray[np.bool_]
Where = Literal["anywhere", "bright"]
BONE_HU = 200.0
GAP_MM = 6.0
"""Gaps of the skull up to twice this wide are closed: sutures, foramina, a base's thin bone."""
SOFT_HU = 0.0, 100.0
"""From CSF to clotted blood and dense vessels; neither fat nor air, nor calcification."""
BRIGHTEST = 0.1
"""Share of a slice's soft tissue that counts as bright: sinuses, vessels, cortex beside bone."""
LEAST_MM2 = 3000.0
"""Least soft tissue within the skull on a slice that is clicked on, which shows brain then."""
COARSE_PX = 4
"""Every fourth pixel is enough to tell which slices show brain."""


@dataclass(frozen=True)
class NormalClick:
    """One click on a slice of a series."""

    index: int
    """Zero-based slice."""
    x: int
    y: int
    where: Where


def normal_clicks(
    series: CTSeries, slices: int, clicks: int, rng: np.random.Generator
) -> list[NormalClick]:
    """``clicks`` clicks on each of at most ``slices`` slices, evenly spread through the brain.

    Raises:
        StudyError: no slice shows brain within a skull.
    """
    shown = _brain_slices(series)
    if not shown:
        raise StudyError(
            "no slice shows brain within a skull: expected a CT of the head with its bone, in HU"
        )
    middles = (np.arange(slices) + 0.5) / slices * (len(shown) - 1)
    picked = sorted({shown[round(middle)] for middle in middles.tolist()})
    return [each for index in picked for each in _on_slice(series, index, clicks, rng)]


def soft_tissue(hu: NDArray[Any], spacing: Spacing) -> Mask:
    """Soft tissue within the skull on a slice [rows, columns]; ``spacing``: mm between rows and
    between columns."""
    from scipy import ndimage

    bone = hu >= BONE_HU
    if not bone.any():
        return np.zeros(hu.shape, dtype=bool)
    margin = [int(np.ceil(GAP_MM / each)) + 1 for each in spacing]  # the head may touch the edge
    wide = np.pad(bone, [(margin[0], margin[0]), (margin[1], margin[1])])
    grown = ndimage.distance_transform_edt(~wide, sampling=spacing) <= GAP_MM
    filled = ndimage.binary_fill_holes(grown)
    closed = ndimage.distance_transform_edt(filled, sampling=spacing) > GAP_MM
    within = closed[margin[0] : -margin[0], margin[1] : -margin[1]] & ~bone
    low, high = SOFT_HU
    smooth = ndimage.uniform_filter(hu.astype(np.float32), 3)
    return np.asarray(within & (smooth >= low) & (smooth <= high))


def _brain_slices(series: CTSeries) -> list[int]:
    """Slices with at least LEAST_MM2 of soft tissue within the skull."""
    shown = []
    for index, plane in enumerate(series.planes):
        rows, columns = plane.spacing
        coarse = series.hu[index][::COARSE_PX, ::COARSE_PX]
        tissue = soft_tissue(coarse, (rows * COARSE_PX, columns * COARSE_PX))
        if tissue.sum() * plane.pixel_area * COARSE_PX**2 >= LEAST_MM2:
            shown.append(index)
    return shown


def _on_slice(
    series: CTSeries, index: int, clicks: int, rng: np.random.Generator
) -> list[NormalClick]:
    """Every other click is on bright tissue."""
    from scipy import ndimage

    hu = series.hu[index]
    tissue = soft_tissue(hu, series.planes[index].spacing)
    if not tissue.any():
        return []
    smooth = ndimage.uniform_filter(hu.astype(np.float32), 3)
    bright = tissue & (smooth >= np.quantile(smooth[tissue], 1 - BRIGHTEST))
    spots: dict[Where, NDArray[np.intp]] = {
        "anywhere": np.argwhere(tissue), "bright": np.argwhere(bright),
    }  # fmt: skip
    chosen = []
    for number in range(clicks):
        where: Where = "bright" if number % 2 else "anywhere"
        row, column = spots[where][rng.integers(len(spots[where]))]
        chosen.append(NormalClick(index, int(column), int(row), where))
    return chosen
