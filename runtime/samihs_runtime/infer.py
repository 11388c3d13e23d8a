"""The main job, stage by stage: read, open, segment, measure, write, show."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from samihs_runtime.console import Screen
from samihs_runtime.errors import OutputError
from samihs_runtime.measurement import measure
from samihs_runtime.prompts import check_inside
from samihs_runtime.report import Report
from samihs_runtime.segmenter import Segmenter
from samihs_runtime.study import read_study
from samihs_runtime.workflow import segment_lesion
from samihs_runtime.writers import NAMES, write_outputs

if TYPE_CHECKING:
    from samihs_runtime.cli import Options
    from samihs_runtime.segmentation import Lesion
    from samihs_runtime.series import CTSeries


def infer(options: Options) -> dict[str, Path]:
    """Run ``samihs-infer``; returns the files written, by name.

    Raises:
        UserError: anything the user can mend; nothing is written then.
    """
    screen = Screen()
    _refuse_overwriting(options)
    started = time.perf_counter()
    with screen.working("reading the study") as say:
        series = read_study(options.study, series=options.series, progress=_counted(say))
        check_inside(options.request, series.shape, len(series))
    read = time.perf_counter()
    with Segmenter.from_bundle(options.bundle, options.backend) as segmenter:
        screen.opened(series, segmenter)
        with screen.working("segmenting") as say:
            lesion = segment_lesion(
                segmenter, series, options.request, propagation=options.propagation, say=say
            )
        report = _report(options, series, lesion, segmenter, read - started)
    measurement = measure(series, lesion)
    with screen.working("writing"):
        written = write_outputs(
            series,
            lesion,
            measurement,
            report,
            options.out,
            options.formats,
            overwrite=options.overwrite,
            identify=options.identify,
        )
    screen.result(series, lesion, measurement, report, written)
    return written


def _refuse_overwriting(options: Options) -> None:
    """Say so before the work, not after it."""
    if options.overwrite:
        return
    names = [name for kind in options.formats for name in NAMES[kind]]
    there = [name for name in names if (options.out / name).exists()]
    if there:
        raise OutputError(
            f"{options.out} holds {', '.join(there)} already: choose another --out, or --overwrite"
        )


def _counted(say: Callable[[str], None]) -> Callable[[int, int], None]:
    return lambda done, total: say(f"reading slice {done} of {total}")


def _report(
    options: Options, series: CTSeries, lesion: Lesion, segmenter: Segmenter, load_seconds: float
) -> Report:
    manifest = segmenter.bundle.manifest
    stages = segmenter.timings.stages()
    timings = {"load": load_seconds}
    timings.update({name: stage.total for name, stage in stages.items()})
    return Report(
        bundle_name=manifest.name,
        bundle_version=manifest.version,
        bundle_id=segmenter.bundle.id,
        training_data=manifest.training_data,
        clinical_use=manifest.clinical_use,
        backend=segmenter.backend.name,
        backend_description=segmenter.backend.description,
        backend_reason="; ".join(segmenter.reasons) or "the first in order",
        prompt=options.request.prompt,
        slice_choice=_slice_choice(options, series),
        score_threshold=manifest.score_threshold,
        timings=timings,
    )


def _slice_choice(options: Options, series: CTSeries) -> str:
    if options.request.slice_index is not None:
        return "given"
    return "only slice" if len(series) == 1 else "best score"
