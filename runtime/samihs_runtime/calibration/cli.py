"""``samihs-calibrate``: heads without hemorrhage in; how many clicks are accepted, and the score
threshold that accepts few enough, out."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from samihs_runtime.collector import patient_collector
from samihs_runtime.errors import UsageError, one_line_errors
from samihs_runtime.precisions import PRECISIONS
from samihs_runtime.termination import tidy_termination

if TYPE_CHECKING:
    from samihs_runtime.calibration.result import Calibration
    from samihs_runtime.console import Screen


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("studies", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--share", type=click.FloatRange(0, 1), default=0.05, show_default=True,
              help="Largest share of these clicks that may be accepted.")  # fmt: skip
@click.option("--slices", type=click.IntRange(min=1), default=4, show_default=True,
              help="Slices per study, spread through the brain.")  # fmt: skip
@click.option("--clicks", type=click.IntRange(min=2), default=10, show_default=True,
              help="Clicks per slice; every other one on the brightest tenth.")  # fmt: skip
@click.option("--series", metavar="UID|NUMBER", help="Which series of each study. [chosen]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of the clicks' places.")  # fmt: skip
@click.option("--score-threshold", type=click.FloatRange(0, 1),
              help="Try this threshold. [the bundle's own]")  # fmt: skip
@click.option("--bundle", type=click.Path(path_type=Path), help="Model bundle. [the shipped one]")
@click.option("--adapters", metavar="NAME", help="One of the bundle's adapter sets. [its own]")
@click.option("--backend", type=click.Choice(["auto", "tensorrt", "cuda", "cpu"]), default="auto",
              show_default=True, help="A named backend that cannot run is an error.")  # fmt: skip
@click.option("--precision", type=click.Choice(PRECISIONS), help="Of graphs and engines.")
@click.option("--out", type=click.Path(path_type=Path), default="samihs-calibration",
              show_default=True, help="Folder for results.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an earlier result in --out.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="samihs")
@one_line_errors
@tidy_termination()
@patient_collector()
def main(
    studies: tuple[Path, ...],
    share: float,
    slices: int,
    clicks: int,
    series: str | None,
    seed: int,
    score_threshold: float | None,
    bundle: Path | None,
    adapters: str | None,
    backend: str,
    precision: str | None,
    out: Path,
    overwrite: bool,
    debug: bool,
) -> None:
    """Click on STUDIES, CT heads WITHOUT hemorrhage (each a DICOM file, folder, zip or DICOMDIR),
    and report how many clicks are accepted as hemorrhage nevertheless.

    The threshold that accepts at most --share of them goes into samihs-infer's --score-threshold. A
    higher threshold also refuses more hemorrhages: docs/evaluation.md.
    """
    if debug:
        os.environ["SAMIHS_DEBUG"] = "1"
    if math.isnan(share):
        raise UsageError("--share nan: expected 0 to 1")
    from samihs_runtime.calibration.normal_clicks import Sampling
    from samihs_runtime.calibration.picture import AcceptedClicks
    from samihs_runtime.calibration.result import (
        FILES,
        PICTURE,
        Calibration,
        refused_by_evaluation,
    )
    from samihs_runtime.calibration.studies import StudyTrials
    from samihs_runtime.console import Screen
    from samihs_runtime.segmenter import Segmenter
    from samihs_runtime.writers.drawing import save_png
    from samihs_runtime.writers.files import check_destination, staged_folder

    check_destination(out, FILES, overwrite=overwrite)
    screen, accepted = Screen(), AcceptedClicks()
    with Segmenter.from_bundle(
        bundle, backend, adapters=adapters, precision=precision, score_threshold=score_threshold
    ) as segmenter:
        screen.backend(segmenter)
        sampling = Sampling(slices, clicks, seed)
        asked = StudyTrials(segmenter, sampling, series, screen, accepted)
        asked.click_through(studies)
        manifest = segmenter.bundle.manifest
        result = Calibration(
            f"{manifest.name} {manifest.version}", segmenter.bundle.id, segmenter.backend.name,
            manifest.score_threshold, segmenter.score_threshold, share, sampling,
            tuple(asked.trials), refused_by_evaluation(manifest.accuracy), tuple(asked.left_out),
        )  # fmt: skip
    if not result.trials:
        raise UsageError("none of the studies could be clicked on; the reasons are above")
    with staged_folder(out, FILES, overwrite=overwrite) as stage:
        result.write(stage.folder)
        if accepted.count:
            save_png(accepted.page(result.threshold, len(result.trials)), stage.folder / PICTURE)
    _show(result, screen)
    for path in stage.written.values():
        screen.say(f"written  {path}", "")


def _show(result: Calibration, screen: Screen) -> None:
    """The shares at the tried threshold, and the suggested one with what it costs."""
    from rich.table import Table

    from samihs_runtime.calibration.result import FEW_STUDIES

    table = Table("clicks on", "number", "accepted", "95 % over studies")
    for where, share in result.accepted(result.threshold).items():
        table.add_row(where, str(share.count), f"{share.mean:.1%}", share.interval(".1%"))
    screen.say(f"accepted at a score threshold of {result.threshold:.3f}:", "")
    screen.console.print(table)
    if result.is_provisional:
        screen.say(f"few studies: give {FEW_STUDIES} or more, of one scanner and kernel", "yellow")
    if result.suggested == result.own:
        screen.say(_enough(result), "")
    else:
        _show_suggested(result, screen)


def _enough(result: Calibration) -> str:
    """That the bundle's own threshold accepts few enough, as far as the clicks can tell."""
    share = result.accepted(result.own)["all"]
    text = (
        f"The bundle's own threshold of {result.own:.3f} accepts {share.mean:.1%} of these clicks, "
        f"no more than {result.share:.0%}"
    )
    if share.high <= result.share and not result.is_provisional:
        return f"{text}: nothing need be changed."
    more = "" if math.isnan(share.high) else f"; up to {share.high:.0%} is possible"
    return f"{text}, but these are too few to tell{more}."


def _show_suggested(result: Calibration, screen: Screen) -> None:
    from samihs_runtime.intervals import interval_text

    interval = interval_text(*result.interval)
    provisional = "provisional: so few studies may give another, " if result.is_provisional else ""
    screen.say(
        f"suggested: --score-threshold {result.suggested:.3f} ({provisional}{interval})", "bold"
    )
    others = result.on_others()
    if others.count:
        screen.say(
            f"accepted in studies by which it was not chosen: {others.mean:.1%} "
            f"({others.interval('.1%')})",
            "",
        )
    screen.say(_cost(result), "yellow")


def _cost(result: Calibration) -> str:
    """What the suggested threshold refuses, as far as the bundle's own evaluation tells."""
    tried, suggested = (result.refuses(each) for each in (result.threshold, result.suggested))
    if tried is None or suggested is None:
        return "A higher threshold also refuses more hemorrhages (docs/evaluation.md)."
    return (
        "In the bundle's own evaluation, of the clicks on bleeds of 1 mL and more, "
        f"{tried:.0%} are refused at {result.threshold:.3f}, {suggested:.0%} at "
        f"{result.suggested:.3f}."
    )


if __name__ == "__main__":
    main()
