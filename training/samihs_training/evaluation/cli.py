"""``samihs-evaluate``: clicks on lesions in unseen phantom studies or in a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from rich.console import Console

from samihs_runtime.errors import UsageError, one_line_errors
from samihs_training.data.cases.case import LAYOUTS
from samihs_training.data.cases.labels import parsed

if TYPE_CHECKING:
    from samihs_training.data.cases.case import Layout
    from samihs_training.data.studies import ClickRule
    from samihs_training.evaluation.patients import Protocol


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Adapters (torch); with --base."
)
@click.option("--base", type=click.Path(path_type=Path), help="The base they were trained on.")
@click.option("--bundle", type=click.Path(path_type=Path), help="An exported bundle. [shipped one]")
@click.option("--backend", default="auto", show_default=True, help="Where the bundle runs.")
@click.option("--mirror", is_flag=True,
              help="With --checkpoint: predict on mirrored slices, too.")  # fmt: skip
@click.option("--studies", default=100, show_default=True, type=click.IntRange(min=1))
@click.option("--slices", default=6, show_default=True, type=click.IntRange(min=1),
              help="Slices with hemorrhage per study, at most.")  # fmt: skip
@click.option("--click", "rule", default="deepest", show_default=True,
              type=click.Choice(["deepest", "random"]), help="Where on the lesion.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path),
              help="Evaluate on this data set instead; needs --out.")  # fmt: skip
@click.option("--layout", type=click.Choice(LAYOUTS), help="Layout of the data set. [recognised]")
@click.option("--labels", help="Those of its masks that are hemorrhage, if they have others.")
@click.option("--folds", type=click.Path(path_type=Path),
              help="With --data: folds.json of a run, or a file of make-folds.")  # fmt: skip
@click.option("--fold", type=click.IntRange(min=0), help="Only the patients this fold holds out.")
@click.option("--protocol", default="lesions", show_default=True, help="With --data.",
              type=click.Choice(["lesions", "authors"]))  # fmt: skip
@click.option("--prompt", help="With --data: kind of prompt, such as middle or box. [deepest]")
@click.option("--clicks", default=1, show_default=True, type=click.IntRange(min=1),
              help="With --data: prompts in all, the first and corrective ones.")  # fmt: skip
@click.option("--score-threshold", type=float,
              help="Lowest score to accept. [the model's own, or calibrated]")  # fmt: skip
@click.option(
    "--calibration",
    default=30,
    show_default=True,
    type=click.IntRange(min=1),
    help="Studies, with other seeds, for choosing a threshold where none is given.",
)
@click.option("--bleed-free", default=25, show_default=True, type=click.IntRange(min=0),
              help="Bleed-free studies, 40 clicks each, to count false accepts.")  # fmt: skip
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
    labels: str | None,
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
    # torch and MONAI take seconds to load; --help need not wait for them.
    from samihs_training.data.cases.finding import find_cases
    from samihs_training.data.studies import StudySpec
    from samihs_training.evaluation.chosen_cases import chosen_cases
    from samihs_training.evaluation.phantom_files import check_results, write_results
    from samihs_training.evaluation.pipeline import (
        on_data,
        on_phantoms,
        open_predictor,
        print_evaluation,
    )

    console = Console()
    if checkpoint is not None:
        _refuse_given(("backend",), "used only with a bundle; a checkpoint runs in torch")
    if out is None:
        _refuse_given(("overwrite",), "used only with --out")
    if data is not None:
        _refuse_given(_OF_PHANTOMS, "used only with phantoms; leave out --data, or these")
        found = find_cases(data, layout, parsed(labels))
        with open_predictor(checkpoint, base, bundle, backend, mirror) as predictor:
            cases = chosen_cases(found, folds, fold, predictor)
            on_data(predictor, cases, protocol, prompt, clicks, out, overwrite)
        return
    _refuse_given(_OF_DATA, "used only with a data set; name one with --data")
    if out is not None:  # fail before the work, not after it
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


_OF_DATA = ("layout", "labels", "folds", "fold", "protocol", "prompt", "clicks")
"""Parameters that do not apply to phantoms."""
_OF_PHANTOMS = (
    "studies", "slices", "rule", "score_threshold", "calibration", "bleed_free", "workers",
)  # fmt: skip
"""Parameters that do not apply to a data set."""


def _refuse_given(parameters: Sequence[str], why: str) -> None:
    """Refuse those of the parameters that the user gave, even at their default values."""
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
