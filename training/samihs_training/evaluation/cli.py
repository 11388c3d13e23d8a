"""``samihs-evaluate``: clicks on lesions of unseen phantom studies, or of a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from rich.console import Console

from samihs_runtime.errors import UsageError, one_line_errors
from samihs_training.data.volumes import LAYOUTS

if TYPE_CHECKING:
    from samihs_training.data.studies import ClickRule
    from samihs_training.data.volumes import Layout
    from samihs_training.evaluation.patients import Protocol


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Adapters (torch); with --base."
)
@click.option("--base", type=click.Path(path_type=Path), help="The base they were trained on.")
@click.option("--bundle", type=click.Path(path_type=Path), help="An exported bundle. [shipped one]")
@click.option("--backend", default="auto", show_default=True, help="Where the bundle runs.")
@click.option("--mirror", is_flag=True,
              help="With --checkpoint: ask each slice's mirror image, too.")  # fmt: skip
@click.option("--studies", default=100, show_default=True, type=click.IntRange(min=1))
@click.option("--slices", default=6, show_default=True, type=click.IntRange(min=1),
              help="Bleeding slices per study, at most.")  # fmt: skip
@click.option("--click", "rule", default="deepest", show_default=True,
              type=click.Choice(["deepest", "random"]), help="Where on the lesion.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path),
              help="Evaluate on this data set instead; needs --out.")  # fmt: skip
@click.option("--layout", type=click.Choice(LAYOUTS), help="Layout of the data set. [recognised]")
@click.option("--folds", type=click.Path(path_type=Path),
              help="With --data: folds.json of a run, or a file of make-folds.")  # fmt: skip
@click.option("--fold", type=click.IntRange(min=0), help="Only the patients that it holds out.")
@click.option("--protocol", default="lesions", show_default=True, help="With --data.",
              type=click.Choice(["lesions", "authors"]))  # fmt: skip
@click.option("--prompt", help="With --data: how it points, such as middle or box. [deepest]")
@click.option("--clicks", default=1, show_default=True, type=click.IntRange(min=1),
              help="With --data: the first, and corrective ones.")  # fmt: skip
@click.option("--score-threshold", type=float,
              help="Accept from this score on. [the model's own, or calibrated]")  # fmt: skip
@click.option(
    "--calibration",
    default=30,
    show_default=True,
    type=click.IntRange(min=1),
    help="Studies, of other seeds, to choose a threshold on, where none is given.",
)
@click.option("--bleed-free", default=25, show_default=True, type=click.IntRange(min=0),
              help="Studies without blood, 40 clicks each: false accepts.")  # fmt: skip
@click.option("--workers", default=os.cpu_count() or 1, help="Processes that make phantoms.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for clicks.csv, summary.json.")
@click.option("--overwrite", is_flag=True, help="Replace an evaluation that is in --out.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@one_line_errors
def main(
    checkpoint: Path | None,
    base: Path | None,
    bundle: Path | None,
    backend: str,
    mirror: bool,
    studies: int,
    slices: int,
    rule: ClickRule,
    data: Path | None,
    layout: Layout | None,
    folds: Path | None,
    fold: int | None,
    protocol: Protocol,
    prompt: str | None,
    clicks: int,
    score_threshold: float | None,
    calibration: int,
    bleed_free: int,
    workers: int,
    out: Path | None,
    overwrite: bool,
    debug: bool,
) -> None:
    """Dice, HD95 and false accepts of a checkpoint or a bundle on unseen phantom studies."""
    if debug:
        os.environ["SAMIHS_DEBUG"] = "1"
    # torch and MONAI take seconds to load, which --help need not wait for.
    from samihs_training.data.studies import StudySpec
    from samihs_training.evaluation.phantoms import check_results, write_results
    from samihs_training.evaluation.pipeline import (
        chosen_cases,
        on_data,
        on_phantoms,
        open_predictor,
        print_evaluation,
    )

    console = Console()
    if checkpoint is not None:
        _refuse_given(("backend",), "of use with a bundle alone; a checkpoint runs in torch")
    if out is None:
        _refuse_given(("overwrite",), "of use with --out alone")
    if data is not None:
        _refuse_given(_OF_PHANTOMS, "of use on phantoms alone; leave out --data, or these")
        with open_predictor(checkpoint, base, bundle, backend, mirror) as predictor:
            cases = chosen_cases(data, layout, folds, fold, predictor)
            on_data(predictor, cases, protocol, prompt, clicks, out, overwrite)
        return
    _refuse_given(_OF_DATA, "of use on a data set alone; name it with --data")
    if out is not None:  # said before the work, not after it
        check_results(out, overwrite=overwrite)
    with open_predictor(checkpoint, base, bundle, backend, mirror) as predictor:
        evaluation = on_phantoms(
            predictor, StudySpec(studies, slices, rule), score_threshold, calibration, bleed_free,
            workers, console,
        )  # fmt: skip
    print_evaluation(evaluation, console)
    if out is not None:
        write_results(evaluation, out, overwrite=overwrite)
        console.print(f"written to {out}")


_OF_DATA = ("layout", "folds", "fold", "protocol", "prompt", "clicks")
"""Parameters that phantoms have no use for."""
_OF_PHANTOMS = (
    "studies", "slices", "rule", "score_threshold", "calibration", "bleed_free", "workers",
)  # fmt: skip
"""Parameters that a data set has no use for."""


def _refuse_given(parameters: Sequence[str], why: str) -> None:
    """Refuse those of the command's parameters that the user gave, be it at their defaults."""
    context = click.get_current_context()
    unset = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    given = [
        each.opts[0]
        for each in context.command.params
        if each.name in parameters and context.get_parameter_source(each.name) not in unset
    ]
    if given:
        raise UsageError(f"{', '.join(given)}: {why}")


if __name__ == "__main__":
    main()
