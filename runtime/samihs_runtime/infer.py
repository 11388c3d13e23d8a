"""The main job, stage by stage: read, open, segment, measure, write, display."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from samihs_runtime.console import Screen
from samihs_runtime.formats import RESERVED
from samihs_runtime.measurement import measure
from samihs_runtime.opening import Opening
from samihs_runtime.patient_points import resolve
from samihs_runtime.prompts import check_inside
from samihs_runtime.report import Report
from samihs_runtime.workflow import segment_lesion
from samihs_runtime.writers import check_formats, write_outputs
from samihs_runtime.writers.files import check_destination
from samihs_runtime.writers.preparing import prepare

if TYPE_CHECKING:
    import threading

    from samihs_runtime.measurement import Measurement
    from samihs_runtime.options import Click, Options
    from samihs_runtime.prompts import Request
    from samihs_runtime.segmentation import Lesion
    from samihs_runtime.segmenter import Segmenter
    from samihs_runtime.series import CTSeries

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Answer:
    """One click's result, with the files written."""

    lesion: Lesion
    measurement: Measurement
    report: Report
    written: dict[str, Path]
    """File name -> path."""


def infer(options: Options, click: Click) -> dict[str, Path]:
    """Run ``samihs-infer`` for one click; returns the files written, by name.

    Raises:
        UserError: anything that the user can fix; nothing is written then.
    """
    screen = Screen()
    check_destination(options.out, RESERVED, overwrite=options.write.overwrite)
    with Opening(options) as opening:
        series, seconds = _read(click, screen)
        request = request_on(click, series)
        writers = prepare(options.formats)
        segmenter = opening.segmenter()
        screen.opened(series, segmenter)
        with screen.working("segmenting") as say:
            timings = {"load": seconds}
            answer = answer_click(segmenter, series, request, options, timings, say, writers)
    screen.result(series, answer.lesion, answer.measurement, answer.report, answer.written)
    return answer.written


def _read(click: Click, screen: Screen) -> tuple[CTSeries, float]:
    """The series that was clicked on, and how many seconds reading it took."""
    from samihs_runtime.study import read_study  # pydicom: imported while the model opens

    started = time.perf_counter()
    with screen.counting("reading the study", "slices") as count:
        series = read_study(click.study, series=click.series, progress=count)
    return series, time.perf_counter() - started


def request_on(click: Click, series: CTSeries) -> Request:
    """The click in pixels of the series.

    Raises:
        PromptError: it lies outside the series.
    """
    request = resolve(click.request, series)
    check_inside(request, series.shape, len(series))
    return request


def answer_click(
    segmenter: Segmenter,
    series: CTSeries,
    request: Request,
    options: Options,
    timings: Mapping[str, float],
    say: Say = lambda text: None,
    writers: threading.Thread | None = None,
) -> Answer:
    """Segment, measure and write into ``options.out``.

    Args:
        segmenter: an open segmenter, which may have answered other clicks before.
        series: what was clicked on.
        request: the click, inside the series.
        options: what to write, and how.
        timings: seconds of the stages before this one.
        say: called with what is being done.
        writers: the thread that :func:`~samihs_runtime.writers.preparing.prepare` started, if any.

    Raises:
        UserError: one of its subclasses; an :class:`OutputError` for a format that cannot hold this
            series is raised before any slice is encoded.
    """
    check_formats(series, options.formats, options.write)
    before = _totals(segmenter) if segmenter.timings.stages().get("click") else {}
    lesion = segment_lesion(segmenter, series, request, propagation=options.propagation, say=say)
    spent = {name: total - before.get(name, 0.0) for name, total in _totals(segmenter).items()}
    own = {name: seconds for name, seconds in spent.items() if seconds > 0}
    report = _report(request, series, segmenter, {**timings, **own}, options.lesion_number)
    measurement = measure(series, lesion)
    say("writing")
    written = write_outputs(
        series, lesion, measurement, report, options.out, options.formats, options.write, writers
    )
    return Answer(lesion, measurement, report, written)


def _totals(segmenter: Segmenter) -> dict[str, float]:
    return {name: stage.total for name, stage in segmenter.timings.stages().items()}


def _report(
    request: Request,
    series: CTSeries,
    segmenter: Segmenter,
    timings: Mapping[str, float],
    lesion_number: int,
) -> Report:
    manifest = segmenter.bundle.manifest
    return Report(
        bundle_name=manifest.name,
        bundle_version=manifest.version,
        bundle_id=segmenter.bundle.id,
        training_data=manifest.training_data,
        clinical_use=manifest.clinical_use,
        backend=segmenter.backend.name,
        backend_description=segmenter.backend.description,
        backend_reason="; ".join(segmenter.reasons) or "the first in order",
        prompt=request.prompt,
        slice_choice=_slice_choice(request, series),
        score_threshold=segmenter.score_threshold,
        timings=timings,
        lesion_number=lesion_number,
    )


def _slice_choice(request: Request, series: CTSeries) -> str:
    if request.slice_index is not None:
        return "given"
    return "only slice" if len(series) == 1 else "best score"
