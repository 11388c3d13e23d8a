"""``samihs-evaluate``: clicks on lesions of unseen phantom studies, or of a data set."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from samihs_runtime.errors import OutputError, UsageError, one_line_errors
from samihs_training.data.folds import held_out, read_folds
from samihs_training.data.phantom import BleedType
from samihs_training.data.studies import ClickRule, StudyCase, StudySpec, is_bleed, study_cases
from samihs_training.data.volumes import LAYOUTS, CaseFiles, Layout, find_cases
from samihs_training.data_evaluation import Protocol, evaluate_data
from samihs_training.data_report import markdown, write_data_report
from samihs_training.metrics import Estimate, best_threshold, estimate, mask_metrics
from samihs_training.predictors import Predictor, bundle_predictor, checkpoint_predictor
from samihs_training.prompts import PROMPTS
from samihs_training.tensorfile import read_safetensors

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class ClickResult:
    """One row of the result: one click."""

    study: int
    slice: int
    kind: str
    """Type of the clicked bleed; "none" for a click where nothing bleeds."""
    x: float
    y: float
    area_mm2: float
    dice: float
    iou: float
    hd95_mm: float
    volume_error_ml: float
    """Of the slice: area error times the slice's extent."""
    score: float


@dataclass(frozen=True)
class Evaluation:
    """All clicks, and what they come to."""

    model: str
    studies: int
    clicks: tuple[ClickResult, ...]
    score_threshold: float

    @property
    def on_bleeds(self) -> list[ClickResult]:
        """Clicks on a lesion."""
        return [each for each in self.clicks if each.kind != "none"]

    @property
    def elsewhere(self) -> list[ClickResult]:
        """Clicks where nothing bleeds."""
        return [each for each in self.clicks if each.kind == "none"]

    def by_type(self) -> dict[str, dict[str, Estimate]]:
        """Dice, HD95 and volume error of each type of bleeding, and of "all"."""
        kinds = [kind.name.lower() for kind in BleedType if kind is not BleedType.NONE]
        groups = {kind: [c for c in self.on_bleeds if c.kind == kind] for kind in kinds}
        groups["all"] = self.on_bleeds
        names = ("dice", "iou", "hd95_mm", "volume_error_ml")
        return {
            kind: {
                name: estimate([getattr(c, name) for c in clicks], [c.study for c in clicks])
                for name in names
            }
            for kind, clicks in groups.items()
            if clicks
        }

    def acceptance(self, threshold: float) -> dict[str, float]:
        """Shares of clicks that are answered "found", on bleeds and elsewhere."""
        return {
            "found_on_bleeds": _share(self.on_bleeds, threshold),
            "accepted_elsewhere": _share(self.elsewhere, threshold),
        }

    @property
    def suggested_threshold(self) -> float:
        """The score that best parts the two kinds of clicks here."""
        return best_threshold(
            [each.score for each in self.on_bleeds], [each.score for each in self.elsewhere]
        )

    def summary(self) -> dict[str, Any]:
        """For a JSON file or a manifest."""
        return {
            "model": self.model,
            "data": "phantom studies (synthetic) of unseen seeds, one click per lesion and slice",
            "studies": self.studies,
            "clicks_on_bleeds": len(self.on_bleeds),
            "clicks_elsewhere": len(self.elsewhere),
            "score_threshold": self.score_threshold,
            **self.acceptance(self.score_threshold),
            "suggested_threshold": self.suggested_threshold,
            "by_type": {
                kind: {name: asdict(value) for name, value in table.items()}
                for kind, table in self.by_type().items()
            },
        }


def evaluate(
    predictor: Predictor, cases: Iterable[StudyCase], *, score_threshold: float | None = None
) -> Evaluation:
    """Ask the predictor for every click of the cases."""
    rows = [row for case in cases for row in _case_results(predictor, case)]
    if not rows:
        raise UsageError("no slice to click on: ask for more studies")
    threshold = score_threshold
    if threshold is None:
        threshold = predictor.score_threshold
    if threshold is None:
        threshold = DEFAULT_THRESHOLD
    return Evaluation(predictor.name, len({each.study for each in rows}), tuple(rows), threshold)


