"""One evaluation from start to end: open a model, run it, print the results."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from samihs_runtime.errors import UsageError
from samihs_training.data.checking import absent_labels, check_labels, read_checked
from samihs_training.data.studies import StudySpec, study_slices
from samihs_training.evaluation.chosen_cases import ChosenCases
from samihs_training.evaluation.patients import Protocol, evaluate_data
from samihs_training.evaluation.phantom_results import KINDS, Evaluation
from samihs_training.evaluation.phantoms import evaluate
from samihs_training.evaluation.predictors import Predictor, bundle_predictor, checkpoint_predictor
from samihs_training.evaluation.report import check_data_report, markdown, write_data_report
from samihs_training.evaluation.score_trials import calibrated_threshold, score_trials
from samihs_training.prompts import prompt_rule


def on_phantoms(
    predictor: Predictor,
    spec: StudySpec,
    threshold: float | None,
    calibration: int,
    bleed_free: int,
    workers: int,
    console: Console,
) -> Evaluation:
    """Calibrate the threshold if there is none, then evaluate bleed-free and other studies.

    Each part has its own progress bar.
    """
    origin = "given"
    if threshold is None:
        threshold, origin = predictor.score_threshold, predictor.threshold_is
    with Progress(console=console) as bar:

        def told(what: str, total: int) -> Callable[[int], None]:
            task = bar.add_task(what, total=total)
            return lambda done: bar.update(task, completed=float(done))

        if threshold is None:
            origin = "measured"
            threshold = calibrated_threshold(
                predictor, calibration, workers=workers, progress=told("calibration", calibration)
            )
        trials = None
        if bleed_free:
            trials = score_trials(
                predictor, threshold, bleed_free, workers=workers,
                progress=told("bleed-free studies", bleed_free),
            )  # fmt: skip
        slices = study_slices(spec, workers=workers, progress=told("studies", spec.studies))
        return evaluate(
            predictor, slices, score_threshold=threshold, threshold_is=origin, trials=trials
        )


def on_data(
    predictor: Predictor,
    cases: ChosenCases,
    protocol: Protocol,
    prompt: str | None,
    clicks: int,
    out: Path | None,
    overwrite: bool = False,
) -> None:
    """Evaluate on a data set, write the report into ``out`` and print it.

    Raises:
        UsageError: options that do not go together, an unknown prompt, or a label in no mask.
        DataError: a case is faulty; found before the first is evaluated.
        OutputError: ``out`` holds an evaluation, and ``overwrite`` is false.
    """
    if out is None:
        raise UsageError("--data needs --out: the folder for its tables and pictures")
    if protocol == "authors" and (prompt not in (None, "middle") or clicks != 1):
        raise UsageError("--protocol authors is one middle pixel: leave out --prompt and --clicks")
    prompt_rule(prompt or "deepest")
    check_data_report(out, overwrite=overwrite)  # fail before the work, not after it
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        checked = bar.track(cases.files, description="checking")  # the same for a faulty case
        _check_labels(cases, [read_checked(case).seen for case in checked])
        task = bar.add_task("evaluating", total=len(cases.files))
        evaluation = evaluate_data(
            predictor, cases.files, protocol=protocol, prompt=prompt or "deepest", clicks=clicks,
            data=cases.about, progress=lambda done: bar.update(task, completed=float(done)),
        )  # fmt: skip
    write_data_report(evaluation, out, overwrite=overwrite)
    click.echo(markdown(evaluation))
    click.echo(f"written to {out}")


def _check_labels(cases: ChosenCases, seen: list[frozenset[str]]) -> None:
    """Refuse labels that are in no mask; those of a fold may lack one that others have."""
    if "fold" not in cases.about:
        check_labels(cases.files, seen)
    elif absent := absent_labels(cases.files, seen):
        click.echo(f"note: no mask of this fold has the labels {', '.join(absent)}", err=True)


def open_predictor(
    checkpoint: Path | None,
    base: Path | None,
    bundle: Path | None,
    backend: str,
    mirrored: bool = False,
) -> AbstractContextManager[Predictor]:
    """The requested model: a checkpoint with its base, or a bundle."""
    if checkpoint is None and base is None:
        if mirrored:
            raise UsageError("--mirror: a bundle is mirrored when it is exported, or not at all")
        return bundle_predictor(bundle, backend)
    if checkpoint is None or base is None or bundle is not None:
        raise UsageError("give --checkpoint and --base together, or --bundle, or none of them")
    return checkpoint_predictor(checkpoint, base, mirrored=mirrored)


def _result_table(evaluation: Evaluation) -> Table:
    """The table that the command prints."""
    table = Table(
        "bleed", "clicks", "Dice", "95 % interval", "served", "HD95 mm", "no HD95",
        "volume error mL",
    )  # fmt: skip
    for kind, values in evaluation.by_type().items():
        dice, distance, volume = values["dice"], values["hd95_mm"], values["volume_error_ml"]
        table.add_row(
            kind,
            str(dice.count),
            f"{dice.mean:.3f}",
            dice.interval(),
            f"{values['served_dice'].mean:.3f}",
            f"{distance.mean:.2f}",
            str(distance.undefined),
            f"{volume.mean:+.3f}",
            end_section=kind == KINDS[-1],
        )
    return table


def _slice_table(evaluation: Evaluation) -> Table:
    """The same table by slice: the union of the answers, against all blood."""
    table = Table("bleed", "slices", "Dice", "95 % interval", "served", "HD95 mm", "no HD95")
    for kind, values in evaluation.by_slice().items():
        dice, distance = values["dice"], values["hd95_mm"]
        table.add_row(
            kind,
            str(dice.count),
            f"{dice.mean:.3f}",
            dice.interval(),
            f"{values['served_dice'].mean:.3f}",
            f"{distance.mean:.2f}",
            str(distance.undefined),
            end_section=kind == KINDS[-1],
        )
    return table


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the results on phantoms: the tables, the score's figures, and the caveat."""
    console.print(
        f"{evaluation.model}: {evaluation.studies} synthetic studies, one click each lesion"
    )
    console.print(_result_table(evaluation))
    console.print("by slice, the answers to all its clicks united, against all its blood:")
    console.print(_slice_table(evaluation))
    console.print("served: as samihs-infer answers; a score below the threshold draws nothing")
    threshold = evaluation.score_threshold
    rates = evaluation.acceptance(threshold)
    rejects, bleeds = evaluation.wrong_rejects(threshold), evaluation.rejected_bleeds(threshold)
    found, accepted = rates["found_on_bleeds"], rates["accepted_elsewhere"]
    console.print(
        f"score threshold {threshold:.2f}: "
        f"{found:.1%} of {len(evaluation.on_bleeds)} clicks on bleeds found "
        f"({rejects['share']:.1%} of {rejects['clicks']} on bleeds of 1 mL and more are not; of "
        f"these {bleeds['bleeds']} bleeds, clicked where widest, {bleeds['share']:.1%}), "
        f"{accepted:.1%} of {len(evaluation.elsewhere)} clicks elsewhere accepted"
    )
    if evaluation.trials is not None:
        false = evaluation.trials.false_accepts
        console.print(
            f"in {evaluation.trials.studies} bleed-free studies: {false.mean:.1%} "
            f"({false.interval('.1%')}) of {evaluation.trials.clicks} clicks accepted"
        )
    console.print("Synthetic CT only: says nothing about patients. Not for clinical use.")
