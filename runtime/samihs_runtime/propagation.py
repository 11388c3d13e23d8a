"""From the clicked slice through the lesion: the mask is carried from slice to slice until it ends.

On the next slice the model is asked again, with clicks of our own: the deepest interior point of
each part of those pixels of the last mask that still look like the lesion on the new slice. Only
the parts of the answer that touch those pixels are kept, so a wrong answer elsewhere cannot take
over. Each direction ends for one stated reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.clicked_parts import filled
from samihs_runtime.geometry import aspect_of
from samihs_runtime.probability import Evidence
from samihs_runtime.segmentation import FOREGROUND, Prediction, Prompt, SliceMask

if TYPE_CHECKING:
    from samihs_runtime.segmenter import EncodedSlice, Segmenter
    from samihs_runtime.series import CTSeries, SlicePlane

Mask = NDArray[np.bool_]
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
    max_drift_hu: float = 15.0
    """A mask whose median HU differs by more than this from that of the clicked one is another
    tissue: every step tolerates a little, and many small steps lead from blood to brain."""
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


def propagate(
    segmenter: Segmenter,
    series: CTSeries,
    clicked: SliceMask,
    options: PropagationOptions,
    progress: Progress = lambda index: None,
) -> tuple[tuple[SliceMask, ...], tuple[str, str]]:
    """Follow the clicked mask towards lower and towards higher slice indices.

    Returns:
        Every slice of the lesion, ascending, including the clicked one; and why it ended below and
        above, in words.
    """
    below, stop_below = _follow(segmenter, series, clicked, -1, options, progress)
    above, stop_above = _follow(segmenter, series, clicked, +1, options, progress)
    return (*reversed(below), clicked, *above), (stop_below, stop_above)


class _Ended(Exception):
    """The lesion is not on the next slice; the message says why, in words."""


def _follow(
    segmenter: Segmenter,
    series: CTSeries,
    clicked: SliceMask,
    step: int,
    options: PropagationOptions,
    progress: Progress,
) -> tuple[list[SliceMask], str]:
    """The slices found in one direction, nearest first, and why it ended."""
    found: list[SliceMask] = []
    last = clicked
    while True:
        index = last.index + step
        if not 0 <= index < len(series):
            return found, "the series ends here"
        gap = _gap_mm(series, last.index, index)
        if gap > options.max_gap_mm:
            return found, f"the next slice is {gap:.1f} mm away (at most {options.max_gap_mm:g})"
        if why_not := _elsewhere(series.planes[last.index], series.planes[index]):
            return found, f"slice {index}: {why_not}; click on it as well"
        progress(index)
        try:
            last = _carry(segmenter, series, last, index, options)
            _check_drift(series, clicked, last, options)
        except _Ended as end:
            return found, f"slice {index}: {end}"
        found.append(last)


def _carry(
    segmenter: Segmenter,
    series: CTSeries,
    last: SliceMask,
    index: int,
    options: PropagationOptions,
) -> SliceMask:
    """The lesion on slice ``index``.

    Raises:
        _Ended: it is not there.
    """
    like = _supported(series, last, index, options)
    plane = series.planes[index]
    least = options.min_part_mm2 / plane.pixel_area
    clicks = _deepest_points(like, least, options.max_parts, aspect_of(plane.spacing))
    if not clicks:
        raise _Ended("what still looks like the lesion is too small to click on")
    encoded = segmenter.encode(series.hu[index], plane.spacing)
    accepted = _answers(segmenter, encoded, clicks, last, options)
    mask = filled(_touching(np.logical_or.reduce([part.mask for part in accepted]), like))
    _check_mask(mask, series.hu[index], last, options)
    score = float(np.mean([part.score for part in accepted]))
    logits = np.maximum.reduce([part.logits for part in accepted])
    prompt = Prompt(points=tuple(clicks), labels=(FOREGROUND,) * len(clicks))
    return SliceMask(index, mask, score, "propagated", prompt, Evidence(logits, encoded.frame))


def _supported(series: CTSeries, last: SliceMask, index: int, options: PropagationOptions) -> Mask:
    """Pixels of the last mask that still look like the lesion; raises _Ended if too few."""
    like = _like_lesion(series, last, index, options)
    support = like.sum() / max(int(last.mask.sum()), 1)
    if support < options.min_support:
        raise _Ended(f"only {support:.0%} of the last mask still looks like the lesion")
    return like


def _answers(
    segmenter: Segmenter,
    encoded: EncodedSlice,
    clicks: Sequence[tuple[float, float]],
    last: SliceMask,
    options: PropagationOptions,
) -> list[Prediction]:
    """The answers to each click alone whose score suffices; raises _Ended if there are none."""
    prompts = [Prompt(points=(click,), labels=(FOREGROUND,)) for click in clicks]
    prior = last.evidence.logits if options.use_prior and last.evidence else None
    priors = None if prior is None else [prior] * len(prompts)
    predictions = segmenter.predict_batch([encoded] * len(prompts), prompts, priors)
    accepted = [part for part in predictions if part.score >= options.min_score]
    if not accepted:
        best = max(part.score for part in predictions)
        raise _Ended(f"the score fell to {best:.3f} (at least {options.min_score:.3f})")
    return accepted


def _check_mask(mask: Mask, hu: NDArray[Any], last: SliceMask, options: PropagationOptions) -> None:
    """Refuse a mask on a slice ``hu`` that is empty, has leaked or is not blood. Raises _Ended."""
    if not mask.any():
        raise _Ended("the mask no longer touches the lesion")
    growth = mask.sum() / max(int(last.mask.sum()), 1)
    if growth > options.max_growth:
        raise _Ended(
            f"the mask would grow {growth:.1f} times (at most {options.max_growth:g}): a leak"
        )
    if options.plausible_hu is not None:
        why_not = not_blood(hu[mask], options.plausible_hu)
        if why_not:
            raise _Ended(why_not)


def _check_drift(
    series: CTSeries, clicked: SliceMask, carried: SliceMask, options: PropagationOptions
) -> None:
    """Refuse a mask of a different tissue than the clicked one. Raises _Ended."""
    now, then = (float(np.median(series.hu[e.index][e.mask])) for e in (carried, clicked))
    if abs(now - then) > options.max_drift_hu:
        raise _Ended(
            f"the mask's median of {now:.0f} HU is {abs(now - then):.0f} from the clicked slice's "
            f"(at most {options.max_drift_hu:g})"
        )


def not_blood(hu: NDArray[Any], within: tuple[float, float]) -> str | None:
    """Why a mask's values [N] in HU are not those of blood: their median lies outside the range.
    None if it lies within."""
    typical = float(np.median(hu))
    if within[0] <= typical <= within[1]:
        return None
    return f"the mask's median of {typical:.0f} HU is not blood's ({within[0]:g} to {within[1]:g})"


def _like_lesion(
    series: CTSeries, last: SliceMask, index: int, options: PropagationOptions
) -> Mask:
    """Pixels [rows, columns] of the last mask that still have the lesion's HU on slice ``index``.

    Compared after a 3 x 3 mean, which reduces quantum noise of 5 HU to below 2.
    """
    from scipy import ndimage

    inside = series.hu[last.index][last.mask].astype(np.float32)
    margin = max(options.hu_margin, 2.0 * float(inside.std()))
    smooth = ndimage.uniform_filter(series.hu[index].astype(np.float32), size=3)
    near: Mask = np.abs(smooth - float(np.median(inside))) <= margin
    return last.mask & near


def _deepest_points(
    region: Mask, min_pixels: float, most: int, aspect: float
) -> list[tuple[float, float]]:
    """The deepest interior point (x, y) of each of the largest parts of ``region``."""
    from scipy import ndimage

    labels, count = ndimage.label(region, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    largest = [int(part) for part in np.argsort(-sizes)[:most] if sizes[part] >= min_pixels]
    return [deepest_point(labels == part + 1, aspect) for part in largest]


def deepest_point(region: Mask, aspect: float = 1.0) -> tuple[float, float]:
    """(x, y) of the pixel of ``region`` [rows, columns] farthest from everything outside it.

    ``aspect`` is the height of a pixel divided by its width.
    """
    from scipy import ndimage

    padded = np.pad(region, 1)
    depth = ndimage.distance_transform_edt(padded, sampling=(aspect, 1.0))[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(depth)), region.shape)
    return float(column), float(row)


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