def _case_results(predictor: Predictor, case: StudyCase) -> list[ClickResult]:
    answers = predictor.answer(case.hu, [target.click for target in case.clicks])
    spacing = (case.spacing_mm, case.spacing_mm)
    results = []
    for target, (mask, score) in zip(case.clicks, answers, strict=True):
        metrics = mask_metrics(mask, target.mask, spacing)
        results.append(
            ClickResult(
                study=case.study,
                slice=case.index,
                kind=target.kind.name.lower() if is_bleed(target) else "none",
                x=target.click[0],
                y=target.click[1],
                area_mm2=float(target.mask.sum()) * case.spacing_mm**2,
                dice=metrics.dice,
                iou=metrics.iou,
                hd95_mm=metrics.hd95_mm,
                volume_error_ml=metrics.area_error_mm2 * case.extent_mm / 1000,
                score=score,
            )
        )
    return results


def _share(clicks: list[ClickResult], threshold: float) -> float:
    if not clicks:
        return float("nan")
    return sum(each.score >= threshold for each in clicks) / len(clicks)


def result_table(evaluation: Evaluation) -> Table:
    """The table that the command prints."""
    table = Table(
        "bleed", "clicks", "Dice", "95 % interval", "HD95 mm", "no HD95", "volume error mL"
    )
    for kind, values in evaluation.by_type().items():
        dice, distance, volume = values["dice"], values["hd95_mm"], values["volume_error_ml"]
        table.add_row(
            kind,
            str(dice.count),
            f"{dice.mean:.3f}",
            f"{dice.low:.3f} to {dice.high:.3f}",
            f"{distance.mean:.2f}",
            str(distance.undefined),
            f"{volume.mean:+.3f}",
            end_section=kind == "epidural",
        )
    return table


