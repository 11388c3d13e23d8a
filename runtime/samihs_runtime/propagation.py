"""From the clicked slice through the lesion: the mask is carried from slice to slice until it ends.

On the next slice the model is asked again, with clicks of our own: the deepest interior point of
each part of the last mask, among the pixels that on the new slice still look like the lesion. What
comes back is kept where it touches those pixels, so a wrong answer elsewhere cannot take over. Each
direction ends for one stated reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.clicked_parts import filled
from samihs_runtime.probability import Evidence
from samihs_runtime.segmentation import FOREGROUND, Prompt, SliceMask

if TYPE_CHECKING:
    from samihs_runtime.segmenter import Segmenter
    from samihs_runtime.series import CTSeries

Mask = NDArray[np.bool_]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class PropagationOptions:
    """When a lesion is followed into the next slice, and when it ends."""

    min_score: float
    """Below this predicted IoU the model says there is no lesion (the bundle's threshold)."""
    max_gap_mm: float = 10.0
    """Farther than this along the normal nothing is inferred: most bleeds are a few cm across."""
    hu_margin: float = 15.0
    """A pixel still looks like the lesion within this of its median HU, or within 2 of its SD."""
    min_support: float = 0.1
    """Share of the last mask's pixels that must still look like the lesion."""
    max_drift_hu: float = 15.0
    """A mask whose median is farther than this from the clicked one's is another tissue: each step
    allows for a little, and many little steps lead from blood to brain."""
    max_growth: float = 4.0
    """A mask this many times the last one's area has leaked."""
    max_parts: int = 4
    """Parts followed at once, the largest first."""
    min_part_mm2: float = 4.0
    """Parts smaller than this are noise, not lesion."""
    plausible_hu: tuple[float, float] | None = None
    """A mask whose median HU lies outside is no blood (the bundle's range); None asks nothing. The
    median, since a rim of skull in the mask of an extra-axial bleed moves the mean beyond it."""
    use_prior: bool = False
    """Hand the last slice's logits to the decoder as a prior. Off: a decoder that was not trained
    on another slice's logits trusts them too much (``benchmarks/propagation.py`` has both)."""


def propagate(
    segmenter: Segmenter,
    series: CTSeries,
    clicked: SliceMask,
    options: PropagationOptions,
    progress: Progress = lambda index: None,
) -> tuple[tuple[SliceMask, ...], tuple[str, str]]:
    """Follow the clicked mask towards lower and towards higher slice indices.

    Returns:
        Every slice of the lesion, ascending, the clicked one among them; and why it ended below
        and above, in words.
    """
    below, stop_below = _follow(segmenter, series, clicked, -1, options, progress)
    above, stop_above = _follow(segmenter, series, clicked, +1, options, progress)
    return (*reversed(below), clicked, *above), (stop_below, stop_above)


def _follow(
    segmenter: Segmenter,
    series: CTSeries,
    clicked: SliceMask,
    step: int,
    options: PropagationOptions,
    progress: Progress,
) -> tuple[list[SliceMask], str]:
    found: list[SliceMask] = []
    last = clicked
    while True:
        index = last.index + step
        if not 0 <= index < len(series):
            return found, "the series ends here"
        gap = _gap_mm(series, last.index, index)
        if gap > options.max_gap_mm:
            return found, f"the next slice is {gap:.1f} mm away (at most {options.max_gap_mm:g})"
        progress(index)
        carried = _carry(segmenter, series, last, index, options)
        if not isinstance(carried, str):
            carried = _drifted(series, clicked, carried, options) or carried
        if isinstance(carried, str):
            return found, f"slice {index}: {carried}"
        found.append(carried)
        last = carried


def _carry(
    segmenter: Segmenter,
    series: CTSeries,
    last: SliceMask,
    index: int,
    options: PropagationOptions,
) -> SliceMask | str:
    """The lesion on slice ``index``, or why it is not there."""
    like = _like_lesion(series, last, index, options)
    support = like.sum() / max(int(last.mask.sum()), 1)
    if support < options.min_support:
        return f"only {support:.0%} of the last mask still looks like the lesion"
    clicks = _deepest_points(like, _pixels(series, index, options.min_part_mm2), options.max_parts)
    if not clicks:
        return "what still looks like the lesion is too small to click on"
    encoded = segmenter.encode(series.hu[index])
    prompts = [Prompt(points=(click,), labels=(FOREGROUND,)) for click in clicks]
    prior = last.evidence.logits if options.use_prior and last.evidence else None
    priors = None if prior is None else [prior] * len(prompts)
    predictions = segmenter.predict_batch([encoded] * len(prompts), prompts, priors)
    accepted = [part for part in predictions if part.score >= options.min_score]
    if not accepted:
        best = max(part.score for part in predictions)
        return f"the score fell to {best:.3f} (at least {options.min_score:.3f})"
    mask = filled(_touching(np.logical_or.reduce([part.mask for part in accepted]), like))
    growth = mask.sum() / max(int(last.mask.sum()), 1)
    if not mask.any():
        return "the mask no longer touches the lesion"
    if growth > options.max_growth:
        return f"the mask would grow {growth:.1f} times (at most {options.max_growth:g}): a leak"
    if options.plausible_hu is not None:
        why_not = not_blood(series.hu[index][mask], options.plausible_hu)
        if why_not:
            return why_not
    score = float(np.mean([part.score for part in accepted]))
    logits = np.maximum.reduce([part.logits for part in accepted])
    merged = Prompt(
        points=tuple(click for prompt in prompts for click in prompt.points),
        labels=(FOREGROUND,) * len(prompts),
    )
    return SliceMask(index, mask, score, "propagated", merged, Evidence(logits, encoded.frame))


def _drifted(
    series: CTSeries, clicked: SliceMask, carried: SliceMask, options: PropagationOptions
) -> str | None:
    """Why ``carried`` is another tissue than what was clicked; None where it is the same."""
    now, then = (float(np.median(series.hu[e.index][e.mask])) for e in (carried, clicked))
    if abs(now - then) <= options.max_drift_hu:
        return None
    return (
        f"the mask's median of {now:.0f} HU is {abs(now - then):.0f} from the clicked slice's "
        f"(at most {options.max_drift_hu:g})"
    )


def not_blood(hu: NDArray[Any], within: tuple[float, float]) -> str | None:
    """Why a mask's values [N] in HU are no blood's: their median lies outside; None where it does
    not."""
    typical = float(np.median(hu))
    if within[0] <= typical <= within[1]:
        return None
    return f"the mask's median of {typical:.0f} HU is not blood's ({within[0]:g} to {within[1]:g})"


def _like_lesion(
    series: CTSeries, last: SliceMask, index: int, options: PropagationOptions
) -> Mask:
    """Pixels [rows, columns] of the last mask that on slice ``index`` still have the lesion's HU.

    Compared after a 3 x 3 mean, which takes quantum noise of 5 HU below 2.
    """
    from scipy import ndimage

    inside = series.hu[last.index][last.mask].astype(np.float32)
    margin = max(options.hu_margin, 2.0 * float(inside.std()))
    smooth = ndimage.uniform_filter(series.hu[index].astype(np.float32), size=3)
    near: Mask = np.abs(smooth - float(np.median(inside))) <= margin
    return last.mask & near


def _deepest_points(region: Mask, min_pixels: float, most: int) -> list[tuple[float, float]]:
    """The deepest interior point (x, y) of each of the largest parts of ``region``."""
    from scipy import ndimage

    labels, count = ndimage.label(region, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    largest = [int(part) for part in np.argsort(-sizes)[:most] if sizes[part] >= min_pixels]
    return [deepest_point(labels == part + 1) for part in largest]


def deepest_point(region: Mask) -> tuple[float, float]:
    """(x, y) of the pixel of ``region`` [rows, columns] farthest from everything outside it."""
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(depth)), region.shape)
    return float(column), float(row)


def _touching(mask: Mask, seeds: Mask) -> Mask:
    """The parts of ``mask`` that touch ``seeds``."""
    from scipy import ndimage

    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    kept = np.unique(labels[seeds & mask])
    touching: Mask = np.isin(labels, kept[kept > 0])
    return touching


def _gap_mm(series: CTSeries, one: int, other: int) -> float:
    """Distance of two slices along the normal: under tilt less than between their positions."""
    offset = np.subtract(series.planes[other].position, series.planes[one].position)
    return float(abs(offset @ series.planes[one].normal))


def _pixels(series: CTSeries, index: int, area_mm2: float) -> float:
    return area_mm2 / series.planes[index].pixel_area
