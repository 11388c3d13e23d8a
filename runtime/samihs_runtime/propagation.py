"""From the clicked slice through the lesion: the mask is carried from slice to slice until it ends.

On the next slice the model is asked again, with clicks of our own: the deepest interior point of
each part of those pixels of the last mask that still look like the lesion. If that finds nothing,
it is asked once more around the last mask, since a lens along the skull may lie beside its place on
the slice below. Only the parts of the answer that touch the pixels searched are kept, so a wrong
answer elsewhere cannot take over. Each direction ends for one stated reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.clicked_parts import filled
from samihs_runtime.geometry import aspect_of
from samihs_runtime.interior import deepest_points
from samihs_runtime.probability import Evidence
from samihs_runtime.segmentation import FOREGROUND, Prediction, Prompt, SliceMask

if TYPE_CHECKING:
    from samihs_runtime.segmenter import EncodedSlice, Segmenter
    from samihs_runtime.series import CTSeries, SlicePlane

Mask = NDArray[np.bool_]
FEWEST_IN_CORE = 10
"""Pixels whose median is within 2 HU of that of their tissue, under quantum noise of 5 HU."""
Progress = Callable[[int], None]


@dataclass(frozen=True)
class PropagationOptions:
    """When a lesion is followed into the next slice, and when it ends."""

    min_score: float
    """A predicted IoU below this means that there is no lesion (the bundle's threshold)."""
    max_gap_mm: float = 10.0
    """Nothing is inferred over a larger gap along the normal: most bleeds are a few cm across."""
    hu_margin: float = 15.0
    """A pixel still looks like the lesion if within this of its median HU, or within 2 SD of it."""
    min_support: float = 0.1
    """Fraction of the last mask's pixels that must still look like the lesion."""
    reach: float = 0.5
    """How far around the last mask a lesion is looked for that is not found in its place, as a
    fraction of the distance between the slices."""
    nearby_score: float = 2.0
    """The score that it then needs, as a multiple of ``min_score``: the best of several guesses at
    what resembles blood is more likely to pass by chance."""
    max_drift_hu: float = 10.0
    """A mask whose median HU lies outside the middle half of the clicked mask's by more than this
    is another tissue: every step tolerates a little, and many small steps lead from blood to brain.
    The middle half, because a collection with a fluid level is of two densities; both without the
    masks' outermost pixels, since those along the skull would widen it to any tissue's."""
    max_growth: float = 4.0
    """A mask of more than this many times the area of the last one has leaked."""
    max_parts: int = 4
    """Parts followed at once, the largest first."""
    min_part_mm2: float = 4.0
    """Parts smaller than this are noise, not lesion."""
    plausible_hu: tuple[float, float] | None = None
    """A mask whose median HU lies outside this range (the bundle's) is not blood; None skips the
    check. The median, because a rim of skull in the mask of an extra-axial bleed moves the mean
    out of the range."""
    use_prior: bool = False
    """Give the last slice's logits to the decoder as a prior. Off, because a decoder that was not
    trained on another slice's logits trusts them too much (``benchmarks/propagation.py`` has both).
    """


class Stop(NamedTuple):
    """Why a lesion was not followed any farther in one direction."""

    why: str
    """In words."""
    cut_off: bool = False
    """Whether the lesion may go on, where the next slice is too far away or shows another place."""


def propagate(
    segmenter: Segmenter,
    series: CTSeries,
    clicked: SliceMask,
    options: PropagationOptions,
    progress: Progress = lambda index: None,
) -> tuple[tuple[SliceMask, ...], tuple[Stop, Stop]]:
    """Follow the clicked mask towards lower and towards higher slice indices.

    Returns:
        Every slice of the lesion, ascending, including the clicked one; and why it ended below and
        above.
    """
    low, high = np.percentile(_core(series.hu[clicked.index], clicked.mask), (25, 75))
    tissue = (low - options.max_drift_hu, high + options.max_drift_hu)
    path = _Path(segmenter, series, options, tissue, progress)
    below, stop_below = path.follow(clicked, -1)
    above, stop_above = path.follow(clicked, +1)
    return (*reversed(below), clicked, *above), (stop_below, stop_above)


class _Ended(Exception):
    """The lesion is not on the next slice; the message says why, in words."""


class _Search(NamedTuple):
    """Where on the next slice the lesion is asked for."""

    seeds: Mask
    """Pixels [rows, columns] that look like it; each part is clicked at its deepest point."""
    reach: Mask
    """Parts of the answer that touch none of these pixels [rows, columns] are not the lesion."""
    min_score: float
    """An answer of a lower score does not count."""


@dataclass(frozen=True, eq=False)
class _Path:
    """The way of one lesion through the slices."""

    segmenter: Segmenter
    series: CTSeries
    options: PropagationOptions
    tissue: tuple[float, float]
    """HU between which the median of each of its masks lies."""
    progress: Progress

    def follow(self, clicked: SliceMask, step: int) -> tuple[list[SliceMask], Stop]:
        """The slices found in one direction, nearest first, and why it ended."""
        found: list[SliceMask] = []
        last = clicked
        while True:
            index = last.index + step
            if stop := self._no_way_on(last.index, index):
                return found, stop
            self.progress(index)
            try:
                last = self._carried(last, index)
            except _Ended as end:
                return found, Stop(f"slice {index}: {end}")
            found.append(last)

    def _no_way_on(self, here: int, there: int) -> Stop | None:
        """Why nothing can be said about the next slice; None if it continues this one."""
        if not 0 <= there < len(self.series):
            return Stop("the series ends here")
        gap, most = _gap_mm(self.series, here, there), self.options.max_gap_mm
        if gap > most:
            return Stop(f"the next slice is {gap:.1f} mm away (at most {most:g})", cut_off=True)
        if why_not := _elsewhere(self.series.planes[here], self.series.planes[there]):
            return Stop(f"slice {there}: {why_not}; click on it as well", cut_off=True)
        return None

    def _carried(self, last: SliceMask, index: int) -> SliceMask:
        """The lesion on slice ``index``: in its place or, if it is not there, beside it.

        Raises:
            _Ended: it is not there either; says why it does not go on in its place.
        """
        alike = self._alike(last, index)
        try:
            return self._asked(self._in_place(last, alike), last, index)
        except _Ended as end:
            try:
                return self._asked(self._nearby(last, alike, index), last, index)
            except _Ended:
                raise end from None

    def _in_place(self, last: SliceMask, alike: Mask) -> _Search:
        """The pixels of the last mask that still look like the lesion; raises _Ended if few do."""
        like = last.mask & alike
        support = like.sum() / max(int(last.mask.sum()), 1)
        if support < self.options.min_support:
            raise _Ended(f"only {support:.0%} of the last mask still looks like the lesion")
        return _Search(like, like, self.options.min_score)

    def _nearby(self, last: SliceMask, alike: Mask, index: int) -> _Search:
        """The pixels around the last mask that look like the lesion."""
        from scipy import ndimage

        farthest = self.options.reach * _gap_mm(self.series, last.index, index)
        spacing = self.series.planes[index].spacing
        around = ndimage.distance_transform_edt(~last.mask, sampling=spacing) <= farthest
        min_score = self.options.nearby_score * self.options.min_score
        return _Search(around & alike, around, min_score)

    def _alike(self, last: SliceMask, index: int) -> Mask:
        """Pixels [rows, columns] of slice ``index`` that have the HU of the last mask."""
        inside = self.series.hu[last.index][last.mask].astype(np.float32)
        margin = max(self.options.hu_margin, 2.0 * float(inside.std()))
        near: Mask = np.abs(_smooth(self.series.hu[index]) - float(np.median(inside))) <= margin
        return near

    def _asked(self, search: _Search, last: SliceMask, index: int) -> SliceMask:
        """What the model answers to clicks on the pixels searched; raises _Ended if no lesion."""
        hu, plane = self.series.hu[index], self.series.planes[index]
        least = self.options.min_part_mm2 / plane.pixel_area
        aspect = aspect_of(plane.spacing)
        clicks = deepest_points(search.seeds, least, self.options.max_parts, aspect)
        if not clicks:
            raise _Ended("what still looks like the lesion is too small to click on")
        encoded = self.segmenter.encode(hu, plane.spacing)
        accepted = self._answers(encoded, clicks, last, search.min_score)
        united = np.logical_or.reduce([part.mask for part in accepted])
        mask = filled(_touching(united, search.reach))
        self._check_mask(mask, hu, last)
        score = float(np.mean([part.score for part in accepted]))
        logits = np.maximum.reduce([part.logits for part in accepted])
        prompt = Prompt(points=tuple(clicks), labels=(FOREGROUND,) * len(clicks))
        return SliceMask(index, mask, score, "propagated", prompt, Evidence(logits, encoded.frame))

    def _answers(
        self,
        encoded: EncodedSlice,
        clicks: Sequence[tuple[float, float]],
        last: SliceMask,
        min_score: float,
    ) -> list[Prediction]:
        """The answers to each click alone whose score suffices; raises _Ended if there are none."""
        prompts = [Prompt(points=(click,), labels=(FOREGROUND,)) for click in clicks]
        prior = last.evidence.logits if self.options.use_prior and last.evidence else None
        priors = None if prior is None else [prior] * len(prompts)
        predictions = self.segmenter.predict_batch([encoded] * len(prompts), prompts, priors)
        accepted = [part for part in predictions if part.score >= min_score]
        if not accepted:
            best = max(part.score for part in predictions)
            raise _Ended(f"the score fell to {best:.3f} (at least {min_score:.3f})")
        return accepted

    def _check_mask(self, mask: Mask, hu: NDArray[Any], last: SliceMask) -> None:
        """Refuse a mask on a slice ``hu`` that is empty, has leaked, or is not blood or not the
        clicked lesion's. Raises _Ended."""
        if not mask.any():
            raise _Ended("the mask no longer touches the lesion")
        growth, most = mask.sum() / max(int(last.mask.sum()), 1), self.options.max_growth
        if growth > most:
            raise _Ended(f"the mask would grow {growth:.1f} times (at most {most:g}): a leak")
        plausible = self.options.plausible_hu
        if plausible is not None and (why_not := not_blood(hu[mask], plausible)):
            raise _Ended(why_not)
        if why_not := _outside(_core(hu, mask), self.tissue, "the clicked lesion's"):
            raise _Ended(why_not)


def not_blood(hu: NDArray[Any], within: tuple[float, float]) -> str | None:
    """Why a mask's values [N] in HU are not those of blood: their median lies outside the range.
    None if it lies within."""
    return _outside(hu, within, "blood's")


def _outside(hu: NDArray[Any], within: tuple[float, float], whose: str) -> str | None:
    typical, (low, high) = float(np.median(hu)), within
    if low <= typical <= high:
        return None
    return f"the mask's median of {typical:.0f} HU is not {whose} ({low:.0f} to {high:.0f})"


def _core(hu: NDArray[Any], mask: Mask) -> NDArray[np.float32]:
    """The values [N] in HU of a mask on the slice ``hu`` without its outermost pixels, which along
    the skull are partly bone. Of a mask that is hardly more than these, all values."""
    from scipy import ndimage

    inner = ndimage.binary_erosion(mask)
    core = inner if inner.sum() >= FEWEST_IN_CORE else mask
    values: NDArray[np.float32] = hu[core].astype(np.float32)
    return values


def _smooth(hu: NDArray[Any]) -> NDArray[np.float32]:
    """The 3 x 3 mean of a slice, which reduces quantum noise of 5 HU to below 2."""
    from scipy import ndimage

    smooth: NDArray[np.float32] = ndimage.uniform_filter(hu.astype(np.float32), size=3)
    return smooth


def _touching(mask: Mask, seeds: Mask) -> Mask:
    """The parts of ``mask`` that touch ``seeds``."""
    from scipy import ndimage

    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    kept = np.unique(labels[seeds & mask])
    touching: Mask = np.isin(labels, kept[kept > 0])
    return touching


def _elsewhere(here: SlicePlane, there: SlicePlane) -> str | None:
    """Why the same pixels of the next slice show another place in the patient; None if they do not.

    Gantry tilt shifts a slice by less than its distance (30 degrees: by 0.58 of it).
    """
    if not np.allclose(there.spacing, here.spacing, rtol=1e-3):
        (down, across), (rows, columns) = there.spacing, here.spacing
        return (
            f"its pixels are of {down:g} x {across:g} mm, the last slice's of "
            f"{rows:g} x {columns:g}"
        )
    offset = np.subtract(there.position, here.position)
    up = float(offset @ here.normal)
    aside = float(np.linalg.norm(offset - up * here.normal))
    if aside <= abs(up) + max(here.spacing):
        return None
    return f"its pixels lie {aside:.1f} mm to the side of the last slice's"


def _gap_mm(series: CTSeries, one: int, other: int) -> float:
    """Distance of two slices along the normal; under tilt less than that of their positions."""
    offset = np.subtract(series.planes[other].position, series.planes[one].position)
    return float(abs(offset @ series.planes[one].normal))
