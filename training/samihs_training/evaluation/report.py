"""Files of an evaluation on a data set: CSV, Markdown, JSON, a histogram, the worst slices."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from samihs_runtime.intervals import Estimate
from samihs_runtime.writers.drawing import View, ct_panel, draw_contour, draw_prompt
from samihs_runtime.writers.files import check_destination, staged_folder
from samihs_runtime.writers.lettering import INK, PAGE, write_text
from samihs_training.evaluation.patients import METRICS, WORST, Answered, DataEvaluation
from samihs_training.jsontext import json_text

STATEMENT = "Not for clinical use."
PANEL_PX = 480
FILES = ("slices.csv", "patients.csv", "summary.json", "report.md", "dice_histogram.png")
_WORST_FILES = tuple(f"worst_{rank}.png" for rank in range(1, WORST + 1))


def check_data_report(out: Path, *, overwrite: bool = False) -> None:
    """Raise the OutputError of :func:`write_data_report` before the work begins."""
    check_destination(out, (*FILES, *_WORST_FILES), overwrite=overwrite)


def write_data_report(evaluation: DataEvaluation, out: Path, *, overwrite: bool = False) -> None:
    """Write everything to the folder ``out``, all or nothing.

    File names hold no case names; tables and pictures do, as the data set's owner needs them.

    Raises:
        OutputError: ``out`` cannot be written, or holds such files already.
    """
    with staged_folder(out, (*FILES, *_WORST_FILES), overwrite=overwrite) as stage:
        _write_csv(evaluation, stage.folder)
        summary = json_text(summary_of(evaluation))
        (stage.folder / "summary.json").write_text(summary, encoding="utf-8")
        (stage.folder / "report.md").write_text(markdown(evaluation), encoding="utf-8")
        _write_histogram(evaluation, stage.folder / "dice_histogram.png")
        for name, each in zip(_WORST_FILES, evaluation.worst, strict=False):
            overlay(each).save(stage.folder / name)


def summary_of(evaluation: DataEvaluation) -> dict[str, object]:
    """Mean, SD and interval of every metric, by slice and by patient, for a JSON file."""

    def table(values: dict[str, tuple[Estimate, float]]) -> dict[str, object]:
        return {name: {**asdict(mean), "sd": sd} for name, (mean, sd) in values.items()}

    return {
        "model": evaluation.model,
        "weights": dict(evaluation.weights),
        "data": dict(evaluation.data),
        "protocol": evaluation.protocol,
        "prompt": evaluation.prompt,
        "clicks": evaluation.clicks,
        "bleed_free_cases": evaluation.bleed_free,
        "patients": evaluation.patient_count,
        "cases": len(evaluation.patients),
        "slices": len(evaluation.slices),
        "by_slice": table(evaluation.by_slice()),
        "by_patient": table(evaluation.by_patient()),
    }


def markdown(evaluation: DataEvaluation) -> str:
    """The table that a paper would show, and how to read it."""
    lines = [
        f"# {evaluation.model}",
        "",
        f"Protocol `{evaluation.protocol}`: {len(evaluation.slices)} slices with hemorrhage of "
        f"{_people(evaluation)}, {_asked(evaluation)}. "
        f"Intervals: 95 %, bootstrap over patients. {_cases(evaluation)}{STATEMENT}",
        "",
        "| metric | slices: mean ± SD (interval) | patients: mean ± SD (interval) | undefined |",
        "|---|---|---|---|",
    ]
    slices, patients = evaluation.by_slice(), evaluation.by_patient()
    for name in METRICS:
        undefined = f"{slices[name][0].undefined} / {patients[name][0].undefined}"
        cells = f"{_cell(*slices[name])} | {_cell(*patients[name])} | {undefined}"
        lines.append(f"| {name} | {cells} |")
    lines += [
        "",
        "`undefined`: slices / patients where nothing was predicted, which have no distance and "
        "are left out of its mean. `rowwise_hausdorff` is what the SAMIHS authors' code calls HD; "
        "it is not a distance between outlines and must not be compared with `hd95`.",
    ]
    return "\n".join(lines) + "\n"


def overlay(answered: Answered) -> Image.Image:
    """The slice twice: with the true outline, and with the predicted one and its prompts."""
    result = answered.result
    rows, columns = answered.truth.shape
    scale = PANEL_PX / max(rows, columns)
    view = View(0, 0, columns, rows, (scale, scale))
    plain = ct_panel(answered.hu, view)
    answer = draw_contour(plain, answered.predicted, view, width=2.0)
    for prompt in answered.prompts:
        answer = draw_prompt(answer, prompt, view, size=7.0)
    width, height = plain.size
    page = Image.new("RGB", (2 * width + 12, height + 34), PAGE)
    page.paste(draw_contour(plain, answered.truth, view, width=2.0), (0, 34))
    page.paste(answer, (width + 12, 34))
    draw = ImageDraw.Draw(page)
    write_text(draw, (8, 7), f"truth: {result.patient}, slice {result.index}", 16, INK)
    write_text(draw, (width + 20, 7), f"answer: Dice {result.scores.dice:.2f}", 16, INK)
    return page


def _asked(evaluation: DataEvaluation) -> str:
    """How the model was asked, such as ``prompt middle`` or ``prompt box, 3 clicks each``."""
    further = f", {evaluation.clicks} clicks each" if evaluation.clicks > 1 else ""
    return f"prompt {evaluation.prompt}{further}"


def _people(evaluation: DataEvaluation) -> str:
    """Such as ``5 patients``, or ``6 cases of 5 patients``."""
    cases, patients = len(evaluation.patients), evaluation.patient_count
    return f"{patients} patients" if cases == patients else f"{cases} cases of {patients} patients"


def _cases(evaluation: DataEvaluation) -> str:
    """What a reader has to know about the cases, as sentences; empty if nothing."""
    said = ""
    if evaluation.bleed_free:
        said += f"{evaluation.bleed_free} cases without hemorrhage are in none of the figures. "
    if evaluation.data.get("trained_on") == "perhaps":
        said += "**The model may have been trained on some of these patients.** "
    return said


def _cell(mean: Estimate, deviation: float) -> str:
    return f"{mean.mean:.3f} ± {deviation:.3f} ({mean.interval()})"


def _write_csv(evaluation: DataEvaluation, folder: Path) -> None:
    with (folder / "slices.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("patient", "slice", *METRICS))
        for each in evaluation.slices:
            writer.writerow((each.patient, each.index, *asdict(each.scores).values()))
    with (folder / "patients.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("patient", *METRICS))
        for name, scores in evaluation.patients.items():
            writer.writerow((name, *asdict(scores).values()))


def _write_histogram(evaluation: DataEvaluation, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, 1, 21)
    values = {
        "slices": [each.scores.dice for each in evaluation.slices],
        "patients": [each.dice for each in evaluation.patients.values()],
    }
    for (name, dice), colour in zip(values.items(), ("#4c78a8", "#f58518"), strict=True):
        weights = np.full(len(dice), 1 / len(dice))
        axes.hist(
            dice, bins.tolist(), weights=weights, alpha=0.6, color=colour,
            label=f"{name} ({len(dice)})",
        )  # fmt: skip
    axes.set(xlabel="Dice", ylabel="share", xlim=(0, 1))
    axes.legend()
    figure.savefig(path, dpi=120)
