"""Where one may click in a head without hemorrhage: inside the skull, half of it on what is bright.

Nothing but HU is known of the tissue here, so it is found by rules: the skull is closed where it
has gaps, and what it encloses is soft tissue, brain for the most part; in the lowest slices some
muscle and eye. Where the skull is open, as after a craniectomy, or cut off by the field of view,
no inside is found.
"""

from __future__ import annotations

from collections.abc import Sequence
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
SMOOTH_MM = 2.0
"""Brightness is that of means over this length, at least three pixels."""
BRIGHTEST = 0.1
"""Share of a slice's soft tissue that counts as bright: sinuses, vessels, cortex beside bone."""
LEAST_MM2 = 3000.0
"""Least soft tissue within the skull on a slice that is clicked on, which shows brain then."""
NECK_MM, PART_MM2 = 1.5, 600.0
"""What hangs together by less than twice the first, and is smaller than the second, is no brain:
marrow, cells of the petrous bone, walls of sinuses."""
COARSE_MM = 2.0
"""Pixels this far apart are enough to tell which slices show brain: the skull is thicker."""


@dataclass(frozen=True)
class Sampling:
    """How many clicks a study gets, and where."""

    slices: int = 4
    """At most."""
    clicks: int = 10
    """On each slice; every other one on bright tissue."""
    seed: int = 0


@dataclass(frozen=True)
class NormalClick:
    """One click on a slice of a series."""

    index: int
    """Zero-based slice."""
    x: int
    y: int
    where: Where


def normal_clicks(
    series: CTSeries, shown: Sequence[int], sampling: Sampling, rng: np.random.Generator
) -> list[NormalClick]:
    """Clicks on slices evenly spread over ``shown``, which :func:`brain_slices` has found."""
    middles = (np.arange(sampling.slices) + 0.5) / sampling.slices * (len(shown) - 1)
    picked = sorted({shown[round(middle)] for middle in middles.tolist()})
    return [each for index in picked for each in _on_slice(series, index, sampling.clicks, rng)]


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
    soft = _large_parts(within, spacing) & (hu <= high)
    return np.asarray(soft & (_brightness(hu, soft, spacing) >= low))


def _large_parts(within: Mask, spacing: Spacing) -> Mask:
    """The parts of PART_MM2 and more, separated at necks."""
    from scipy import ndimage

    thick = ndimage.distance_transform_edt(within, sampling=spacing) > NECK_MM
    labels, count = ndimage.label(thick)
    areas = np.bincount(labels.ravel(), minlength=count + 1) * spacing[0] * spacing[1]
    areas[0] = 0.0
    cores = areas[labels] >= PART_MM2
    if not cores.any():
        return np.zeros_like(within)
    near = ndimage.distance_transform_edt(~cores, sampling=spacing) <= NECK_MM
    return np.asarray(near & within)


def _brightness(hu: NDArray[Any], soft: Mask, spacing: Spacing) -> NDArray[np.float32]:
    """HU [rows, columns], in means over SMOOTH_MM of the soft tissue alone."""
    from scipy import ndimage

    size = [max(3, 2 * round(SMOOTH_MM / each / 2) + 1) for each in spacing]
    total = ndimage.uniform_filter(np.where(soft, hu, 0).astype(np.float32), size)
    share = ndimage.uniform_filter(soft.astype(np.float32), size)
    return np.asarray(total / np.maximum(share, 1e-3), np.float32)


def brain_slices(series: CTSeries) -> list[int]:
    """Slices with at least LEAST_MM2 of soft tissue within the skull; at least one.

    Raises:
        StudyError: there is none.
    """
    shown = []
    for index, plane in enumerate(series.planes):
        steps = [max(1, round(COARSE_MM / each)) for each in plane.spacing]
        coarse = series.hu[index][:: steps[0], :: steps[1]]
        spacing = (plane.spacing[0] * steps[0], plane.spacing[1] * steps[1])
        if soft_tissue(coarse, spacing).sum() * spacing[0] * spacing[1] >= LEAST_MM2:
            shown.append(index)
    if not shown:
        raise StudyError(
            "no slice shows brain within a skull: expected a CT of the head with its bone, in HU"
        )
    return shown


def _on_slice(
    series: CTSeries, index: int, clicks: int, rng: np.random.Generator
) -> list[NormalClick]:
    """Every other click is on bright tissue."""
    hu, spacing = series.hu[index], series.planes[index].spacing
    tissue = soft_tissue(hu, spacing)
    if not tissue.any():
        return []
    smooth = _brightness(hu, tissue, spacing)
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