def write_results(evaluation: Evaluation, out: Path) -> None:
    """``clicks.csv`` and ``summary.json`` in the folder ``out``, each whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ClickResult.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(each) for each in evaluation.clicks)
    summary = json.dumps(evaluation.summary(), indent=1) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in (("clicks.csv", text.getvalue()), ("summary.json", summary)):
            partial = out / f".{name}.partial"
            partial.write_text(content, encoding="utf-8")
            partial.replace(out / name)
    except OSError as error:
        raise OutputError(
            f"cannot write the results to {out}: {error.strerror or error}"
        ) from error


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Adapters (torch); with --base."
)
@click.option("--base", type=click.Path(path_type=Path), help="The base they were trained on.")
@click.option("--bundle", type=click.Path(path_type=Path), help="An exported bundle. [shipped one]")
@click.option("--backend", default="auto", show_default=True, help="Where the bundle runs.")
@click.option("--studies", default=100, show_default=True, type=click.IntRange(min=1))
@click.option("--slices", default=6, show_default=True, type=click.IntRange(min=1),
              help="Bleeding slices per study, at most.")  # fmt: skip
@click.option("--click", "rule", default="deepest", show_default=True,
              type=click.Choice(["deepest", "random"]), help="Where on the lesion.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path),
              help="Evaluate on this data set instead; needs --out.")  # fmt: skip
@click.option("--layout", type=click.Choice(LAYOUTS), help="Of --data. [recognised]")
@click.option("--folds", type=click.Path(path_type=Path),
              help="With --data: folds.json of a run, or a file of make-folds.")  # fmt: skip
@click.option("--fold", type=click.IntRange(min=0), help="Only the patients that it holds out.")
@click.option("--protocol", default="lesions", show_default=True, help="With --data.",
              type=click.Choice(["lesions", "authors"]))  # fmt: skip
@click.option("--prompt", type=click.Choice(list(PROMPTS)), help="With --data. [deepest]")
@click.option("--clicks", default=1, show_default=True, type=click.IntRange(min=1),
              help="With --data: the first, and corrective ones.")  # fmt: skip
@click.option("--score-threshold", type=float, help="Accept from this score on. [the model's own]")
@click.option("--workers", default=os.cpu_count() or 1, help="Processes that make phantoms.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for clicks.csv, summary.json.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@one_line_errors
def main(
    checkpoint: Path | None,
    base: Path | None,
    bundle: Path | None,
    backend: str,
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
    workers: int,
    out: Path | None,
    debug: bool,
) -> None:
    """Dice, HD95 and false accepts of a checkpoint or a bundle on unseen phantom studies."""
    if debug:
        os.environ["SAMIHS_DEBUG"] = "1"
    console = Console()
    if data is None and (folds is not None or fold is not None):
        raise UsageError("--folds and --fold are of a data set: give --data")
    if data is not None:
        cases = _cases(data, layout, folds, fold, checkpoint)
        with _predictor(checkpoint, base, bundle, backend) as predictor:
            _evaluate_data(predictor, cases, protocol, prompt, clicks, out)
        return
    spec = StudySpec(studies, slices, rule)
    with (
        _predictor(checkpoint, base, bundle, backend) as predictor,
        Progress(console=console) as bar,
    ):
        task = bar.add_task("studies", total=studies)
        advance = partial(bar.update, task)
        studied = study_cases(
            spec, workers=workers, progress=lambda done: advance(completed=float(done))
        )
        evaluation = evaluate(predictor, studied, score_threshold=score_threshold)
    _print(evaluation, console)
    if out is not None:
        write_results(evaluation, out)
        console.print(f"written to {out}")


def _cases(
    data: Path, layout: Layout | None, folds: Path | None, fold: int | None, checkpoint: Path | None
) -> list[CaseFiles]:
    """All cases of the data set, or those that a fold holds out."""
    cases = find_cases(data, layout)
    trained = _trained_on(checkpoint)
    if folds is None and fold is None:
        if trained:
            click.echo(
                f"note: {checkpoint} was trained on {trained['cases']} cases of a data set; of "
                "those the numbers say nothing: --folds and --fold leave them out",
                err=True,
            )
        return cases
    if folds is None or fold is None:
        raise UsageError("give --folds and --fold together: which file, and which fold of it")
    read = read_folds(folds)
    chosen = held_out(read, fold, [case.name for case in cases], folds)
    if trained.get("folds_sha256") == read.sha256 and trained["fold"] != fold:
        raise UsageError(
            f"--fold {fold}: {checkpoint} was trained on these patients; by these folds it held "
            f"out fold {trained['fold']}"
        )
    return [case for case in cases if case.name in chosen]


def _trained_on(checkpoint: Path | None) -> dict[str, Any]:
    """What a checkpoint says of the data set it was trained on; nothing where it was phantoms."""
    if checkpoint is None or not checkpoint.is_file():
        return {}  # that it is missing is said when it is loaded
    told: dict[str, Any] = read_safetensors(checkpoint)[1].get("data", {})
    return told


def _evaluate_data(
    predictor: Predictor,
    cases: list[CaseFiles],
    protocol: Protocol,
    prompt: str | None,
    clicks: int,
    out: Path | None,
) -> None:
    if out is None:
        raise UsageError("--data needs --out: the folder for its tables and pictures")
    if protocol == "authors" and (prompt not in (None, "middle") or clicks != 1):
        raise UsageError("--protocol authors is one middle pixel: leave out --prompt and --clicks")
    if (out / "summary.json").exists():  # said before the work, not after it
        raise OutputError(f"{out} already holds an evaluation: name another folder")
    evaluation = evaluate_data(
        predictor, cases, protocol=protocol, prompt=prompt or "deepest", clicks=clicks
    )
    write_data_report(evaluation, out)
    click.echo(markdown(evaluation))
    click.echo(f"written to {out}")


def _predictor(
    checkpoint: Path | None, base: Path | None, bundle: Path | None, backend: str
) -> AbstractContextManager[Predictor]:
    if checkpoint is None and base is None:
        return bundle_predictor(bundle, backend)
    if checkpoint is None or base is None or bundle is not None:
        raise UsageError("give --checkpoint and --base together, or --bundle, or none of them")
    return checkpoint_predictor(checkpoint, base)


def _print(evaluation: Evaluation, console: Console) -> None:
    console.print(
        f"{evaluation.model}: {evaluation.studies} synthetic studies, one click each lesion"
    )
    console.print(result_table(evaluation))
    rates = evaluation.acceptance(evaluation.score_threshold)
    console.print(
        f"score threshold {evaluation.score_threshold:.2f}: "
        f"{rates['found_on_bleeds']:.1%} of {len(evaluation.on_bleeds)} clicks on bleeds found, "
        f"{rates['accepted_elsewhere']:.1%} of {len(evaluation.elsewhere)} clicks elsewhere "
        f"accepted (best threshold here {evaluation.suggested_threshold:.2f})"
    )
    console.print("Synthetic CT only: says nothing about patients. Not for clinical use.")


if __name__ == "__main__":
    main()
