"""One request from start to end: find the slice, segment the click, follow the lesion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samihs_runtime.answering import SliceAnswer, answer_prompt
from samihs_runtime.errors import PromptError
from samihs_runtime.prompts import Request, check_inside
from samihs_runtime.propagation import PropagationOptions, Stop, not_blood, propagate
from samihs_runtime.segmentation import FOREGROUND, Lesion, Prompt, SliceMask

if TYPE_CHECKING:
    from samihs_runtime.encoding.slice_encoder import Slice
    from samihs_runtime.segmenter import Segmenter
    from samihs_runtime.series import CTSeries

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class _Located:
    """The slice that a request was answered on."""

    index: int
    answer: SliceAnswer
    why_not: str | None
    """Why the answer does not count as a hemorrhage; None if it does."""
    notes: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[bool, float]:
        """Higher is better: hemorrhages rank above rejected answers, then by score."""
        return self.why_not is None, self.answer.score


def segment_lesion(
    segmenter: Segmenter,
    series: CTSeries,
    request: Request,
    *,
    propagation: bool = True,
    say: Say = lambda text: None,
) -> Lesion:
    """Answer one request. If the click hits no hemorrhage, ``found`` is False.

    Args:
        segmenter: an open segmenter.
        series: the series that was clicked on.
        request: the prompt, and its slice if given.
        propagation: whether to follow the lesion into the neighbouring slices.
        say: called with what is being done, for a progress line.

    Raises:
        PromptError: the request lies outside the series, or names no slice and none qualifies.
    """
    check_inside(request, series.shape, len(series))
    located = _locate(segmenter, series, request, say)
    answer, index = located.answer, located.index
    notes = (*located.notes, *answer.notes, *_threshold_notes(segmenter))
    if why_not := located.why_not:
        return Lesion(
            found=False,
            score=answer.score,
            clicked_slice=index,
            slices=(),
            notes=(*notes, f"no hemorrhage found at this click: {why_not}"),
        )
    prompt, evidence = request.prompt, answer.evidence
    clicked = SliceMask(index, answer.mask, answer.score, "clicked", prompt, evidence)
    slices: tuple[SliceMask, ...] = (clicked,)
    stops: tuple[Stop, ...] = ()
    if propagation and len(series) > 1:
        options = PropagationOptions(
            min_score=segmenter.score_threshold,
            plausible_hu=_plausible(segmenter),
        )
        slices, stops = propagate(
            segmenter, series, clicked, options, lambda z: say(f"following into slice {z}")
        )
    return Lesion(
        found=True,
        score=answer.score,
        clicked_slice=index,
        slices=slices,
        stop_reasons=tuple(stop.why for stop in stops),
        notes=(*notes, *_extent_notes(len(series), stops)),
    )


def _threshold_notes(segmenter: Segmenter) -> tuple[str, ...]:
    """That the answers are judged by another threshold than the bundle's, if so."""
    used, own = segmenter.score_threshold, segmenter.bundle.manifest.score_threshold
    if used == own:
        return ()
    return (f"the score's threshold is {used:.3f}, as given; the bundle's own is {own:.3f}",)


def _extent_notes(slices: int, stops: tuple[Stop, ...]) -> tuple[str, ...]:
    """Why the volume is a lower bound, in a series of so many slices and by where the lesion was
    not followed on; measurement adds what the series' ends and the image's edges cut off."""
    if slices > 1 and not stops:
        return ("only the clicked slice was segmented: the volume is a lower bound",)
    return tuple(
        f"the lesion may go on where it was not followed ({stop.why}): the volume is a lower bound"
        for stop in stops
        if stop.cut_off
    )


def why_rejected(
    hu: Slice, answer: SliceAnswer, threshold: float, plausible_hu: tuple[float, float]
) -> str | None:
    """Why an answer on a slice [rows, columns] is not a hemorrhage; None if it is one."""
    if not answer.mask.any():
        return f"the model drew no mask at the click (score {answer.score:.3f})"
    if answer.score < threshold:
        return f"score {answer.score:.3f}, at least {threshold:.3f} was needed"
    return not_blood(hu[answer.mask], plausible_hu)


def _locate(segmenter: Segmenter, series: CTSeries, request: Request, say: Say) -> _Located:
    """Predict on the slice that was named, the only one there is, or the best that qualifies.

    The best is the accepted answer with the highest score or, if none is accepted, the highest
    score of all.
    """
    if request.slice_index is not None or len(series) == 1:
        index = request.slice_index or 0
        say(f"encoding slice {index}")
        return _located(segmenter, series, index, request.prompt)
    candidates = _candidate_slices(series, request.prompt, _plausible(segmenter))
    if not candidates:
        low, high = _plausible(segmenter)
        raise PromptError(
            f"on none of the {len(series)} slices is the clicked spot between {low:g} and "
            f"{high:g} HU, as blood is: name the slice with --slice N or --point x,y,z",
            reason="no_plausible_hu",
        )
    best: _Located | None = None  # only the best is kept: a series may have hundreds of slices
    for done, index in enumerate(candidates, start=1):
        say(f"trying the click on slice {index} ({done} of {len(candidates)})")
        tried = _located(segmenter, series, index, request.prompt)
        if best is None or tried.rank > best.rank:
            best = tried
    assert best is not None
    return replace(best, notes=_search_notes(len(candidates), len(series), best))


def _located(segmenter: Segmenter, series: CTSeries, index: int, prompt: Prompt) -> _Located:
    hu = series.hu[index]
    answer = answer_prompt(segmenter, hu, prompt, series.planes[index].spacing)
    why_not = why_rejected(hu, answer, segmenter.score_threshold, _plausible(segmenter))
    return _Located(index, answer, why_not)


def _search_notes(tried: int, slices: int, best: _Located) -> tuple[str, ...]:
    """What a search for the slice leaves uncertain: the best of many answers is more likely to pass
    by chance than a single answer."""
    of = "all of them, as none is accepted" if best.why_not else "those that are accepted"
    found = (
        f"no slice was named: the click could be blood on {tried} of {slices} slices; "
        f"slice {best.index} has the best score of {of}"
    )
    if tried == 1:
        return (found,)
    return (found, f"{tried} slices were tried; the score's threshold is meant for one")


def _plausible(segmenter: Segmenter) -> tuple[float, float]:
    return segmenter.bundle.manifest.plausible_hu


def _candidate_slices(
    series: CTSeries, prompt: Prompt, plausible: tuple[float, float]
) -> list[int]:
    """Slices where every foreground click could be blood, its 5 x 5 mean being in that range.

    A request with only a box is judged at the box's centre.
    """
    low, high = plausible
    spots = [
        point
        for point, label in zip(prompt.points, prompt.labels, strict=True)
        if label == FOREGROUND
    ]
    if not spots and prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        spots = [((x0 + x1) / 2, (y0 + y1) / 2)]
    means = np.array([[_mean_hu(plane, *spot) for spot in spots] for plane in series.hu])
    return [int(z) for z in np.flatnonzero(((means >= low) & (means <= high)).all(axis=1))]


def _mean_hu(plane: NDArray[np.generic], x: float, y: float, radius: int = 2) -> float:
    column, row = round(x), round(y)
    window = plane[
        max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1
    ]
    return float(window.mean())
